"""A `for` as a scan: from a traced block to `tk.loop`.

    for i in range(n):                  jaxpr: (i, s, item) -> (item, s + x[item])
        s = s + x[i]                    tk.loop(step, [i, s], arange(n)), where `step` runs the jaxpr

A scan needs types that one iteration does not change (`tracing.settling` finds them). If there are
none, as where `s = None` becomes an array, the first iteration runs on its own, as it would in Python,
and the rest is staged. After two such iterations a loop that still changes types is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit.control.loop import loop
from toolkit.jaxprs.read import evaluate
from toolkit.plain_python import mode
from toolkit.plain_python.carried.lists import grow, stack_chunks
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import refuse
from toolkit.plain_python.staging.branching import branch
from toolkit.plain_python.staging.carry import (
    carried_by,
    check_integers,
    filled,
    inputs_of,
    position_of,
    strong,
    variables_after,
)
from toolkit.plain_python.staging.items import ScanItems, TracedRange
from toolkit.plain_python.staging.staged_while import run_while
from toolkit.plain_python.staging.unstable import settle_or_refuse, unstable
from toolkit.plain_python.tracing.integers import FARTHEST, Items
from toolkit.plain_python.tracing.settling import SettledBlock, UnsettledTypes, settle

# How many first iterations may run on their own. `a, b = b, a + x` with `a = b = 0` needs two, until
# both are vectors.
_PEELS = 2


class UserFor(NamedTuple):
    """A `for` of the user's: its variables and its body."""

    variables: Variables
    body: Callable[[Any], None]
    leave: str | None  # the flag that says whether a `break` or `return` left the loop

    def run(self, item: Any) -> None:
        """One iteration, unless the loop was left."""
        if self.leave is None:
            return self.body(item)
        left = self.left()
        # Known only while the first iterations run on their own: then it is False.
        if not isinstance(left, jax.core.Tracer):
            return self.body(item)
        going = jnp.logical_not(left)
        return branch(self.variables, going, lambda: self.body(item), lambda: None, self.leave)

    def left(self) -> Any:
        """Whether the loop was left."""
        assert self.leave is not None
        return self.variables.reads[self.variables.names.index(self.leave)]()


def for_static(user: UserFor, items: ScanItems, gradient: Any, progress: bool) -> None:
    """Run a `for` over `items`; afterwards the variables are what Python would have left."""
    first_changes: list[str] = []
    for start in range(items.length):
        # Asked before the trace, which holds references to the lists of its own.
        aliased = _aliased(user.variables)
        try:
            settled = settle(
                user.variables, lambda x: user.run(items.item(x)), items.examples, may_not_run=False
            )
        except UnsettledTypes as unsettled:
            first_changes = first_changes or unsettled.changes
            # The first refusal names the types as the user wrote them, so its words are kept.
            if start == _PEELS:
                raise refuse(unstable(first_changes)) from None
            user.run(items.known(start))
            if user.leave and user.left() is True:
                return
            continue
        # If the body always ends in `break`, only its first iteration runs, and no scan is needed.
        if user.leave and _leaves_at_once(settled, user):
            return user.run(items.known(start))
        rest = jax.tree.map(lambda leaf: leaf[start:], items.xs) if start else items.xs  # noqa: B023
        left = items.length - start
        spans = lambda k, start=start: (
            items.spans(start, None) if k is None else items.spans(start + k, start + k + 1)
        )
        return _scan(user, settled, rest, spans, left, gradient, progress, aliased)


def _leaves_at_once(settled: SettledBlock, user: UserFor) -> bool:
    """Whether the first iteration leaves the loop for any data."""
    assert user.leave is not None
    k = user.variables.names.index(user.leave)
    exit = settled.traced.exits[k]
    return user.left() is False and exit.leaves[0] is True


def _scan(
    user: UserFor,
    settled: SettledBlock,
    xs: Any,
    spans: Items,
    length: int,
    gradient: Any,
    progress: bool,
    aliased: list[bool],
) -> None:
    """Run the settled block as a scan, and write what Python would have left in the variables."""
    variables, traced = user.variables, settled.traced
    inputs = inputs_of(settled)
    carried = carried_by(settled, inputs)
    # What the block appends is an output of each iteration, which the scan stacks.
    kept = [k for one in traced.appended for outputs in one.outputs for k in outputs]

    known = check_integers(settled, carried, spans, length, length)
    flag = position_of(settled, variables.names.index(user.leave)) if user.leave else None

    def step(carry: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
        seen = filled(inputs, carried, carry)
        results = evaluate(traced.jaxpr, *seen, *jax.tree.leaves(x))
        after = strong(traced, carried, results)
        if flag is not None:
            # A scan cannot stop, so after a `break` the iterations have to keep the old values. The
            # condition in `UserFor.run` does that for variables with a value before the loop. Those that
            # the body assigns first are undefined there, so their last values are selected here.
            after = [
                jax.lax.select(seen[flag], old, new) if one.position is None else new
                for one, old, new in zip(carried, carry, after, strict=True)
            ]
        return after, [results[k] for k in kept]

    init = [one.init for one in carried]
    final, stacked = loop(step, init, xs, length=length, gradient=gradient, progress=progress)
    finals = {one.output: value for one, value in zip(carried, final, strict=True)}
    values = variables_after(variables, settled, finals, known, may_not_run=False)
    ys = dict(zip(kept, stacked, strict=True))
    before = variables.values()
    for one in traced.appended:
        columns = [
            jax.tree.unflatten(structure, [ys[k] for k in outputs])
            for structure, outputs in zip(one.structures, one.outputs, strict=True)
        ]
        runs = stack_chunks(one.counts, columns, length)
        values[one.variable] = grow(before[one.variable], runs, aliased[one.variable])
    variables.write(*values)


def _aliased(variables: Variables) -> list[bool]:
    """For each variable, whether something else may hold the list that it holds.

    `ys.append` in the loop must show in every other name of the list; if there is none, the items may
    stay arrays.
    """
    # Two references are known: the variable's cell, and the argument of `getrefcount`. Any further one
    # is another name.
    return [sys.getrefcount(read()) > 2 if _is_list(read) else False for read in variables.reads]


def _is_list(read: Callable[[], Any]) -> bool:
    try:
        return type(read()) is list
    except NameError:
        return False


def for_traced(user: UserFor, bounds: TracedRange, gradient: Any, max_steps: int | None) -> None:
    """Run a `for` over a range whose bounds are traced: a `while_loop` that counts iterations."""
    count = bounds.length()
    longest = min(bounds.longest(), FARTHEST) if max_steps is None else max_steps

    def run(item: tuple[Any, Any]) -> None:
        index, going = item
        with mode.taken(going, alone=True):
            user.run(index)

    settled = settle_or_refuse(user.variables, run, (0, True))
    run_while(
        user.variables,
        settled,
        lambda t, _: t < count,
        gradient,
        max_steps,
        item=lambda t: bounds.start + bounds.step * t,
        check=lambda carried: check_integers(
            settled, carried, lambda _: [bounds.span(longest), None], None, longest
        ),
    )
