"""Loops whose number of iterations depends on data: from a traced block to `tk.while_loop`.

    while change > tol:                 tk.while_loop(cond, body, [x, change]), where `cond` and `body`
        x, change = newton(x)           run the jaxprs of the test and of the block

Such a loop may run zero times. So its variables need their final types before it, and no iteration
can run on its own as in a `for` of known length.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from toolkit.control.policies.store import store
from toolkit.control.while_loop import while_loop
from toolkit.derive.refusal import refuse_reverse_mode
from toolkit.jaxprs.read import evaluate
from toolkit.plain_python import mode
from toolkit.plain_python.carried.typed_arrays import is_traced, with_type
from toolkit.plain_python.carried.undefined import Undefined, UndefinedRead
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.refusals import here, refuse
from toolkit.plain_python.reserved import PREFIX
from toolkit.plain_python.staging.carry import (
    CarriedArray,
    carried_by,
    check_integers,
    filled,
    inputs_of,
    strong,
    variables_after,
)
from toolkit.plain_python.staging.truth import scalar_truth
from toolkit.plain_python.staging.unstable import settle_or_refuse
from toolkit.plain_python.tracing.blocks import encode_entry, entered, trace
from toolkit.plain_python.tracing.integers import FARTHEST
from toolkit.plain_python.tracing.intervals import Known
from toolkit.plain_python.tracing.known_intervals import table
from toolkit.plain_python.tracing.reading import uses_input
from toolkit.plain_python.tracing.settling import SettledBlock, UnsettledTypes, settle

# By whether the loop counts its iterations, so whether it is a `for`.
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


def while_from_the_start(
    variables: Variables,
    test: Callable[[], Any],
    body: Callable[[], None],
    private: tuple[str, ...],
) -> bool:
    """Stage a `while` whose first test is true as a Python value, if its second is a JAX value.

    In `change = jnp.inf; while change > tol: x, change = step(x)` the first test is known and the
    second depends on data. Running the first iteration on its own would compile the body twice.

    False if nothing was staged, and then nothing has changed: the second test is a Python value too,
    or the first iteration has to run on its own because it changes a type or defines a variable that
    is read after the loop.
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

    # The first iteration is traced on the values themselves, only to see what the second test asks. What
    # Python knows stays known, so a test on Python values alone gives no tracer.
    trace(variables, encode_entry(variables, values, loop=True), once, as_inputs=False)
    if not asked[-1]:
        return False
    try:
        settled = settle(variables, _going_on(body), True, may_not_run=True)
    except (UnsettledTypes, UndefinedRead):
        return False
    if settled.traced.appended:
        return False
    _run_while(variables, settled, test)
    return True


def while_traced(variables: Variables, test: Callable[[], Any], body: Callable[[], None]) -> None:
    """Run a `while` whose test is a JAX value."""
    _run_while(variables, settle_or_refuse(variables, _going_on(body), True), test)


def _going_on(body: Callable[[], None]) -> Callable[[Any], None]:
    """`body`, given whether the test has let it run. Under `vmap` it runs until the last element is done."""

    def run(going: Any) -> None:
        with mode.taken(going, alone=True):
            body()

    return run


def _run_while(variables: Variables, settled: SettledBlock, test: Callable[[], Any]) -> None:
    """Run a settled `while`; its test is traced on the types at which the block settled."""

    def ask(leaves: list[Any]) -> Any:
        block = entered(variables, settled.entry, leaves, conditional=True, loop=True)
        with table(nested=True), block as (values, _):
            truth = scalar_truth(test())
            for name, before, now in zip(variables.names, values, variables.values(), strict=True):
                if now is not before:
                    raise refuse(f"the test of this `while` assigns `{name}`: do so in its body.")
            return truth

    asked = jax.make_jaxpr(ask)([leaf for one in settled.entry for leaf in one.leaves])
    run_while(
        variables,
        settled,
        lambda _, values: evaluate(asked, *values)[0],
        store(),
        None,
        item=None,
        check=lambda carried: check_integers(
            settled, carried, lambda _: [None], None, FARTHEST, asked.jaxpr
        ),
    )


def run_while(
    variables: Variables,
    settled: SettledBlock,
    going: Callable[[Any, list[Any]], Any],
    gradient: Any,
    max_steps: int | None,
    item: Callable[[Any], Any] | None,
    check: Callable[[list[CarriedArray]], dict[int, Known]],
) -> None:
    """Run a settled block as long as `going(number, inputs)`.

    Args:
      item: for a `for` its item, made from the number of the iteration; None for a `while`.
      check: refuses the loop if it would carry integers that overflow, or says where they lie after it.
    """
    inputs = inputs_of(settled)
    taken = mode.is_taken()
    # Only a loop in the body asks whether the body counts. Without one, the test is not computed again.
    asked = uses_input(settled.traced, len(settled.traced.jaxpr.in_avals) - 1)
    # A variable that the block assigns first needs no value before it, so it is not carried. After the
    # loop it may have none, since the loop may run zero times.
    carried = [one for one in carried_by(settled, inputs) if one.position is not None]
    known = check(carried)

    def unfinished(carry: tuple[Any, list[Any]]) -> Any:
        more = going(carry[0], filled(inputs, carried, carry[1]))
        return more if taken is True else jnp.logical_and(more, taken)

    def step(carry: tuple[Any, list[Any]]) -> tuple[Any, list[Any]]:
        t, values = carry
        extra = [*([item(t)] if item else []), unfinished(carry) if asked else True]
        results = evaluate(settled.traced.jaxpr, *filled(inputs, carried, values), *extra)
        return t + 1, strong(settled.traced, carried, results)

    init = (jnp.asarray(0, jax.dtypes.canonicalize_dtype(int)), [one.init for one in carried])
    end = while_loop(unfinished, step, init, max_steps=max_steps, gradient=gradient)
    final = end[1]
    if max_steps is None and isinstance(gradient, store):
        final = refuse_reverse_mode(final, here().said(_NO_REVERSE[item is not None]))
    if max_steps is not None:
        # If the bound ended the loop, Python would have gone on and got other numbers. NaN keeps anyone
        # from using these; an integer has no NaN, and takes the value at the end of its type.
        cut_off = unfinished(end)
        final = [_lost_where(cut_off, value) for value in final]
    finals = {one.output: value for one, value in zip(carried, final, strict=True)}
    variables.write(*variables_after(variables, settled, finals, known, may_not_run=True))


def _lost_where(condition: Any, value: Any) -> Any:
    if jnp.issubdtype(value.dtype, jnp.inexact):
        return jnp.where(condition, jnp.nan, value)
    if not jnp.issubdtype(value.dtype, jnp.integer):
        return value
    ends = jnp.iinfo(value.dtype)
    lost = ends.min if ends.min < 0 else ends.max
    return jnp.where(condition, with_type(lost, value), value)
