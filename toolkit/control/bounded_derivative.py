"""The derivative of a loop with a bound on its steps, at a cost that is that of the steps made.

`jax.lax.while_loop` has no reverse mode, because JAX cannot know how much to store. With a bound on
the steps it is known. The forward pass stores one carry for each segment of steps, in a buffer with
room for all segments. The reverse pass loops over the segments that the loop entered, from the last
to the first, and runs each again for its derivative.

Forward mode pushes tangents through the loop itself. The two are the directions of one linear map
(`derive/linear_map.py`), so that all orders follow.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit import tree
from toolkit.control.bounded import (
    advance,
    advance_storing,
    begin,
    count,
    of_fixed_length,
    pull_back,
)
from toolkit.control.prepared import Counted, PreparedWhile
from toolkit.derive.linear_map import Programs, apply
from toolkit.derive.symbolic_zeros import is_zero_tangent, zero_tangent
from toolkit.derive.two_modes import runs
from toolkit.types import Tree

Go = Callable[[Tree, Tree, Array], Counted]  # (closed, carry, limit)
Point = tuple[Tree, Tree, Array]  # (closed, init, steps): what the derivative of a loop depends on


class Plan(NamedTuple):
    """A loop, and how its derivative is made."""

    loop: PreparedWhile  # bare
    sizes: tuple[int, ...]  # of the segments between stored carries, from the outside in
    policy: str  # what to call the rule in a refusal
    asked: bool = True  # whether the loop's condition counts, see `bounded.goes_on`

    def of_a_segment(self) -> Plan:
        """That of a segment, which is made of the next smaller ones; the number of its steps is known."""
        segment = self.loop._replace(max_steps=math.prod(self.sizes))
        return Plan(segment, self.sizes[1:], self.policy, asked=False)


def run(loop: PreparedWhile, sizes: tuple[int, ...], policy: str) -> Counted:
    """At most `max_steps` steps, differentiable in every mode.

    Args:
      sizes: the sizes of the segments between stored carries, from the outside in, as in
        `replay.nested_scan`. Each level stores carries only: a step is made again for its pullback.
      policy: what to call the rule in a refusal.
    """
    go = _differentiable(Plan(loop.bare(), sizes, policy))
    return go(loop.closed, loop.init, count(loop.bound, loop.init))


def _differentiable(plan: Plan) -> Go:
    """A function that makes up to `limit <= max_steps` steps."""

    @jax.custom_jvp
    def go(closed: Tree, init: Tree, limit: Array) -> Counted:
        return advance(plan.loop, closed, begin(init), limit, plan.asked)

    def rule(primals: Any, tangents: Any) -> tuple[Counted, Counted]:
        (last, _), last_dot = _with_tangent(plan, primals, tangents)
        return last, last_dot

    go.defjvp(rule, symbolic_zeros=True)
    return go


def _storing(plan: Plan) -> Callable[[Tree, Tree, Array], tuple[Counted, Tree]]:
    """As `_differentiable`, and the carries that were stored on the way, without derivative."""

    @jax.custom_jvp
    def stored(closed: Tree, init: Tree, limit: Array) -> tuple[Counted, Tree]:
        return advance_storing(plan.loop, closed, init, limit, plan.sizes, plan.asked)

    def rule(primals: Any, tangents: Any) -> tuple[Any, Any]:
        made, last_dot = _with_tangent(plan, primals, tangents)
        return made, (last_dot, jax.tree.map(zero_tangent, made[1]))

    stored.defjvp(rule, symbolic_zeros=True)
    return stored


def _with_tangent(
    plan: Plan, primals: tuple[Tree, Tree, Array], tangents: tuple[Tree, Tree, Any]
) -> tuple[tuple[Counted, Tree], Counted]:
    """(the last carry, the stored ones), and the tangent of the last."""
    closed, init, _ = primals
    # A second derivative finds this rule here again. Without it, it would have to run the `while_loop` of the
    # forward pass backwards.
    last, buffer = _storing(plan._replace(loop=plan.loop.rules_used_up()))(*primals)
    last_dot = jax.tree.map(zero_tangent, last)
    moves = jax.tree.map(lambda dot: not is_zero_tangent(dot), tangents[:2])
    if any(jax.tree.leaves(moves)):
        dots, _ = tree.select(tangents[:2], moves)
        moved = _tangent(plan, moves, (closed, init, last.steps), buffer, dots)
        whole = jax.tree.map(zero_tangent, tree.split(last.carry).arrays)
        last_dot = last_dot._replace(carry=tree.merge(moved, whole))
    return (last, buffer), last_dot


def _tangent(plan: Plan, moves: Tree, point: Point, buffer: Tree, dots: Tree) -> Tree:
    """The tangent of the last carry, by a map that has both directions.

    Args:
      moves: for each leaf of (closed, init), whether it has a tangent.
      dots: these tangents.
    """
    loop, sizes = plan.loop, plan.sizes

    def moving(point: Point) -> Tree:
        return tree.select(point[:2], moves)[0]

    def end(point: Point, fixed_length: bool) -> Callable[[Tree], Tree]:
        """The last carry as a function of what moves."""
        _, fixed = tree.select(point[:2], moves)

        def run(moving: Tree) -> Tree:
            closed, init = tree.merge(moving, fixed)
            if fixed_length:
                carry = of_fixed_length(loop, closed, init, point[2], sizes)
            else:
                carry = advance(loop, closed, begin(init), point[2], asked=False).carry
            return tree.split(carry).inexact

        return run

    def pull_in_any_mode(point: Point, bars: Tree) -> Tree:
        return jax.vjp(end(point, True), moving(point))[1](bars)[0]

    def pull_stored(point: Point, buffer: Tree, bars: Tree) -> Tree:
        inner = _differentiable(plan.of_a_segment()) if sizes else _one_step(loop)
        parts = tree.select(point[0], moves[0])
        closed_bar, init_bar = pull_back(inner, sizes, buffer, point[2], parts, bars)
        return closed_bar, tree.select(init_bar, moves[1])[0]

    def store_and_pull(point: Point, bars: Tree) -> Tree:
        _, buffer = advance_storing(loop.rules_used_up(), *point, sizes, asked=False)
        return pull_stored(point, buffer, bars)

    def pushing(fixed_length: bool) -> Callable[[Point, Tree], Tree]:
        def push(point: Point, dots: Tree) -> Tree:
            return jax.jvp(end(point, fixed_length), (moving(point),), (dots,))[1]

        return _or_transpose(push, pull_in_any_mode) if loop.rules.backward else push

    push, refusal = pushing(fixed_length=False), _refusal(plan)
    forward = Programs(lambda point, _, dots: push(point, dots), push, pushing(True), refusal)
    backward = Programs(pull_stored, store_and_pull, pull_in_any_mode, refusal)
    like = tree.split(point[1]).inexact
    return apply(forward, backward, point, buffer, dots, like, loop.effects)


def _one_step(loop: PreparedWhile) -> Go:
    # Only segments that the loop entered are run again, so the condition held and is not evaluated.
    return lambda closed, carry, limit: Counted(loop.step(closed, carry), limit)


def _or_transpose(
    push: Callable[[Point, Tree], Tree], pull: Callable[[Point, Tree], Tree]
) -> Callable[[Point, Tree], Tree]:
    """`push`; the transpose of `pull` where a function in the body has a backward pass alone."""

    def transposed(point: Point, dots: Tree) -> Tree:
        like = tree.split(point[1]).inexact
        return jax.linear_transpose(lambda bars: pull(point, bars), like)(dots)[0]

    def pushed(point: Point, dots: Tree) -> Tree:
        for attempt in (push, transposed):
            if runs(attempt, point, dots):
                return attempt(point, dots)
        return push(point, dots)  # which is refused where it is run

    return pushed


def _refusal(plan: Plan) -> str:
    if not plan.loop.rules.backward:
        return ""
    return (
        f"gradient={plan.policy} has no forward mode (jvp, jacfwd) here in tk.while_loop: the body calls "
        f"{plan.loop.rules.backward}, which has a backward pass alone (jax.custom_vjp), and JAX cannot "
        "transpose that; give it a rule for both modes (jax.custom_jvp)."
    )
