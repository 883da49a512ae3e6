"""Staged loops and conditions: from blocks to `tk.loop`, `tk.while_loop` and `jax.lax.cond`.

A loop needs types that one iteration does not change. A Python number that becomes a float is
promoted and the block traced again; a variable that every iteration assigns before reading it needs
no first value; for anything else the first iteration of a `for` is run apart, which is exactly what
Python does, and the rest is staged. What is still not stable is refused.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.control.loop import loop
from toolkit.control.policies import store
from toolkit.control.while_loop import while_loop
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.jaxprs.read import evaluate
from toolkit.plain_python import integers
from toolkit.plain_python.branching import branch, data_dependent_length
from toolkit.plain_python.errors import here, refuse
from toolkit.plain_python.iterables import Staged, TracedRange
from toolkit.plain_python.jumps import PREFIX
from toolkit.plain_python.lists import grow, stack_chunks
from toolkit.plain_python.settling import Settled, Unsettled, first_assigned, settle
from toolkit.plain_python.state import (
    Absent,
    Decoder,
    Encoded,
    Growing,
    Undefined,
    Variables,
    is_python_number,
)
from toolkit.plain_python.tracing import (
    Exit,
    Traced,
    UndefinedRead,
    encode_entry,
    entered,
    is_input,
    is_traced,
    trace,
    with_type,
    zeros,
)
from toolkit.plain_python.truth import scalar_truth

_PEELS = 2  # `a, b = b, a + x` with `a = b = 0` settles after two iterations


_NO_REVERSE = {
    True: (
        "reverse mode through a loop whose length depends on data: give a static bound, "
        "`for i in tk.control.steps(range(n), max_steps=100):`."
    ),
    False: (
        "reverse mode through a `while` whose test depends on data: give a static bound, "
        "`for _ in range(100):` with `if ...: break`, or tk.while_loop(..., max_steps=100)."
    ),
}


class Loop(NamedTuple):
    """A `for` as the user wrote it."""

    variables: Variables
    body: Callable[[Any], None]
    leave: str | None  # the variable that says whether the loop was left

    def run(self, item: Any) -> None:
        """One iteration, unless the loop was left."""
        if self.leave is None:
            return self.body(item)
        left = self.left()
        if not isinstance(left, jax.core.Tracer):
            return self.body(item)
        going = jnp.logical_not(left)
        return branch(self.variables, going, lambda: self.body(item), lambda: None, self.leave)

    def left(self) -> Any:
        """Whether the loop was left."""
        assert self.leave is not None
        return self.variables.reads[self.variables.names.index(self.leave)]()


def for_static(user: Loop, items: Staged, gradient: Any, progress: bool) -> None:
    """Run a `for` over `items`; afterwards the variables are what Python would have left."""
    first_changes: list[str] = []
    for start in range(items.length):
        aliased = _aliased(user.variables)
        try:
            settled = settle(
                user.variables, lambda x: user.run(items.item(x)), items.examples, may_not_run=False
            )
        except Unsettled as unsettled:
            first_changes = first_changes or unsettled.changes
            if start == _PEELS:
                raise refuse(_unstable(first_changes)) from None
            user.run(items.known(start))
            if user.leave and user.left() is True:
                return
            continue
        if user.leave and _leaves_at_once(settled, user):
            return user.run(items.known(start))
        rest = jax.tree.map(lambda leaf: leaf[start:], items.xs) if start else items.xs  # noqa: B023
        known = lambda k, start=start: items.known(start + k)
        return _scan(user, settled, rest, known, items.length - start, gradient, progress, aliased)


def _leaves_at_once(settled: Settled, user: Loop) -> bool:
    """Whether the first iteration leaves the loop, whatever the data are."""
    assert user.leave is not None
    k = user.variables.names.index(user.leave)
    exit = settled.traced.exits[k]
    return user.left() is False and exit.leaves[0] is True


def _unstable(changes: list[str], *more: str) -> str:
    listed = [f"- {change}" for change in changes]
    lines = ["loop variable(s) change type from one iteration to the next:", *listed, *more]
    return "\n".join([*lines, *_remedies(changes)])


def _remedies(changes: list[str]) -> list[str]:
    """What to do about changes of these kinds."""
    found = []
    text = " ".join(changes)
    if "[" in text.replace("['", "") or "undefined" in text:
        found.append("Give each its final shape and dtype before the loop.")
    if any(re.search(r"(list|tuple) of \d+ before, (list|tuple) of", change) for change in changes):
        found.append(
            "A list that grows: `ys.append(v)` on a variable of its own, which is put elsewhere after "
            "the loop; or run the loop as Python with tk.control.unroll."
        )
    if "Python value" in text:
        found.append("What takes one of several values can be a number or a bool.")
    return found or ["Give each its final structure before the loop."]


class Carried(NamedTuple):
    """One array that a loop carries."""

    position: int | None  # among the inputs; None where nothing reads it before it is written
    output: int
    init: Any


def _scan(
    user: Loop,
    settled: Settled,
    xs: Any,
    known: Callable[[int], Any],
    length: int,
    gradient: Any,
    progress: bool,
    aliased: list[bool],
) -> None:
    variables, traced = user.variables, settled.traced
    inputs = _inputs(settled)
    carried = _carried(settled, inputs)
    kept = [k for one in traced.appended for outputs in one.outputs for k in outputs]

    _check_integers(settled, carried, known, length)
    flag = _position(settled, variables.names.index(user.leave)) if user.leave else None

    def step(carry: list[Any], x: Any) -> tuple[list[Any], list[Any]]:
        seen = _filled(inputs, carried, carry)
        results = evaluate(traced.jaxpr, *seen, *jax.tree.leaves(x))
        after = _strong(traced, carried, results)
        if flag is not None:
            # After a break what the body would have assigned stays what it was.
            after = [
                jax.lax.select(seen[flag], old, new) if one.position is None else new
                for one, old, new in zip(carried, carry, after, strict=True)
            ]
        return after, [results[k] for k in kept]

    init = [one.init for one in carried]
    final, stacked = loop(step, init, xs, length=length, gradient=gradient, progress=progress)
    finals = {one.output: value for one, value in zip(carried, final, strict=True)}
    values = _after(variables, settled, finals, may_not_run=False)
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


def _inputs(settled: Settled) -> list[Any]:
    """The variables before the loop, as arrays of the types that were traced."""
    return [
        with_type(leaf, aval, weak=False)
        for one, types in zip(settled.entry, settled.traced.entry_types, strict=True)
        for leaf, aval in zip(one.leaves, types, strict=True)
    ]


def _carried(settled: Settled, inputs: list[Any]) -> list[Carried]:
    """What changes from one iteration to the next."""
    carried, position = [], 0
    for one, exit in zip(settled.entry, settled.traced.exits, strict=True):
        if isinstance(one.node, Absent):
            carried += [
                Carried(None, output, zeros(aval))
                for output, aval, leaf in zip(exit.outputs, exit.types, exit.leaves, strict=True)
                if not is_python_number(leaf)
            ]
            continue
        for k, _ in enumerate(one.leaves):
            if not _stays(settled.traced, one, exit, k, position):
                carried.append(Carried(position, exit.outputs[k], inputs[position]))
            position += 1
    return carried


def _stays(traced: Traced, one: Encoded, exit: Exit, k: int, position: int) -> bool:
    """Whether the k-th leaf of a variable is after an iteration what it was before."""
    if is_input(traced, exit.outputs[k], position):
        return True
    return _same_number(one.leaves[k], exit.leaves[k])


def _same_number(a: Any, b: Any) -> bool:
    both = is_python_number(a) and is_python_number(b)
    return both and type(a) is type(b) and repr(a) == repr(b)  # -0.0 is not 0.0


def _check_integers(
    settled: Settled, carried: list[Carried], known: Callable[[int], Any] | None, length: int | None
) -> None:
    """Refuse a loop in which an integer of Python's would wrap."""
    entry = [_interval(leaf, leaf) for one in settled.entry for leaf in one.leaves]
    outputs: list[int | None] = [None] * len(entry)
    for one in carried:
        if one.position is not None:
            outputs[one.position] = one.output
    count = len(settled.traced.jaxpr.in_avals) - len(entry)  # the leaves of an item

    def items(k: int | None) -> list[Any]:
        if known is None or length is None:
            return [None] * count
        ends = (0, length - 1) if k is None else (k, k)
        return list(map(_interval, *(jax.tree.leaves(known(end)) for end in ends)))

    try:
        integers.check(settled.traced.jaxpr.jaxpr, entry, items, outputs, length)
    except integers.Overflow as overflow:
        grows = (
            "without a known bound" if overflow.reached is None else f"to {overflow.reached:.3g}"
        )
        raise refuse(
            f"a Python integer grows {grows} in this staged loop "
            f"({overflow.operation}), where {overflow.dtype} would wrap and Python would not: use "
            "floats, begin with jnp.int32(...) to take JAX's integers on purpose, or enable "
            "jax_enable_x64."
        ) from None


