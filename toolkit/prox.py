"""Proximal maps: `prox(y, theta, step_size) = argmin_u g(u, theta) + |u - y|^2 / (2 step_size)`.

Each can be handed to `tk.solver.ProximalGradient` directly where theta is its parameter; otherwise a
lambda picks the parameter out of theta. Trees in, trees of the same structure, shapes and dtypes out.
All are differentiable in `y`, the parameters and the step size. NaN in `y` gives NaN, and so do
parameters under which g is not convex (a negative penalty, an empty set) and a negative step size: as
value and as gradient. `from_projection` makes a proximal map of a projection of `tk.projection`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import projection, tree
from toolkit.array_arguments import spread
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import inexact, no_answer_unless, real, several
from toolkit.projection.proximal import from_projection
from toolkit.types import Tree

__all__ = [
    "affine",
    "box",
    "elastic_net",
    "from_projection",
    "group_lasso",
    "lasso",
    "non_negative_lasso",
    "non_negative_ridge",
    "ridge",
]


def __dir__() -> list[str]:
    return sorted(__all__)


@standard_promotion
def lasso(y: Tree, l1: Tree, step_size: Array | float = 1.0) -> Tree:
    """Soft thresholding: `g(u) = sum l1 |u|`.

    `sign(y) max(|y| - step_size l1, 0)`; a complex entry keeps its phase.

    Args:
      l1: nonnegative; an array that broadcasts against each leaf of `y` (one penalty, one a feature,
        one a weight), or a tree of such with the structure of `y`.

    Differentiation: at `|y| = step_size l1` the derivative is 0, that of the zero branch.

    Source: Parikh & Boyd 2014, section 6.5.2.
    """
    step_size = _step_size(step_size)

    def shrink(leaf: Array, l1: Array) -> Array:
        threshold = _nonnegative("l1", l1) * step_size
        size = jnp.abs(leaf)
        inside = size <= threshold  # false for NaN, so that NaN passes through the other branch
        if jnp.iscomplexobj(leaf):
            # Inside, `size` may be 0. The 1 in its place keeps the derivative of this branch finite,
            # which `where` would otherwise turn into 0 * inf = NaN.
            shrunk = leaf * (1 - threshold / jnp.where(inside, 1, size))
        else:
            shrunk = leaf - threshold * jnp.sign(leaf)
        return _known(jnp.where(inside, 0, shrunk), leaf, l1, step_size)

    y = inexact(y)
    return jax.tree.map(shrink, y, spread("l1", l1, y))


@standard_promotion
def non_negative_lasso(y: Tree, l1: Tree, step_size: Array | float = 1.0) -> Tree:
    """`g(u) = sum l1 u` where `u >= 0`, infinite elsewhere: `max(y - step_size l1, 0)`.

    Args:
      y: real floating leaves.
      l1: as for `lasso`.

    Differentiation: at `y = step_size l1` the derivative is 0, that of the zero branch.

    Source: Parikh & Boyd 2014, section 6.5.2.
    """
    step_size = _step_size(step_size)

    def shrink(leaf: Array, l1: Array) -> Array:
        shrunk = leaf - _nonnegative("l1", l1) * step_size
        return _known(jnp.where(shrunk <= 0, 0, shrunk), leaf, l1, step_size)

    y = real(y)
    return jax.tree.map(shrink, y, spread("l1", l1, y))


@standard_promotion
def ridge(y: Tree, l2: Tree, step_size: Array | float = 1.0) -> Tree:
    """`g(u) = sum l2 / 2 |u|^2`: `y / (1 + step_size l2)`.

    Args:
      l2: nonnegative; an array that broadcasts against each leaf of `y`, or a tree of such with its
        structure.

    Source: Parikh & Boyd 2014, section 6.1.1.
    """
    step_size = _step_size(step_size)

    def shrink(leaf: Array, l2: Array) -> Array:
        return _known(leaf / (1 + step_size * _nonnegative("l2", l2)), leaf, l2, step_size)

    y = inexact(y)
    return jax.tree.map(shrink, y, spread("l2", l2, y))


@standard_promotion
def non_negative_ridge(y: Tree, l2: Tree, step_size: Array | float = 1.0) -> Tree:
    """`g(u) = sum l2 / 2 u^2` where `u >= 0`, infinite elsewhere: `max(y, 0) / (1 + step_size l2)`.

    Args:
      y: real floating leaves.
      l2: as for `ridge`.

    Differentiation: at `y = 0` the derivative is 0, that of the zero branch.

    Source: Parikh & Boyd 2014, sections 6.1.1 and 6.2.4.
    """
    return ridge(projection.non_negative(y), l2, step_size)


@standard_promotion
def elastic_net(y: Tree, penalties: tuple[Tree, Tree], step_size: Array | float = 1.0) -> Tree:
    """`g(u) = sum l1 |u| + l2 / 2 |u|^2`, `penalties = (l1, l2)`.

    `lasso(y) / (1 + step_size l2)`; penalties, kinks and source as for `lasso`.
    """
    l1, l2 = several("penalties", penalties, "l1", "l2")
    return ridge(lasso(y, l1, step_size), l2, step_size)


@standard_promotion
def group_lasso(y: Tree, weight: Tree, step_size: Array | float = 1.0, axis: int = -1) -> Tree:
    """`g(u) = sum over groups of weight |group|_2`; the groups are the slices along `axis`.

    `y max(1 - step_size weight / |group|, 0)`, group by group.

    Args:
      weight: nonnegative; an array that broadcasts against the leaves' shape with `axis` of length
        1, or a tree of such with the structure of `y`.

    Differentiation: at `|group| = step_size weight` the derivative is 0, that of the zero branch.

    Source: Parikh & Boyd 2014, section 6.5.1.
    """

    step_size = _step_size(step_size)

    def shrink(leaf: Array, weight: Array) -> Array:
        if not -leaf.ndim <= axis < leaf.ndim:
            raise ValueError(
                f"`axis` must be one of each leaf's: got {axis} for {tree.describe(leaf)}."
            )
        threshold = _nonnegative("weight", weight) * step_size
        # Squares of entries of 1e30 or 1e-30 overflow or vanish in float32. In units of the threshold
        # the entries that matter are near 1. The unit cancels, so it needs no derivative.
        unit = jax.lax.stop_gradient(
            jnp.where((threshold > 0) & (threshold < jnp.inf), threshold, 1)
        )
        squares = jnp.sum(jnp.square(jnp.abs(leaf / unit)), axis=axis, keepdims=True)
        inside = squares <= jnp.square(threshold / unit)  # false for NaN
        size = unit * jnp.sqrt(jnp.where(inside, 1, squares))
        shrunk = jnp.where(inside, 0, leaf * (1 - threshold / size)).astype(leaf.dtype)
        known = ~jnp.any(jnp.isnan(leaf), axis, keepdims=True) & ~jnp.isnan(threshold)
        return no_answer_unless(known, shrunk, leaf, weight, step_size)

    y = inexact(y)
    return jax.tree.map(shrink, y, spread("weight", weight, y))


def box(y: Tree, bounds: tuple[Tree, Tree], step_size: Array | float = 1.0) -> Tree:
    """`g` is 0 where `lower <= u <= upper`, infinite elsewhere: `tk.projection.box(y, bounds)`.

    Args:
      bounds: `(lower, upper)`, arrays that broadcast against each leaf of `y`, or trees with its
        structure; `-jnp.inf` and `jnp.inf` for no bound.
      step_size: without effect; a projection is its own proximal map.

    Differentiation: at a bound, that of the interior: 1 with respect to `y`, 0 to the bound.
    """
    return from_projection(projection.box)(y, bounds, step_size)


def affine(y: Tree, system: tuple[Array, Array], step_size: Array | float = 1.0) -> Tree:
    """`g` is 0 where `A u = b`, infinite elsewhere: `tk.projection.affine(y, system)`.

    Args:
      system: `(A, b)`, `A` of shape `[M, N]` with `M <= N` independent rows, `b` of shape `[M]`.
      step_size: without effect.

    Cost: a QR factorisation of `[N, M]`, `N M^2` operations.
    """
    return from_projection(projection.affine)(y, system, step_size)


def _known(value: Array, leaf: Array, penalty: Array, step_size: Array) -> Array:
    """`value` in the type of `leaf`; NaN with its derivatives where any of them is NaN or negative."""
    known = ~jnp.isnan(leaf) & (penalty >= 0) & (step_size >= 0)
    return no_answer_unless(known, value.astype(leaf.dtype), leaf, penalty, step_size)


def _nonnegative(name: str, penalty: Array) -> Array:
    """`penalty`, NaN where it is negative: g is not convex there, and has no one minimum."""
    if jnp.iscomplexobj(penalty):
        raise ValueError(f"`{name}` must be real: got {tree.describe(penalty)}.")
    return jnp.where(penalty < 0, jnp.nan, penalty)


def _step_size(step_size: Any) -> Array:
    """`step_size` as an array, NaN where it is negative: the proximal map has no minimum there."""
    if not tree.is_numeric(step_size):
        raise ValueError(f"`step_size` must be a real number: got {tree.describe(step_size)}.")
    return _nonnegative("step_size", jnp.asarray(step_size))
