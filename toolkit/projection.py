"""Projections `projection(y, theta)` onto a set that theta describes, by optax.

Each serves `tk.solver.ProjectedGradient` as it stands where theta is the set's own parameter, and
inside a lambda that picks the parameter out of theta otherwise. A config names them:
`projection: simplex`. Trees in, trees of the same structure, shapes and dtypes out; a tree counts as
one vector. Differentiable in `y` and in theta.
"""

from __future__ import annotations

from optax import projections

from toolkit.types import Tree

__all__ = ["box", "l1_ball", "l2_ball", "linf_ball", "non_negative", "simplex"]


def __dir__() -> list[str]:
    return sorted(__all__)


def non_negative(y: Tree, theta: None = None) -> Tree:
    """`max(y, 0)`; theta is not used."""
    return projections.projection_non_negative(y)


def box(y: Tree, bounds: tuple[Tree, Tree]) -> Tree:
    """Entries between `bounds = (lower, upper)`: numbers, or trees like `y`."""
    return projections.projection_box(y, *bounds)


def simplex(y: Tree, total: Tree = None) -> Tree:
    """Nonnegative entries of sum `total`, a positive number or array `[]`; None is 1."""
    return projections.projection_simplex(y, 1.0 if total is None else total)


def l1_ball(y: Tree, radius: Tree = None) -> Tree:
    """Entries whose absolute values sum up to at most `radius`, an array `[]`; None is 1."""
    return projections.projection_l1_ball(y, 1.0 if radius is None else radius)


def l2_ball(y: Tree, radius: Tree = None) -> Tree:
    """A 2-norm of at most `radius`, an array `[]`; None is 1."""
    return projections.projection_l2_ball(y, 1.0 if radius is None else radius)


def linf_ball(y: Tree, radius: Tree = None) -> Tree:
    """Absolute values of at most `radius`, an array `[]`; None is 1."""
    return projections.projection_linf_ball(y, 1.0 if radius is None else radius)
