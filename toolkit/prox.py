"""Proximal maps: `prox(y, theta, step_size) = argmin_u g(u, theta) + |u - y|^2 / (2 step_size)`.

Each can be handed to `tk.solver.ProximalGradient` directly where theta is its parameter; otherwise a
lambda picks the parameter out of theta. Trees in, trees of the same structure, shapes and dtypes out.
All are differentiable in `y`, the parameters and the step size. NaN in `y` gives NaN, and so do
parameters under which g is not convex (a negative penalty, an empty set) and a negative step size.
Projections onto simplices, balls and half-spaces are in `tk.projection`.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.flatten_util import ravel_pytree

from toolkit import tree
from toolkit.array_arguments import spread
from toolkit.types import Tree

__all__ = ["affine", "box", "elastic_net", "group_lasso", "lasso"]


def __dir__() -> list[str]:
    return sorted(__all__)


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
        return jnp.where(inside, 0, shrunk).astype(leaf.dtype)

    y = _inexact(y)
    return jax.tree.map(shrink, y, spread("l1", l1, y))


def elastic_net(y: Tree, penalties: tuple[Tree, Tree], step_size: Array | float = 1.0) -> Tree:
    """`g(u) = sum l1 |u| + l2 / 2 |u|^2`, `penalties = (l1, l2)`.

    `lasso(y) / (1 + step_size l2)`; penalties, kinks and source as for `lasso`.
    """
    l1, l2 = _pair("penalties", penalties)
    y, step_size = _inexact(y), _step_size(step_size)
    return jax.tree.map(
        lambda leaf, l2: (leaf / (1 + step_size * _nonnegative("l2", l2))).astype(leaf.dtype),
        lasso(y, l1, step_size),
        spread("l2", l2, y),
    )


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
        return jnp.where(inside, 0, leaf * (1 - threshold / size)).astype(leaf.dtype)

    y = _inexact(y)
    return jax.tree.map(shrink, y, spread("weight", weight, y))


def box(y: Tree, bounds: tuple[Tree, Tree], step_size: Array | float = 1.0) -> Tree:
    """`g` is 0 where `lower <= u <= upper`, infinite elsewhere; `bounds = (lower, upper)`.

    Args:
      bounds: arrays that broadcast against each leaf of `y`, or trees with its structure;
        `-jnp.inf` and `jnp.inf` for no bound.
      step_size: without effect; a projection is its own proximal map.

    Differentiation: at a bound, that of the interior: 1 with respect to `y`, 0 to the bound.
    """

    def clip(leaf: Array, lower: Array, upper: Array) -> Array:
        upper = jnp.where(lower <= upper, upper, jnp.nan)  # an empty interval gives NaN
        clipped = jnp.where(leaf < lower, lower, jnp.where(leaf > upper, upper, leaf))
        return jnp.where(jnp.isnan(upper), jnp.nan, clipped).astype(leaf.dtype)

    y = _inexact(y)
    return jax.tree.map(clip, y, *(spread("bounds", bound, y) for bound in _pair("bounds", bounds)))


def affine(y: Tree, system: tuple[Array, Array], step_size: Array | float = 1.0) -> Tree:
    """`g` is 0 where `A u = b`, infinite elsewhere; `system = (A, b)`.

    The projection `y - A^+ (A y - b)`, by a QR factorisation of `A^T` (not by `A A^T`, which squares
    the condition number). NaN where the rows of `A` are linearly dependent to working precision.

    Args:
      system: `A` of shape `[M, N]` with `M <= N` independent rows, `b` of shape `[M]`; N is the
        number of entries of `y`, in the order of `jax.flatten_util.ravel_pytree`.
      step_size: without effect.

    Cost: a QR factorisation of `[N, M]`, `N M^2` operations.
    """
    A, b = map(jnp.asarray, _pair("system", system))
    flat, unravel = ravel_pytree(_inexact(y))
    if A.ndim != 2 or A.shape[1] != flat.size or b.shape != A.shape[:1] or len(A) > flat.size:
        raise ValueError(
            f"`system` must be (A [M, {flat.size}], b [M]) with M <= {flat.size}: got shapes "
            f"{A.shape} and {b.shape}."
        )
    Q, R = jnp.linalg.qr(A.T)
    pivots = jnp.abs(jnp.diagonal(R))
    eps = jnp.finfo(R.dtype).eps * max(A.shape)
    independent = jnp.min(pivots, initial=jnp.inf) > eps * jnp.max(pivots, initial=0)
    # With A' = Q R, `A y = b` says `R' Q' y = b`. So the nearest point has the coordinates R'^-1 b in
    # the row space (the columns of Q), and the coordinates of `flat` orthogonal to it.
    part = jax.scipy.linalg.solve_triangular(R, b, trans="T")
    nearest = flat + Q @ (part - Q.T @ flat)
    return unravel(tree.nan_unless(independent, nearest).astype(flat.dtype))


def _inexact(y: Tree) -> Tree:
    """`y` with arrays as leaves; refused where a result would be rounded to integers."""
    if not all(map(tree.is_inexact, jax.tree.leaves(y))):
        raise ValueError(
            f"`y` must have floating or complex leaves: got {tree.describe(y)}; cast it to float."
        )
    return jax.tree.map(jnp.asarray, y)


def _nonnegative(name: str, penalty: Array) -> Array:
    """`penalty`, NaN where it is negative: g is not convex there, and has no one minimum."""
    if jnp.iscomplexobj(penalty):
        raise ValueError(f"`{name}` must be real: got {tree.describe(penalty)}.")
    return jnp.where(penalty < 0, jnp.nan, penalty)


def _step_size(step_size: Any) -> Array:
    """`step_size` as an array, NaN where it is negative: the proximal map has no minimum there."""
    if not tree.is_numeric(step_size):
        raise ValueError(f"`step_size` must be a real number: got {tree.describe(step_size)}.")
    return _nonnegative("step_size", step_size)


def _pair(name: str, pair: Any) -> Any:
    """`pair`, refused unless it is a tuple or a list of two."""
    if not isinstance(pair, (tuple, list)) or len(pair) != 2:
        raise ValueError(f"`{name}` must be a pair: got {tree.describe(pair)}.")
    return pair
