"""Where a box and a hyperplane meet."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import (
    no_answer_unless,
    number,
    real,
    require_real,
    several,
    vector,
)
from toolkit.projection.flats import filled
from toolkit.types import Tree


@standard_promotion
def box_section(y: Tree, section: tuple[Tree, Tree, Tree, Tree]) -> Tree:
    """The nearest `u` with `lower <= u <= upper` and `<a, u> = b`: `clip(y + nu a, lower, upper)`.

    `nu` is the root of `<a, clip(y + nu a, lower, upper)> - b`, which is piecewise linear and never
    falls. Its piece is found exactly, by bisection over the sorted corners; on the piece `nu` has a
    closed form.

    Args:
      y: real floating leaves of any shapes, N entries in all.
      section: `(lower, upper, a, b)`: the first three trees like `y`, or arrays that broadcast against
        each leaf; `b` an array `[]`. Bounds may be infinite, entries of `a` negative or 0.

    Raises:
      ValueError: integer or complex leaves; `section` of another form.

    Differentiation: that of the piece, in `y` and in all four. At a corner, where an entry just reaches
      its bound, that of the piece at larger `b`.

    Cost: a sort of 2 N numbers, and `log2(2 N)` sums of N.

    Source: Kiwiel 2008, "Breakpoint searching algorithms for the continuous quadratic knapsack problem".
    """
    y = real(y)
    lower, upper, a, b = several("section", section, "lower", "upper", "a", "b")
    require_real("section", (lower, upper, a, b))
    trees = [filled("section", part, y) for part in (lower, upper, a)]
    b = number("section[3]", b)
    flat, back = vector(y, *jax.tree.leaves(trees), b)
    lower, upper, a = (vector(part)[0].astype(flat.dtype) for part in trees)
    return back(_onto_section(flat, lower, upper, a, b.astype(flat.dtype)))


def _onto_section(y: Array, lower: Array, upper: Array, a: Array, b: Array) -> Array:
    """`box_section` of vectors."""
    inputs = (y, lower, upper, a, b)
    # In units of the largest entry no square overflows or vanishes. The unit cancels: no derivative.
    unit = jax.lax.stop_gradient(tree.unit(a))
    a, b = a / unit, b / unit
    low, free, high, possible = _piece(*jax.lax.stop_gradient((y, lower, upper, a, b)))
    still = jnp.clip(y, lower, upper)  # where a is 0
    fixed = jnp.where(low, lower, jnp.where(high, upper, jnp.where(free, 0, still)))
    slope = jnp.sum(jnp.where(free, a * a, 0))
    missing = b - jnp.sum(jnp.where(a == 0, 0, a * fixed)) - jnp.sum(jnp.where(free, a * y, 0))
    nu = missing / jnp.where(slope == 0, 1, slope)  # without a free entry nothing depends on it
    nearest = jnp.where(free, y + nu * a, fixed)
    # Rounding can move a free entry past its bound by a last bit.
    nearest = tree.graft(jnp.clip(nearest, lower, upper), nearest)
    return no_answer_unless(possible, nearest, *inputs)


def _piece(
    y: Array, lower: Array, upper: Array, a: Array, b: Array
) -> tuple[Array, Array, Array, Array]:
    """Which entries are at the lower bound, free, at the upper one; and whether the set has a point."""
    moves = a != 0
    step = jnp.where(moves, a, 1)
    one, other = (lower - y) / step, (upper - y) / step
    # An entry leaves one bound as nu passes `enters`, and stays at the other from `leaves` on.
    enters = jnp.where(moves, jnp.minimum(one, other), -jnp.inf)
    leaves = jnp.where(moves, jnp.maximum(one, other), jnp.inf)
    first, last = jnp.where(a > 0, lower, upper), jnp.where(a > 0, upper, lower)

    def value(nu: Array) -> Array:
        point = jnp.where(nu <= enters, first, jnp.where(nu >= leaves, last, y + nu * a))
        return jnp.sum(jnp.where(moves, a * point, 0))

    ends = jnp.asarray([-jnp.inf, jnp.inf], y.dtype)
    corners = jnp.sort(jnp.concatenate([enters, leaves, ends]))

    def halve(_: int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = bracket
        middle = (left + right) // 2
        below = value(corners[middle]) <= b
        return jnp.where(below, middle, left), jnp.where(below, right, middle)

    count = corners.size
    start = (jnp.asarray(0), jnp.asarray(count - 1))
    left, right = jax.lax.fori_loop(0, count.bit_length(), halve, start)
    free = moves & (enters <= corners[left]) & (leaves >= corners[right])
    at_first = moves & ~free & (enters >= corners[right])
    at_last = moves & ~free & ~at_first
    low = jnp.where(a > 0, at_first, at_last)
    high = jnp.where(a > 0, at_last, at_first)
    return low, free, high, _has_point(y, lower, upper, a, b)


def _has_point(y: Array, lower: Array, upper: Array, a: Array, b: Array) -> Any:
    """Whether the box has a point with `<a, u> = b`, and nothing is NaN."""
    ends = jnp.stack([jnp.where(a == 0, 0, a * bound) for bound in (lower, upper)])
    # Ten upper bounds of 0.1 sum up to less than 1 in floating point, and yet `b = 1` is meant to be met.
    rounding = 4 * jnp.finfo(y.dtype).eps * max(y.size, 1)
    least, most = jnp.min(ends, axis=0), jnp.max(ends, axis=0)
    slack = lambda part: rounding * jnp.sum(jnp.abs(part))
    reached = (b >= jnp.sum(least) - slack(least)) & (b <= jnp.sum(most) + slack(most))
    # A bound that is infinite on the wrong side leaves no number.
    proper = (lower <= upper) & (lower < jnp.inf) & (upper > -jnp.inf)
    return reached & jnp.all(proper) & jnp.isfinite(b) & jnp.all(jnp.isfinite(y))
