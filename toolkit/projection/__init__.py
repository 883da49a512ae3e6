"""Which point of a set is nearest? Projections `projection(y, theta)`; theta describes the set.

Each serves `tk.solver.ProjectedGradient` as it stands where theta is the set's own parameter, and
inside a lambda that picks the parameter out of theta otherwise. A config names them:
`projection: simplex`. Trees in, trees of the same structure, shapes and dtypes out; a tree counts as
one vector. An empty set and NaN give NaN, as value and as gradient.

Differentiation: in `y` and in theta, forward and reverse, of every order: by the formula that holds on
the active set of the solution, never through the search for that set. At a kink it is the derivative
of one side, which each function names where users meet it.
"""

from toolkit.projection.balls import l1_ball, l2_ball, linf_ball
from toolkit.projection.box_section import box_section
from toolkit.projection.elementwise import box, non_negative
from toolkit.projection.flats import affine, halfspace, hyperplane
from toolkit.projection.isotonic import isotonic
from toolkit.projection.simplices import simplex, sparse_simplex
from toolkit.projection.transport import birkhoff, transport

__all__ = [
    "affine",
    "birkhoff",
    "box",
    "box_section",
    "halfspace",
    "hyperplane",
    "isotonic",
    "l1_ball",
    "l2_ball",
    "linf_ball",
    "non_negative",
    "simplex",
    "sparse_simplex",
    "transport",
]


def __dir__() -> list[str]:
    return sorted(__all__)
