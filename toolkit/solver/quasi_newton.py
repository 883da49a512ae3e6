"""One step of L-BFGS: what the last pairs of moves say about the curvature, and a search along that direction.

Letters: `N` unknowns as one vector, `m` pairs kept. Arrays are in one type, float32 at least. Within bounds it is
a two-metric projection (Bertsekas 1982).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.solver.bounds import Limits
from toolkit.solver.wolfe import Point, search

# At most this part of the way between two bounds counts as near to one of them.
_NEAR = 0.1


class Pairs(NamedTuple):
    """The last moves and what they changed in the gradient."""

    moves: Array  # [m, N], the s of the papers
    changes: Array  # [m, N], their y
    weights: Array  # [m] 1 / s'y; 0 where there is no pair
    scale: Array  # [] s'y / y'y of the newest pair; 0 before there is one
    oldest: Array  # [] int32, its row; the newest is the one before, and row 0 follows the last row


def no_pairs(count: int, like: Array) -> Pairs:
    """Room for `count` pairs of vectors like `like`."""
    rows = jnp.zeros((count, like.size), like.dtype)
    none = jnp.zeros((), like.dtype)
    return Pairs(rows, rows, jnp.zeros(count, like.dtype), none, jnp.asarray(0, jnp.int32))


def descend(
    at: Callable[[Array], Point], here: Point, pairs: Pairs, box: Limits | None
) -> tuple[Point, Pairs, Array]:
    """One step: the next point, the pairs after it, and whether there is no descent.

    Args:
      at: the objective at a point, which it may round.
      box: the bounds; None for none.
    """
    direction = _free_direction(here, pairs) if box is None else _direction_in(box, here, pairs)
    new, moved = search(at, here, direction, box)
    more = _with(pairs, new.y - here.y, new.gradient - here.gradient)
    # Where the pairs lead nowhere the next step goes along the gradient alone. If that does not either, it ends.
    kept = more._replace(weights=more.weights * moved, scale=more.scale * moved)
    return new, kept, ~moved & (pairs.scale == 0)


def _with(pairs: Pairs, move: Array, change: Array) -> Pairs:
    """The pairs and one more, in place of the oldest; without it where its curvature is not positive."""
    weight, scale = _measured(move, change)
    usable, row = weight > 0, pairs.oldest

    # One row is written. A `where` of the whole memory would read and write all of it in each step.
    def put(rows: Array, new: Array) -> Array:
        return rows.at[row].set(jnp.where(usable, new, rows[row]))

    return Pairs(
        put(pairs.moves, move),
        put(pairs.changes, change),
        put(pairs.weights, weight),
        jnp.where(usable, scale, pairs.scale),
        (row + usable) % len(pairs.weights),
    )


def _measured(move: Array, change: Array) -> tuple[Array, Array]:
    """`1 / s'y` and `s'y / y'y` of a pair; zeros where the curvature `s'y` is 0, negative, or rounding alone."""
    curvature, squares = jnp.vdot(move, change), jnp.vdot(change, change)
    largest = jnp.sqrt(jnp.vdot(move, move)) * jnp.sqrt(squares)
    usable = curvature > jnp.finfo(move.dtype).eps * largest
    weight = jnp.where(usable, 1 / jnp.where(usable, curvature, 1), 0)
    scale = jnp.where(usable, curvature / jnp.where(usable, squares, 1), 0)
    return weight, scale


def _free_direction(here: Point, pairs: Pairs) -> Array:
    """The quasi-Newton direction; along the gradient, no further than 1, before there are pairs."""
    steepest = -jnp.minimum(1, 1 / tree.quick_norm(here.gradient)) * here.gradient
    newton = _newton(here.gradient, pairs, pairs.scale)
    downhill = (pairs.scale > 0) & (jnp.vdot(here.gradient, newton) < 0)
    return jnp.where(downhill, newton, steepest)


def _direction_in(box: Limits, here: Point, pairs: Pairs) -> Array:
    """The quasi-Newton direction of the free entries, and the scaled gradient's of the others.

    An entry near a bound with a gradient that pushes it there must not be coupled to the others: the path would
    be bent at once, and what is left of a direction of descent may ascend (Bertsekas 1982, figure 1).
    """
    (y, _, gradient), (lower, upper) = here, box
    norm_left = tree.norm(jnp.clip(gradient, y - upper, y - lower))
    first = 1 / jnp.maximum(norm_left, jnp.finfo(y.dtype).tiny)  # a first step of length 1
    scale = jnp.where(pairs.scale > 0, pairs.scale, first)
    # The length of the next step along the gradient says what is near: it vanishes at a solution.
    near = jnp.max(jnp.abs(jnp.clip(scale * gradient, y - upper, y - lower)), initial=0)
    near = jnp.minimum(near, _NEAR * (upper - lower))
    held = ((y - lower <= near) & (gradient > 0)) | ((upper - y <= near) & (gradient < 0))
    free = ~held & (lower < upper)
    steepest = -scale * gradient
    newton = _newton(jnp.where(free, gradient, 0), _restricted(pairs, free), scale)
    direction = jnp.where(free, newton, steepest)
    downhill = jnp.vdot(gradient, direction) < 0
    return jnp.where(downhill & jnp.all(jnp.isfinite(direction)), direction, steepest)


def _restricted(pairs: Pairs, free: Array) -> Pairs:
    """The pairs on the free entries, weighed anew."""
    moves, changes = jnp.where(free, pairs.moves, 0), jnp.where(free, pairs.changes, 0)
    weights, _ = jax.vmap(_measured)(moves, changes)
    return pairs._replace(moves=moves, changes=changes, weights=weights * (pairs.weights > 0))


def _newton(gradient: Array, pairs: Pairs, scale: Array) -> Array:
    """`-H gradient` of the inverse Hessian that the pairs make of `scale` (Nocedal & Wright 2006, algorithm 7.4)."""

    rows = jnp.arange(len(pairs.weights), dtype=jnp.int32)
    order = (pairs.oldest + rows) % len(rows)

    def backwards(q: Array, row: Array) -> tuple[Array, Array]:
        part = pairs.weights[row] * jnp.vdot(pairs.moves[row], q)
        return q - part * pairs.changes[row], part

    def forwards(r: Array, one: tuple[Array, Array]) -> tuple[Array, None]:
        row, part = one
        wanted = part - pairs.weights[row] * jnp.vdot(pairs.changes[row], r)
        return r + wanted * pairs.moves[row], None

    q, parts = jax.lax.scan(backwards, gradient, order, reverse=True)
    return -jax.lax.scan(forwards, scale * q, (order, parts))[0]