def _interval(a: Any, b: Any) -> Any:
    if type(a) is not int or type(b) is not int:
        return None
    return integers.Interval(min(a, b), max(a, b))


def _position(settled: Settled, variable: int) -> int:
    return sum(len(one.leaves) for one in settled.entry[:variable])


def _filled(inputs: list[Any], carried: list[Carried], carry: list[Any]) -> list[Any]:
    filled = list(inputs)
    for one, value in zip(carried, carry, strict=True):
        if one.position is not None:
            filled[one.position] = value
    return filled


def _strong(traced: Traced, carried: list[Carried], results: list[Any]) -> list[Any]:
    # A loop's carry keeps its type; what is weak is said again after the loop.
    avals = traced.jaxpr.out_avals
    return [
        tree.vary(
            with_type(results[one.output], avals[one.output], weak=False),
            tree.varying_axes(one.init),
        )
        for one in carried
    ]


def _after(
    variables: Variables, settled: Settled, finals: dict[int, Any], may_not_run: bool
) -> list[Any]:
    """The variables after a loop."""
    decoder = Decoder(fresh=False, mutated=settled.mutated)
    values = variables.values()
    for k in variables._replace(mutated=settled.mutated).order():
        name, one, exit = variables.names[k], settled.entry[k], settled.traced.exits[k]
        if isinstance(exit.node, Growing) or name in settled.watched:
            continue
        if may_not_run and isinstance(one.node, Absent):
            values[k] = _maybe_never(name, one.node.undefined, exit)
        else:
            unchanged = exit.leaves if isinstance(one.node, Absent) else one.leaves
            leaves = [
                with_type(finals[output], aval) if output in finals else leaf
                for output, aval, leaf in zip(exit.outputs, exit.types, unchanged, strict=True)
            ]
            values[k] = decoder.decode(name, exit.node, leaves)
    return values


