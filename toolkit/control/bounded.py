"""Loops that end on a condition, and the forms in which they are run."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.control.prepared import Counted, PreparedWhile
from toolkit.derive.replay import nested_scan
from toolkit.derive.tangents import where_active
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def plain(loop: PreparedWhile, closed: Tree, init: Tree) -> Counted:
    """The loop without a rule of its own: forward mode only."""
    limit = None if loop.max_steps is None else count(loop.max_steps, init)
    return advance(loop, closed, begin(init), limit, asked=True)


def advance(
    loop: PreparedWhile, closed: Tree, start: Counted, limit: Array | None, asked: bool
) -> Counted:
    """The loop from `start` until `goes_on` says no; nothing is stored."""
    return jax.lax.while_loop(
        lambda at: goes_on(loop, closed, at, limit, asked),
        lambda at: Counted(loop.step(closed, at.carry), at.steps + 1),
        start,
    )


def goes_on(
    loop: PreparedWhile, closed: Tree, at: Counted, limit: Array | None, asked: bool
) -> Array:
    """Whether there is another step.

    `asked`: whether the condition counts. When steps are made again their number is known, and the
    condition would only cost time.
    """
    if limit is None:
        return loop.cond(closed, at.carry)
    below = at.steps < limit
    return below & loop.cond(closed, at.carry) if asked else below


def of_fixed_length(
    loop: PreparedWhile, closed: Tree, init: Tree, steps: Array, sizes: tuple[int, ...]
) -> Tree:
    """The carry after `steps` steps, in a scan over `max_steps`: any mode and order of derivative.

    Args:
      sizes: of the segments between stored carries, as in `nested_scan`; a step is made again.
    """

    def one(carry: Tree, number: Array) -> tuple[Tree, None]:
        return _step_if(number < steps, loop, closed, carry), None

    numbers = vary(jnp.arange(loop.bound, dtype=jnp.int32), varying_axes(init))
    return nested_scan(one, init, numbers, loop.bound, (*sizes, 1))[0]


def advance_storing(
    loop: PreparedWhile,
    closed: Tree,
    init: Tree,
    limit: Array,
    sizes: tuple[int, ...],
    asked: bool,
) -> tuple[Counted, Tree]:
    """The end of the loop, and the carries at the beginnings of its segments of `prod(sizes)` steps."""
    segment = math.prod(sizes)
    rows = -(-loop.bound // segment)  # rounded up

    def one(state: tuple[Tree, Counted]) -> tuple[Tree, Counted]:
        buffer, at = state
        row = at.steps // segment
        buffer = jax.tree.map(lambda rows, leaf: _put(rows, leaf, row), buffer, at.carry)
        if segment == 1:
            return buffer, Counted(loop.step(closed, at.carry), at.steps + 1)
        end = jnp.minimum(limit, (row + 1) * segment)
        return buffer, advance(loop, closed, at, end, asked)

    # The buffer begins with copies of `init`, which have the right type and, in `jax.shard_map`, the
    # right varying axes. A row that is not overwritten is never read.
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (rows, *leaf.shape)), init)
    buffer, last = jax.lax.while_loop(
        lambda state: goes_on(loop, closed, state[1], limit, asked), one, (empty, begin(init))
    )
    return last, buffer


def pull_back(
    inner: Callable[[Tree, Tree, Array], Counted],
    sizes: tuple[int, ...],
    buffer: Tree,
    steps: Array,
    closed_parts: tuple[Tree, Tree],
    carry_bar: Tree,
) -> tuple[Tree, Tree]:
    """The reverse pass over `steps` steps: the cotangents of what is closed over, and of the first carry.

    Args:
      inner: (closed, carry, limit), the steps of a segment.
      buffer: the carries at the beginnings of the segments.
      closed_parts: what is closed over and wanted, and the rest.
      carry_bar: the cotangent of the last carry.
    """
    segment, (wanted, constant) = math.prod(sizes), closed_parts

    def one(state: tuple[Array, Tree, Tree]) -> tuple[Array, Tree, Tree]:
        later, carry_bar, closed_bar = state
        row = later - 1
        moving, fixed, _ = tree.split(jax.tree.map(lambda rows: _get(rows, row), buffer))
        limit = jnp.minimum(steps - row * segment, segment)  # the last segment may be shorter

        def part(moving: Tree, wanted: Tree) -> Tree:
            carry, closed = tree.merge(moving, fixed), tree.merge(wanted, constant)
            return tree.split(inner(closed, carry, limit).carry).inexact

        _, pullback = jax.vjp(part, moving, wanted)
        carry_bar, bar = pullback(carry_bar)
        return row, carry_bar, jax.tree.map(jnp.add, closed_bar, bar)

    entered = (steps + segment - 1) // segment
    start = entered, carry_bar, jax.tree.map(jnp.zeros_like, wanted)
    _, carry_bar, closed_bar = jax.lax.while_loop(lambda state: state[0] > 0, one, start)
    return closed_bar, carry_bar


def last_steps(loop: PreparedWhile, count: int) -> Counted:
    """The loop on constants, and its last `count` steps once more with their derivative."""
    closed, init = tree.stop_gradient((loop.closed, loop.init))
    whole = plain(loop, closed, init)
    skipped = jnp.maximum(whole.steps - count, 0)
    head = advance(loop, closed, begin(init), skipped, asked=False).carry
    # A loop of at most `count` steps has all of them in the window, which then begins at `init` itself.
    start = tree.where(skipped == 0, loop.init, tree.stop_gradient(head))

    def one(carry: Tree, number: Array) -> tuple[Tree, None]:
        return _step_if(number < whole.steps, loop, loop.closed, carry), None

    # The window has `count` steps at most, so a scan will do, which has a reverse mode. Past the end of
    # the loop it keeps the carry.
    numbers = vary(jnp.arange(count, dtype=jnp.int32), varying_axes(init))
    carry, _ = jax.lax.scan(one, start, skipped + numbers)
    # The value is that of the whole loop, to the bit, and the derivative that of the last steps.
    moving, _, _ = tree.split(carry)
    value, fixed, _ = tree.split(whole.carry)
    return Counted(tree.merge(tree.graft(value, moving), fixed), whole.steps)


def begin(init: Tree) -> Counted:
    """Before the first step."""
    return Counted(init, count(0, init))


def count(steps: int, init: Tree) -> Array:
    """A number of steps, which in jax.shard_map may differ between devices as the carry does."""
    return vary(jnp.asarray(steps, jnp.int32), varying_axes(init))


def _step_if(active: Array, loop: PreparedWhile, closed: Tree, carry: Tree) -> Tree:
    """One step, or none."""
    # Under `vmap` all lanes make the step, also those that have ended. There its derivative may be infinite,
    # and times the 0 that is left of their cotangent it would be NaN.
    operands = where_active(active, (closed, carry))
    return jax.lax.cond(
        active, lambda operands, _: loop.step(*operands), lambda _, carry: carry, operands, carry
    )


def _put(rows: Array, leaf: Array, row: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(rows, leaf, row, 0)


def _get(rows: Array, row: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(rows, row, 0, keepdims=False)
