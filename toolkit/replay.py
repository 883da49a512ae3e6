"""A scan that stores only its carries and replays its steps in the reverse pass.

`jax.grad` of a scan stores every intermediate of every step. Here the forward pass keeps the carry
at the start of each segment; the reverse pass recomputes the segment's carries and pulls the
cotangent back through one step at a time. Reverse mode, and forward-over-reverse Hessians, to any
order; forward mode is refused with a message.
"""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.refusal import refuse_forward_mode
from toolkit.types import Tree

Body = Callable[[Tree, Tree, Tree], Tree]  # (carry, operands, x) -> carry


def scan(body: Body, carry: Tree, operands: Tree, xs: Tree) -> Tree:
    """The plain loop: the last carry, nothing stored."""
    return jax.lax.scan(lambda c, x: (body(c, operands, x), None), carry, xs)[0]


def replayed_scan(
    body: Body,
    replayed: Body,
    carry: Tree,
    operands: Tree,
    xs: Tree,
    segment: int = 1,
    refusal: str = "",
) -> Tree:
    """`scan`, with a reverse pass of small memory.

    Args:
      body: one step. It must close over no tracer: what is differentiated is in `operands`.
      replayed: the same step in the reverse pass; it may carry a cheaper pullback than `body`.
      carry: arrays; integer leaves are carried without derivative.
      operands: arrays that every step sees.
      xs: arrays with the number of steps as leading axis.
      segment: steps between stored carries. 1 stores every carry.
      refusal: what to say when forward mode is tried.

    Cost: memory of `steps / segment + segment` carries; the reverse pass costs one pullback of
    `replayed` a step, and with `segment > 1` one more `body`.
    """
    steps = len(jax.tree.leaves(xs)[0])
    segment = min(segment, max(steps, 1))
    whole = steps // segment * segment
    if refusal:
        carry, operands, xs = refuse_forward_mode((carry, operands, xs), refusal)
    run = _with_stored_carries(body, replayed, segment)
    carry = run(carry, operands, jax.tree.map(lambda leaf: leaf[:whole], xs))
    if whole < steps:
        rest = _with_stored_carries(body, replayed, 1)
        carry = rest(carry, operands, jax.tree.map(lambda leaf: leaf[whole:], xs))
    return carry


def _with_stored_carries(body: Body, replayed: Body, segment: int) -> Body:
    # Second derivatives pass through the forward rule itself: recomputing there keeps them small.
    body_again = jax.checkpoint(body)

    @jax.custom_vjp
    def run(carry: Tree, operands: Tree, xs: Tree) -> Tree:
        return scan(body, carry, operands, xs)

    def forward(carry: Tree, operands: Tree, xs: Tree) -> tuple[Tree, Tree]:
        (carry, operands, xs), (_, wanted, xs_wanted) = tree.values_and_wanted(
            (carry, operands, xs)
        )

        def one(c: Tree, segment_xs: Tree) -> tuple[Tree, Tree]:
            if segment == 1:
                return body_again(c, operands, segment_xs), c
            return scan(lambda s, _, x: body_again(s, operands, x), c, None, segment_xs), c

        last, stored = jax.lax.scan(one, carry, _fold(xs, segment))
        return last, (stored, tree.select(operands, wanted), tree.select(xs, xs_wanted))

    def backward(residuals: Tree, cotangent: Tree) -> tuple[Tree, Tree, Tree]:
        stored, (wanted, constant), (xs_wanted, xs_constant) = residuals
        last_bar = tree.written_out(cotangent, jax.tree.map(_zero_slice, stored))
        pull = pull_back_steps(replayed, wanted, constant)

        def one(bars: tuple[Tree, Tree], slices: tuple[Tree, Tree, Tree]) -> tuple[Tree, Tree]:
            c, x_wanted, x_constant = slices
            if segment == 1:
                return pull(bars, slices)
            xs = tree.merge(x_wanted, x_constant)
            operands = tree.merge(wanted, constant)
            _, carries = jax.lax.scan(lambda s, x: (body(s, operands, x), s), c, xs)
            return jax.lax.scan(pull, bars, (carries, x_wanted, x_constant), reverse=True)

        zeros = jax.tree.map(jnp.zeros_like, wanted)
        slices = (stored, _fold(xs_wanted, segment), _fold(xs_constant, segment))
        (carry_bar, operands_bar), xs_bar = jax.lax.scan(
            one, (last_bar, zeros), slices, reverse=True
        )
        return carry_bar, operands_bar, _unfold(xs_bar, segment)

    run.defvjp(forward, backward, symbolic_zeros=True)
    return run


def pull_back_steps(replayed: Body, wanted: Tree, constant: Tree) -> Callable[..., tuple]:
    """One reverse step, as the body of a reversed scan."""

    def pull(bars: tuple[Tree, Tree], slices: tuple[Tree, Tree, Tree]) -> tuple[Tree, Tree]:
        carry_bar, operands_bar = bars
        carry, x_wanted, x_constant = slices
        moving, fixed, _ = tree.split(carry)

        def step(moving: Tree, wanted: Tree, x_wanted: Tree) -> Tree:
            x = tree.merge(x_wanted, x_constant)
            after = replayed(tree.merge(moving, fixed), tree.merge(wanted, constant), x)
            return tree.split(after).inexact

        _, pullback = jax.vjp(step, moving, wanted, x_wanted)
        carry_bar, operand_bar, x_bar = pullback(carry_bar)
        return (carry_bar, jax.tree.map(jnp.add, operands_bar, operand_bar)), x_bar

    return pull


def _zero_slice(stored: Tree) -> Tree:
    return jnp.zeros_like(stored, shape=stored.shape[1:]) if tree.is_inexact(stored) else stored


def _fold(xs: Tree, segment: int) -> Tree:
    """[steps, ...] as [steps / segment, segment, ...]; as it is when every carry is stored."""
    if segment == 1:
        return xs
    return jax.tree.map(lambda leaf: leaf.reshape(-1, segment, *leaf.shape[1:]), xs)


def _unfold(xs: Tree, segment: int) -> Tree:
    if segment == 1:
        return xs
    return jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), xs)