def _maybe_never(name: str, before: Undefined, exit: Exit) -> Undefined:
    if before.reason or isinstance(exit.node, Absent):
        return before
    return Undefined(name, first_assigned())


def _aliased(variables: Variables) -> list[bool]:
    """Whether another name may hold the list that a variable holds."""
    # One reference is the variable's cell, one the argument of `getrefcount`.
    return [sys.getrefcount(read()) > 2 if _is_list(read) else False for read in variables.reads]


def _is_list(read: Callable[[], Any]) -> bool:
    try:
        return type(read()) is list
    except NameError:
        return False


def for_traced(user: Loop, bounds: TracedRange, gradient: Any, max_steps: int | None) -> None:
    """Run a `for` over a range whose bounds are traced."""
    count = bounds.length()

    def run(t: Any) -> None:
        user.run(bounds.start + bounds.step * t)

    settled = _settle_or_refuse(user.variables, run, 0)
    _while(user.variables, settled, lambda t, _: t < count, gradient, max_steps, counted=True)


def while_from_the_start(
    variables: Variables,
    test: Callable[[], Any],
    body: Callable[[], None],
    private: tuple[str, ...],
) -> bool:
    """Stage a `while` whose first test is known to be true, where the next one is a JAX value.

    False where that is not so, or where the first iteration has to run apart: it changes a type, or
    defines a variable that is not private to the body. Nothing has happened then.
    """
    values = variables.values()
    if any(
        isinstance(value, Undefined) and not name.startswith(PREFIX) and name not in private
        for name, value in zip(variables.names, values, strict=True)
    ):
        return False
    asked: list[bool] = []

    def once(_: Any) -> None:
        body()
        asked.append(is_traced(test()))

    trace(variables, encode_entry(variables, values, loop=True), once, as_inputs=False)
    if not asked[-1]:
        return False
    try:
        settled = settle(variables, lambda _: body(), None, may_not_run=True)
    except (Unsettled, UndefinedRead):
        return False
    if settled.traced.appended:
        return False
    _run_while(variables, settled, test)
    return True


