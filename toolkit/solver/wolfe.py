"""How far along a direction? A search for a step that descends enough and goes far enough, within bounds or not.

Letters: `N` unknowns as one vector, in one type, float32 at least. One evaluation of the objective stands in the
program, and one is made a trial: also where `jax.vmap` makes the searches of many problems one loop.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.solver.bounds import Limits

_DECREASE = 1e-4  # sufficient decrease: Nocedal & Wright 2006, section 3.1
_FLATTER = 0.9  # how far the slope must have risen, there
_SHORTEST = 0.1  # of an interval: where a parabola may lie that interpolates values, section 3.5
_TRIALS = 60  # a step from 1 to 1e-18 and less: then no point of the path differs from its start
_ROUNDING = 10  # values that differ by so many eps are equal


class Point(NamedTuple):
    """Where the objective was evaluated."""

    y: Array  # [N]
    value: Array  # []
    gradient: Array  # [N]


class Interval(NamedTuple):
    """`best` lies at the step `low`, and no step from `high` on is good."""

    low: Array  # []
    high: Array  # []
    step: Array  # [] to be tried next
    best: Point
    trials: Array  # [] int32
    done: Array  # [] bool


def search(
    at: Callable[[Array], Point], here: Point, direction: Array, box: Limits | None
) -> tuple[Point, Array]:
    """The best point on `clip(y + step * direction)`, and whether it is another one than `here`.

    There the value has fallen enough, and the path ahead is flatter (the weak conditions of Wolfe); by doubling
    and bisection. A point where the objective is not finite is one too far.
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
    start = vary(start, varying_axes((here, direction, box)))
    squares = left(here, box)

    def attempt(now: Interval) -> Interval:
        ahead = here.y + now.step * direction
        there = at(ahead if box is None else jnp.clip(ahead, *box))
        move = there.y - here.y
        expected, slope = jnp.vdot(here.gradient, move), jnp.vdot(there.gradient, move)
        good = (expected < 0) & _descends(here, there, expected, slope, squares, left(there, box))
        if box is None:
            flat = slope >= _FLATTER * expected
        else:
            # What has met its bound moves no further.
            going = jnp.where((box.lower <= ahead) & (ahead <= box.upper), direction, 0)
            before = jnp.minimum(jnp.vdot(going, here.gradient), 0)
            flat = jnp.vdot(going, there.gradient) >= _FLATTER * before
        low, high = jnp.where(good, now.step, now.low), jnp.where(good, now.high, now.step)
        best = tree.where(good, there, now.best)
        between = low + _fraction(expected, there.value - here.value, low) * (high - low)
        step = jnp.where(jnp.isfinite(high), between, 2 * low)
        # Where nothing moves any more, or along nothing but zeros of the gradient, no shorter step does better.
        stuck = ~good & (expected == 0)
        narrow = (step <= low) | (step >= high)
        return Interval(low, high, step, best, now.trials + 1, (good & flat) | stuck | narrow)

    last = jax.lax.while_loop(lambda now: ~now.done & (now.trials < _TRIALS), attempt, start)
    return last.best, last.low > 0


def left(point: Point, box: Limits | None) -> Array:
    """The squared norm of the gradient; with bounds that of `y - clip(y - gradient)`."""
    if box is None:
        return jnp.vdot(point.gradient, point.gradient)
    return jnp.sum(jnp.square(jnp.clip(point.gradient, point.y - box.upper, point.y - box.lower)))


def _descends(
    here: Point, there: Point, expected: Array, slope: Array, before: Array, after: Array
) -> Array:
    """Whether the value has fallen enough on a move along which it was `expected` to fall; and all is finite."""
    eps = jnp.finfo(here.y.dtype).eps
    less = there.value <= here.value + _DECREASE * expected
    # Near a solution values differ by rounding alone. There the slopes tell whether the step descends (Hager &
    # Zhang 2005, equation 4.1), and the residual must become smaller: else rounding would lead anywhere.
    seen = -expected > _ROUNDING * eps * jnp.abs(here.value)
    as_good = there.value <= here.value + eps ** (2 / 3) * jnp.abs(here.value)
    falls = slope <= (2 * _DECREASE - 1) * expected
    less = (seen & less) | (as_good & falls & (after < before))
    return less & jnp.isfinite(there.value) & jnp.isfinite(slope) & ~jnp.isnan(after)


def _fraction(expected: Array, change: Array, low: Array) -> Array:
    """Where to try next between `low` and a step too far: the minimum of a parabola, or the middle."""
    curved = 2 * (change - expected)
    middle = 1 / 2
    parabola = jnp.clip(-expected / jnp.where(curved > 0, curved, 1), _SHORTEST, middle)
    return jnp.where((low == 0) & (curved > 0) & jnp.isfinite(curved), parabola, middle)
