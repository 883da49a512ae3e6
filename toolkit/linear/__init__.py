"""Which x solves `A x = b`? Linear solvers: callables `(matvec, b, x0=None) -> (x, LinearInfo)` on trees.

Each solver class holds the settings of one method, and all their instances are called alike.
`Diagonal` is no solver, but a preconditioner only.

Args:
  matvec: `v -> A v`, linear; a tree like `b` in, one out. A is square, of `N` entries of `b` in all.
  b: a tree of floating or complex arrays.
  x0: a tree like `b`, where an iterative solver starts; zeros when not given.

Returns: x, like `b`, and how the solve went. x is NaN where `b` or a product is not finite.

Raises:
  TypeError: `matvec` is not callable.
  ValueError: a product is not like `b`, `x0` is not, or `b` holds something else than such arrays.

Differentiation: `toolkit/derive/linearised_system.py` differentiates the equation `A x = b`, by
`jax.lax.custom_linear_solve`; the iterations themselves are not differentiated.
"""

from toolkit.linear.bicgstab import BiCGStab
from toolkit.linear.cg import CG
from toolkit.linear.choose import choose
from toolkit.linear.dense import Dense
from toolkit.linear.diagonal import Diagonal
from toolkit.linear.gmres import GMRES
from toolkit.linear.lineax import Lineax
from toolkit.linear.neumann import Neumann
from toolkit.linear.nystrom import Nystrom
from toolkit.types import LinearInfo
from toolkit.vocabulary.roles import LinearSolver, Preconditioner

__all__ = [
    "CG",
    "GMRES",
    "BiCGStab",
    "Dense",
    "Diagonal",
    "LinearInfo",
    "LinearSolver",
    "Lineax",
    "Neumann",
    "Nystrom",
    "Preconditioner",
    "choose",
]


def __dir__() -> list[str]:
    return sorted(__all__)