def while_traced(variables: Variables, test: Callable[[], Any], body: Callable[[], None]) -> None:
    """Run a `while` whose test is a JAX value."""
    _run_while(variables, _settle_or_refuse(variables, lambda _: body(), None), test)


def _run_while(variables: Variables, settled: Settled, test: Callable[[], Any]) -> None:
    def ask(leaves: list[Any]) -> Any:
        with entered(variables, settled.entry, leaves, conditional=True) as (values, _):
            truth = scalar_truth(test())
            for name, before, now in zip(variables.names, values, variables.values(), strict=True):
                if now is not before:
                    raise refuse(f"the test of this `while` assigns `{name}`: do so in its body.")
            return truth

    asked = jax.make_jaxpr(ask)([leaf for one in settled.entry for leaf in one.leaves])
    _while(
        variables,
        settled,
        lambda _, values: evaluate(asked, *values)[0],
        store(),
        None,
        counted=False,
    )


def _while(
    variables: Variables,
    settled: Settled,
    going: Callable[[Any, list[Any]], Any],
    gradient: Any,
    max_steps: int | None,
    counted: bool,
) -> None:
    inputs = _inputs(settled)
    carried = [one for one in _carried(settled, inputs) if one.position is not None]
    _check_integers(settled, carried, None, None)

    def unfinished(carry: tuple[Any, list[Any]]) -> Any:
        return going(carry[0], _filled(inputs, carried, carry[1]))

    def step(carry: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        t, values = carry
        extra = [t] if counted else []
        results = evaluate(settled.traced.jaxpr, *_filled(inputs, carried, values), *extra)
        return t + 1, _strong(settled.traced, carried, results)

    init = (jnp.asarray(0, jax.dtypes.canonicalize_dtype(int)), [one.init for one in carried])
    end = while_loop(unfinished, step, init, max_steps=max_steps, gradient=gradient)
    final = end[1]
    if max_steps is None and isinstance(gradient, store):
        final = refuse_reverse_mode(final, here().said(_NO_REVERSE[counted]))
    if max_steps is not None:
        cut_off = unfinished(end)  # Python would have gone on: no number that it would not give
        final = [_nan_where(cut_off, value) for value in final]
    finals = {one.output: value for one, value in zip(carried, final, strict=True)}
    variables.write(*_after(variables, settled, finals, may_not_run=True))


def _nan_where(condition: Any, value: Any) -> Any:
    inexact = jnp.issubdtype(value.dtype, jnp.inexact)
    return jnp.where(condition, jnp.nan, value) if inexact else value


def _settle_or_refuse(variables: Variables, run: Callable[[Any], None], example: Any) -> Settled:
    try:
        settled = settle(variables, run, example, may_not_run=True)
    except Unsettled as unsettled:
        peel = "(no iteration can be peeled because it may run zero times)"
        raise refuse(_unstable(unsettled.changes, peel)) from None
    for one in settled.traced.appended:
        name = variables.names[one.variable]
        where = "in a loop whose length depends on data"
        raise one.place.refuse(data_dependent_length(name, where))
    return settled
