"""L-BFGS within bounds: a two-metric projection with a line search along the projected path.

Letters: `N` unknowns as one vector, `m` pairs kept. Arrays are in one type, float32 at least.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes

_DECREASE = 1e-4  # sufficient decrease: Nocedal & Wright 2006, section 3.1
_FLATTER = 0.9  # how far the slope must have risen, there
_SHORTEST = 0.1  # of an interval: where a parabola may lie that interpolates values, section 3.5
_TRIALS = 60  # a step from 1 to 1e-18 and less: then no point of the path differs from its start
# At most this part of the way between two bounds counts as near to one of them.
_NEAR = 0.1
_ROUNDING = 10  # values that differ by so many eps are equal


class Point(NamedTuple):
    """Where the objective was evaluated."""

    y: Array  # [N]
    value: Array  # []
    gradient: Array  # [N]


class Pairs(NamedTuple):
    """The last moves and what they changed in the gradient, newest last; zeros before there are any."""

    moves: Array  # [m, N]
    changes: Array  # [m, N]


class Interval(NamedTuple):
    """Line search: `best` lies at the step `low`, and no step from `high` on is good."""

    low: Array  # []
    high: Array  # []
    step: Array  # [] to be tried next
    best: Point
    trials: Array  # [] int32
    done: Array  # [] bool


def no_pairs(count: int, like: Array) -> Pairs:
    """Room for `count` pairs of vectors like `like`."""
    return Pairs(*(jnp.zeros((count, like.size), like.dtype) for _ in range(2)))


def descend(
    at: Callable[[Array], Point], here: Point, pairs: Pairs, lower: Array, upper: Array
) -> tuple[Point, Pairs, Array]:
    """One step: the next point, the pairs after it, and whether there is no descent.

    Args:
      at: the objective at a point, which it may round.
      lower, upper: `[N]`, the bounds.
    """
    direction = _direction(here, pairs, lower, upper)
    last = _search(at, here, direction, lower, upper)
    moved = last.low > 0
    pair = Pairs(last.best.y - here.y, last.best.gradient - here.gradient)
    # Where the pairs lead nowhere the next step goes along the gradient alone. If that does not either, it ends.
    kept = jax.tree.map(
        lambda all, new: jnp.where(moved, jnp.concatenate([all[1:], new[None]]), 0), pairs, pair
    )
    return last.best, kept, ~moved & ~jnp.any(pairs.moves)


def _direction(here: Point, pairs: Pairs, lower: Array, upper: Array) -> Array:
    """The quasi-Newton direction of the free entries, and the scaled gradient's of the others.

    An entry near a bound with a gradient that pushes it there must not be coupled to the others: the path would
    be bent at once, and what is left of a direction of descent may ascend (Bertsekas 1982, figure 1).
    """
    y, gradient = here.y, here.gradient
    left = jnp.maximum(_norm_left(here, lower, upper), jnp.finfo(y.dtype).tiny)
    scale = _scale(pairs, 1 / left)  # a first step of length 1
    # The length of the next step along the gradient says what is near: it vanishes at a solution.
    near = jnp.max(jnp.abs(jnp.clip(scale * gradient, y - upper, y - lower)), initial=0)
    near = jnp.minimum(near, _NEAR * (upper - lower))
    held = ((y - lower <= near) & (gradient > 0)) | ((upper - y <= near) & (gradient < 0))
    free = ~held & (lower < upper)
    masked = jax.tree.map(lambda pair: jnp.where(free, pair, 0), pairs)
    steepest = -scale * gradient
    newton = _quasi_newton(jnp.where(free, gradient, 0), masked, scale)
    direction = jnp.where(free, newton, steepest)
    downhill = jnp.vdot(gradient, direction) < 0
    return jnp.where(downhill & jnp.all(jnp.isfinite(direction)), direction, steepest)


def _curvatures(pairs: Pairs) -> tuple[Array, Array]:
    """`s'y` of each pair, and whether that is positive by more than rounding."""
    product = jnp.sum(pairs.moves * pairs.changes, -1)
    sizes = jax.vmap(tree.norm)(pairs.moves) * jax.vmap(tree.norm)(pairs.changes)
    return product, product > jnp.finfo(product.dtype).eps * sizes


def _scale(pairs: Pairs, otherwise: Array) -> Array:
    """`s'y / y'y` of the newest pair with positive curvature: the size of the inverse Hessian."""
    product, usable = _curvatures(pairs)
    newest = jnp.max(jnp.where(usable, jnp.arange(len(product)), -1))
    squares = jnp.sum(jnp.square(pairs.changes[newest]))
    found = product[newest] / jnp.where(usable[newest], squares, 1)
    return jnp.where((newest >= 0) & (squares > 0) & jnp.isfinite(found), found, otherwise)


def _quasi_newton(gradient: Array, pairs: Pairs, scale: Array) -> Array:
    """`-H gradient` of the inverse Hessian that the usable pairs make (Nocedal & Wright 2006, algorithm 7.4)."""
    product, usable = _curvatures(pairs)
    weights = jnp.where(usable, 1 / jnp.where(usable, product, 1), 0)
    rows = (*pairs, weights)

    def backwards(q: Array, row: tuple[Array, Array, Array]) -> tuple[Array, Array]:
        move, change, weight = row
        part = weight * jnp.vdot(move, q)
        return q - part * change, part

    def forwards(r: Array, row: tuple[tuple[Array, Array, Array], Array]) -> tuple[Array, None]:
        (move, change, weight), part = row
        return r + move * (part - weight * jnp.vdot(change, r)), None

    q, parts = jax.lax.scan(backwards, gradient, rows, reverse=True)
    return -jax.lax.scan(forwards, scale * q, (rows, parts))[0]


def _search(
    at: Callable[[Array], Point], here: Point, direction: Array, lower: Array, upper: Array
) -> Interval:
    """A step along `clip(y + step * direction)` of sufficient decrease, beyond which the path is flatter.

    By doubling and bisection. A point where the objective is not finite is one too far.
    """
    infinite = jnp.asarray(jnp.inf, here.y.dtype)
    start = Interval(
        jnp.zeros_like(infinite),
        infinite,
        jnp.ones_like(infinite),
        here,
        jnp.asarray(0, jnp.int32),
        jnp.asarray(False),
    )
    # Inside `jax.shard_map` a loop's carry must vary over the same device axes before and after a step.
    start = vary(start, varying_axes((here, direction, lower)))
    eps = jnp.finfo(here.y.dtype).eps
    left = _norm_left(here, lower, upper)

    def attempt(now: Interval) -> Interval:
        ahead = here.y + now.step * direction
        there = at(jnp.clip(ahead, lower, upper))
        move = there.y - here.y
        expected, slope = jnp.vdot(here.gradient, move), jnp.vdot(there.gradient, move)
        less = there.value <= here.value + _DECREASE * expected
        # Near a solution values differ by rounding alone. There the slopes tell whether the step descends (Hager &
        # Zhang 2005, equation 4.1), and the residual must become smaller: else rounding would lead anywhere.
        seen = -expected > _ROUNDING * eps * jnp.abs(here.value)
        as_good = there.value <= here.value + eps ** (2 / 3) * jnp.abs(here.value)
        falls = slope <= (2 * _DECREASE - 1) * expected
        less = (seen & less) | (as_good & falls & (_norm_left(there, lower, upper) < left))
        finite = jnp.isfinite(there.value) & jnp.all(jnp.isfinite(there.gradient))
        good = finite & less & (expected < 0)
        # What has met its bound moves no further.
        going = jnp.where((lower <= ahead) & (ahead <= upper), direction, 0)
        steep = jnp.vdot(going, there.gradient)
        flat = steep >= _FLATTER * jnp.minimum(jnp.vdot(going, here.gradient), 0)
        low, high = jnp.where(good, now.step, now.low), jnp.where(good, now.high, now.step)
        best = tree.where(good, there, now.best)
        stuck = ~good & ~jnp.any(move)
        between = low + _fraction(expected, there.value - here.value, low) * (high - low)
        step = jnp.where(jnp.isfinite(high), between, 2 * low)
        narrow = (step <= low) | (step >= high)
        done = (good & flat) | stuck | narrow
        return Interval(low, high, step, best, now.trials + 1, done)

    return jax.lax.while_loop(lambda now: ~now.done & (now.trials < _TRIALS), attempt, start)


def _norm_left(point: Point, lower: Array, upper: Array) -> Array:
    """The norm of `y - clip(y - gradient)`."""
    return tree.norm(jnp.clip(point.gradient, point.y - upper, point.y - lower))


def _fraction(expected: Array, change: Array, low: Array) -> Array:
    """Where to try next between `low` and a step too far: the minimum of a parabola, or the middle."""
    curved = 2 * (change - expected)
    middle = 1 / 2
    parabola = jnp.clip(-expected / jnp.where(curved > 0, curved, 1), _SHORTEST, middle)
    return jnp.where((low == 0) & (curved > 0) & jnp.isfinite(curved), parabola, middle)
