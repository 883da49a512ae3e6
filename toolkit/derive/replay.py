"""Scans that keep few of their carries and replay the steps between in the reverse pass.

`jax.grad` of a scan stores every intermediate value of every step. `nested_scan` stores only the carry
at the start of each segment, and runs the segment again when its derivative is wanted; a segment may
itself be made of segments. It is built on `jax.checkpoint`, so every mode and order of derivative
works. `replayed_scan` does the same for steps that have a cheaper pullback of their own; that pullback
is a `custom_vjp`, so there is no forward mode.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Integral
from typing import Annotated, Any, Literal

import jax
import jax.numpy as jnp
from annotated_types import MinLen
from jax import Array

from toolkit import tree
from toolkit.derive.refusal import refuse_forward_mode
from toolkit.derive.symbolic_zeros import instantiate_zeros, values_and_wanted
from toolkit.settings import Count
from toolkit.types import Tree

Body = Callable[[Tree, Tree, Tree], Tree]  # (carry, operands, x) -> carry
Step = Callable[[Tree, Tree], tuple[Tree, Tree]]  # (carry, x) -> (carry, y)
Ticker = Callable[[Array, int], None]  # told how many steps are done, and how many of them since
Segments = Count | Literal["sqrt"] | Annotated[tuple[Count, ...], MinLen(1)]


def scan(body: Body, carry: Tree, operands: Tree, xs: Tree) -> Tree:
    """The plain loop: the last carry, nothing stored."""
    return jax.lax.scan(lambda c, x: (body(c, operands, x), None), carry, xs)[0]


def ticked_scan(
    step: Step, carry: Tree, xs: Tree, length: int, ticker: Ticker | None = None, unroll: int = 1
) -> tuple[Tree, Tree]:
    """`jax.lax.scan` that tells `ticker` of each step that is done."""
    if ticker is None:
        return jax.lax.scan(step, carry, xs, length, unroll=unroll)

    def told(carry: Tree, numbered: tuple[Array, Tree]) -> tuple[Tree, Tree]:
        number, x = numbered
        result = step(carry, x)
        ticker(number + 1, 1)
        return result

    return jax.lax.scan(told, carry, (jnp.arange(length), xs), length, unroll=unroll)


def written_out(step: Step, carry: Tree, xs: Tree, length: int) -> tuple[Tree, Tree]:
    """`jax.lax.scan` as a Python loop: the step stands `length` times in the program."""
    ys = []
    for i in range(length):
        carry, y = step(carry, jax.tree.map(lambda leaf, i=i: leaf[i], xs))
        ys.append(y)
    return carry, jax.tree.map(lambda *leaves: jnp.stack(leaves), *ys)


def nested_scan(
    step: Step,
    carry: Tree,
    xs: Tree,
    length: int,
    sizes: tuple[int, ...] = (),
    ticker: Ticker | None = None,
) -> tuple[Tree, Tree]:
    """`jax.lax.scan(step, carry, xs, length)`, stored by segments.

    Args:
      sizes: how a segment is made, from the outside in. (10, 5) stores the carry every 50 steps; a
        segment is run again as 10 segments of 5 steps, of which each keeps all that it leaves for
        its derivative. (): no segments. Steps that fill no segment form smaller ones at the end.
      ticker: told how many steps are done; it stands outside of what is run again.

    Cost: memory of `length / prod(sizes) + sum(sizes[:-1])` carries and of what `sizes[-1]` steps
    leave; one more run of the steps for each size.
    """
    segment = math.prod(sizes)
    count = length // segment
    if not sizes:
        return ticked_scan(step, carry, xs, length, ticker)
    # A single segment would be run again as a whole, and store nothing less: go on one level further in.
    if count == 0 or length == segment:
        return nested_scan(step, carry, xs, length, sizes[1:], ticker)
    # The barrier of `prevent_cse` keeps XLA from merging the second run of a segment with the first,
    # which would store everything after all. Inside a scan XLA cannot do so, and a barrier only costs.
    again = jax.checkpoint(
        lambda c, x: nested_scan(step, c, x, segment, sizes[1:]), prevent_cse=False
    )
    whole = count * segment
    folded = jax.tree.map(lambda leaf: leaf[:whole].reshape(count, segment, *leaf.shape[1:]), xs)
    carry, ys = ticked_scan(again, carry, folded, count, after(ticker, 0, segment))
    ys = jax.tree.map(lambda leaf: leaf.reshape(whole, *leaf.shape[2:]), ys)
    if whole == length:
        return carry, ys
    rest = jax.tree.map(lambda leaf: leaf[whole:], xs)
    ticker = after(ticker, whole)
    carry, last = nested_scan(step, carry, rest, length - whole, sizes[1:], ticker)
    return carry, jax.tree.map(lambda *parts: jnp.concatenate(parts), ys, last)


def after(ticker: Ticker | None, done: int, size: int = 1) -> Ticker | None:
    """The ticker of a part that starts after `done` steps, and each of whose steps counts as `size`."""
    if ticker is None:
        return None
    return lambda steps, since: ticker(done + size * steps, size * since)


def segment_sizes(how: Segments, length: int) -> tuple[int, ...]:
    """The `sizes` of `nested_scan`.

    Raises:
      ValueError: `how` is a tuple, and its product falls short of the length.
    """
    if how == "sqrt":
        return (max(1, math.isqrt(length)),)
    if not isinstance(how, tuple):
        return (int(how),)  # NumPy's integers too
    segment = math.prod(how[1:])
    if length // segment > how[0]:
        better = (-(-length // segment), *how[1:])
        raise ValueError(
            f"the sizes of a checkpoint must multiply to the number of steps, {length}: got {how}, "
            f"which is {segment * how[0]}; use {better}."
        )
    return tuple(map(int, how[1:]))


def require_segments(name: str, how: Any, others: str = "") -> None:
    """Refuse what does not say where to store a carry; `others`: what a message offers besides."""
    sizes = how if isinstance(how, tuple) else (how,)
    whole = all(isinstance(size, Integral) and not isinstance(size, bool) for size in sizes)
    if how != "sqrt" and not (sizes and whole and min(sizes) >= 1):
        raise ValueError(
            f"`{name}` must be {others}'sqrt', or a positive int (steps between stored carries), "
            f"or a tuple of positive ints (sizes of the levels, from the outside in): got {how!r}."
        )


def replayed_scan(
    body: Body,
    replayed: Body,
    carry: Tree,
    operands: Tree,
    xs: Tree,
    sizes: tuple[int, ...] = (),
    refusal: str = "",
    in_full: bool = False,
    own_rule: str = "",
) -> Tree:
    """`scan`, with a reverse pass of small memory.

    Reverse mode, and forward-over-reverse Hessians, to any order; forward mode is refused.

    Args:
      body: one step. It must close over no tracer: what is differentiated is in `operands`.
      replayed: the same step in the reverse pass; it may carry a cheaper pullback than `body`.
      carry: arrays; integer leaves are carried without derivative.
      operands: arrays that every step sees.
      xs: arrays with the number of steps as leading axis.
      sizes: of the segments between stored carries, as in `nested_scan`; () stores every carry.
      refusal: what to say when forward mode is tried.
      in_full: whether the steps are written out one after another; then without `sizes`.
      own_rule: a function in `body` that has a derivative rule of its own; "" without any.

    Cost: memory of `steps / prod(sizes) + sum(sizes)` carries; the reverse pass costs one pullback
    of `replayed` a step, and one more `body` for each size.
    """
    steps = len(jax.tree.leaves(xs)[0])
    if refusal:
        carry, operands, xs = refuse_forward_mode((carry, operands, xs), refusal)
    one = _with_pullback_of(body, replayed, own_rule)
    step = lambda c, x: (one(c, operands, x), None)
    if in_full:
        return written_out(step, carry, xs, steps)[0]
    return nested_scan(step, carry, xs, steps, sizes)[0]


def _with_pullback_of(body: Body, replayed: Body, own_rule: str) -> Body:
    """`body`, stored by its arguments alone and differentiated as `replayed`."""
    # A second derivative differentiates the forward rule, and would store what each step computes on
    # the way. With `checkpoint` it stores the arguments of a step, and computes them again.
    body_again = jax.checkpoint(body)

    @jax.custom_vjp
    def step(carry: Tree, operands: Tree, x: Tree) -> Tree:
        return body(carry, operands, x)

    def forward(*primals: Tree) -> tuple[Tree, Tree]:
        values, is_wanted = values_and_wanted(primals)
        wanted, constant = tree.select(values, is_wanted)
        if own_rule:
            # In plain reverse mode a function with a rule of its own is run by the forward part of its rule, and
            # a second derivative differentiates that part. Run without `jax.vjp` the function would be
            # differentiated by its rule instead, which may give another second derivative.
            run = lambda wanted: tree.split(body_again(*tree.merge(wanted, constant)))[:2]
            (moving, whole), _ = jax.vjp(run, wanted)
            return tree.merge(moving, whole), (wanted, constant)
        return body_again(*values), (wanted, constant)

    def backward(residuals: Tree, cotangent: Tree) -> tuple[Tree, Tree, Tree]:
        wanted, constant = residuals

        def differentiated(wanted: Tree) -> Tree:
            return tree.split(replayed(*tree.merge(wanted, constant))).inexact

        like, pullback = jax.vjp(differentiated, wanted)
        return pullback(instantiate_zeros(cotangent, like))[0]

    step.defvjp(forward, backward, symbolic_zeros=True)
    return step
