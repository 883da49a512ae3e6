"""Loops that end on a condition, with a reverse mode whose cost is that of the steps made.

`jax.lax.while_loop` has no reverse mode, because JAX cannot know how much to store. With a bound on
the steps it is known. The forward pass stores one carry for each segment of steps, in a buffer with
room for all segments. The reverse pass loops over the segments that the loop entered, from the last
to the first, and runs each again for its derivative.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.control.prepared import Counted, PreparedWhile
from toolkit.derive.refusal import refuse_forward_mode, refuse_reverse_mode
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree

Go = Callable[[Tree, Tree, Array], Counted]  # (closed, carry, limit)


def plain(loop: PreparedWhile, closed: Tree, init: Tree) -> Counted:
    """The loop without a rule of its own: forward mode only."""
    limit = None if loop.max_steps is None else _limit(loop.max_steps, init)
    return _advance(loop, closed, _begin(init), limit, asked=True)


def run(loop: PreparedWhile, sizes: tuple[int, ...], policy: str) -> Counted:
    """At most `max_steps` steps, differentiable in reverse mode.

    Args:
      sizes: the sizes of the segments between stored carries, from the outside in, as in
        `replay.nested_scan`. Each level stores carries only: a step is made again for its pullback.
      policy: what to call the rule in a refusal.
    """
    no_forward_mode = (
        f"gradient={policy} has no forward mode (jvp, jacfwd) in tk.while_loop: leave `max_steps` "
        "out, or use gradient=tk.control.forward()."
    )
    closed, init = refuse_forward_mode((loop.closed, loop.init), no_forward_mode)
    go = _stored(loop.bare(), loop.bound, sizes, asked=True)
    return go(closed, init, _limit(loop.bound, init))


def last_steps(loop: PreparedWhile, count: int) -> Counted:
    """The loop on constants, and its last `count` steps once more with their derivative."""
    closed, init = tree.stop_gradient((loop.closed, loop.init))
    whole = plain(loop, closed, init)
    skipped = jnp.maximum(whole.steps - count, 0)
    head = _advance(loop, closed, _begin(init), skipped, asked=False).carry
    # A loop of at most `count` steps has all of them in the window, which then begins at `init` itself.
    start = tree.where(skipped == 0, loop.init, tree.stop_gradient(head))

    def one(carry: Tree, number: Array) -> tuple[Tree, None]:
        active = number < whole.steps
        return jax.lax.cond(active, loop.step, lambda _, carry: carry, loop.closed, carry), None

    # The window has `count` steps at most, so a scan will do, which has a reverse mode. Past the end of
    # the loop it keeps the carry.
    numbers = vary(jnp.arange(count, dtype=jnp.int32), varying_axes(init))
    carry, _ = jax.lax.scan(one, start, skipped + numbers)
    # The value is that of the whole loop, to the bit, and the derivative that of the last steps.
    moving, _, _ = tree.split(carry)
    value, fixed, _ = tree.split(whole.carry)
    return Counted(tree.merge(tree.graft(value, moving), fixed), whole.steps)


def _begin(init: Tree) -> Counted:
    return Counted(init, _limit(0, init))


def _limit(steps: int, init: Tree) -> Array:
    """A number of steps, which in jax.shard_map may differ between devices as the carry does."""
    return vary(jnp.asarray(steps, jnp.int32), varying_axes(init))


def _goes_on(
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


def _advance(
    loop: PreparedWhile, closed: Tree, start: Counted, limit: Array | None, asked: bool
) -> Counted:
    """The loop from `start` until `_goes_on` says no; nothing is stored."""
    return jax.lax.while_loop(
        lambda at: _goes_on(loop, closed, at, limit, asked),
        lambda at: Counted(loop.step(closed, at.carry), at.steps + 1),
        start,
    )


def _stored(loop: PreparedWhile, capacity: int, sizes: tuple[int, ...], asked: bool) -> Go:
    """A function that makes up to `limit <= capacity` steps, with a reverse pass of its own.

    Its forward pass stores one carry every `prod(sizes)` steps.
    """
    segment = math.prod(sizes)
    rows = -(-capacity // segment)  # rounded up

    @jax.custom_vjp
    def go(closed: Tree, init: Tree, limit: Array) -> Counted:
        return _advance(loop, closed, _begin(init), limit, asked)

    def forward(*primals: Tree) -> tuple[Counted, Tree]:
        (closed, init, limit), wanted = values_and_wanted(primals)
        buffer, last = _advance_storing(loop, closed, init, limit, Segments(segment, rows), asked)
        kept = (buffer, tree.select(closed, wanted[0]))
        # A gradient of this gradient would have to run these loops backwards, and JAX's error would name
        # no remedy.
        last, kept = refuse_reverse_mode((last, kept), _NO_REVERSE_OVER_REVERSE)
        return last, (*kept, last.steps)

    def backward(residuals: Tree, cotangent: Counted) -> tuple[Tree, Tree, None]:
        buffer, closed_parts, steps = residuals
        like = jax.tree.map(lambda rows: jax.lax.index_in_dim(rows, 0, 0, False), buffer)
        # A segment has a reverse pass of the same kind, with the next smaller segments.
        inner = _stored(loop, segment, sizes[1:], asked=False) if sizes else _one_step(loop)
        carry_bar = instantiate_zeros(cotangent.carry, like)
        bars = _pull_back(inner, segment, buffer, steps, closed_parts, carry_bar)
        carry_bar, closed_bar = refuse_reverse_mode(bars, _NO_REVERSE_OVER_REVERSE)
        return closed_bar, carry_bar, None

    go.defvjp(forward, backward, symbolic_zeros=True)
    return go


class Segments(NamedTuple):
    """How often a carry is stored."""

    steps: int  # in a segment, which begins with a stored carry
    rows: int  # room for so many


def _advance_storing(
    loop: PreparedWhile, closed: Tree, init: Tree, limit: Array, segments: Segments, asked: bool
) -> tuple[Tree, Counted]:
    """The carries at the beginnings of the segments, and the end of the loop."""

    def one(state: tuple[Tree, Counted]) -> tuple[Tree, Counted]:
        buffer, at = state
        row = at.steps // segments.steps
        buffer = jax.tree.map(lambda rows, leaf: _put(rows, leaf, row), buffer, at.carry)
        if segments.steps == 1:
            return buffer, Counted(loop.step(closed, at.carry), at.steps + 1)
        end = jnp.minimum(limit, (row + 1) * segments.steps)
        return buffer, _advance(loop, closed, at, end, asked)

    # The buffer begins with copies of `init`, which have the right type and, in `jax.shard_map`, the
    # right varying axes. A row that is not overwritten is never read.
    empty = jax.tree.map(lambda leaf: jnp.broadcast_to(leaf, (segments.rows, *leaf.shape)), init)
    return jax.lax.while_loop(
        lambda state: _goes_on(loop, closed, state[1], limit, asked), one, (empty, _begin(init))
    )


def _pull_back(
    inner: Go,
    segment: int,
    buffer: Tree,
    steps: Array,
    closed_parts: tuple[Tree, Tree],
    carry_bar: Tree,
) -> tuple[Tree, Tree]:
    """The cotangents of the first carry and of what is closed over, segment by segment from the last.

    Args:
      inner: makes the steps of a segment once more, differentiably.
      segment: its steps.
      buffer: the carries at the beginnings of the segments.
      steps: made by the whole loop.
      closed_parts: what is closed over: the leaves that are differentiated, and the others.
      carry_bar: the cotangent of the last carry.
    """
    wanted, constant = closed_parts

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
    state = entered, carry_bar, jax.tree.map(jnp.zeros_like, wanted)
    _, carry_bar, closed_bar = jax.lax.while_loop(lambda state: state[0] > 0, one, state)
    return carry_bar, closed_bar


_NO_REVERSE_OVER_REVERSE = (
    "tk.while_loop has no reverse mode over its reverse pass: use forward mode over it "
    "(jax.hessian, or jax.jvp of jax.grad), or tk.loop."
)


def _one_step(loop: PreparedWhile) -> Go:
    # Only segments that the loop entered are run again, so the one step is made without asking.
    return lambda closed, carry, limit: Counted(loop.step(closed, carry), limit)


def _put(rows: Array, leaf: Array, row: Array) -> Array:
    return jax.lax.dynamic_update_index_in_dim(rows, leaf, row, 0)


def _get(rows: Array, row: Array) -> Array:
    return jax.lax.dynamic_index_in_dim(rows, row, 0, keepdims=False)
