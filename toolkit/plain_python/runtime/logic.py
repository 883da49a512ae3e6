"""`not`, `and`, `or`, chained comparisons and conditional expressions on values that may be traced.

`flow.and_(a, lambda: b)` is `a and b`: Python's own if the truth of `a` is known, `a & b` for traced
booleans, and a `cond` for other traced values.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import tree
from toolkit.jaxprs.read import evaluate
from toolkit.plain_python import mode
from toolkit.plain_python.carried.surroundings import NOTHING, Surroundings
from toolkit.plain_python.carried.typed_arrays import is_traced
from toolkit.plain_python.carried.undefined import Undefined
from toolkit.plain_python.carried.variables import Variables
from toolkit.plain_python.runtime.arithmetic import as_python_bool
from toolkit.plain_python.runtime.variables_and_items import read
from toolkit.plain_python.staging.branching import branch
from toolkit.plain_python.staging.truth import truth
from toolkit.plain_python.tracing.blocks import observed
from toolkit.plain_python.tracing.known_intervals import table


def not_(value: Any) -> Any:
    """`not value`."""
    known = truth(value)
    return jnp.logical_not(known) if is_traced(known) else not known


def and_(
    first: Any,
    *rest: Callable[[], Any],
    state: Variables | None = None,
    around: Surroundings = NOTHING,
) -> Any:
    """`first and rest[0]() and ...`: the first operand that is false, or the last operand.

    Args:
      state: variables that functions called in the operands may assign.
      around: what the function can see, and an operand that may not run must not change.
    """
    return _chain(first, rest, False, state, around)


def or_(
    first: Any,
    *rest: Callable[[], Any],
    state: Variables | None = None,
    around: Surroundings = NOTHING,
) -> Any:
    """`first or rest[0]() or ...`: the first operand that is true, or the last operand."""
    return _chain(first, rest, True, state, around)


# `stop_at` is the truth at which the chain ends: False for `and`, True for `or`.
def _chain(
    value: Any,
    rest: tuple[Callable[[], Any], ...],
    stop_at: bool,
    state: Variables | None,
    around: Surroundings,
) -> Any:
    if not rest:
        return value
    known = truth(value)
    others = lambda: _chain(rest[0](), rest[1:], stop_at, state, around)
    if not is_traced(known):
        return value if known is stop_at else others()
    if value.dtype == jnp.bool_ and state is None:
        # Two booleans are combined without a `cond`, which is faster and runs under `vmap` as it is.
        # Both operands are evaluated then, which compiled code cannot tell unless one has an effect.
        found = _truth(others, known, not stop_at, around)
        if found is not None:
            return as_python_bool((value | found) if stop_at else (value & found), value, found)
    keep = lambda: value
    sides = (keep, others) if stop_at else (others, keep)
    return either(known, *sides, state=state, around=around)


def _truth(operand: Callable[[], Any], first: Any, when: bool, around: Surroundings) -> Any:
    """The value of an operand, if it is one boolean and may be computed in any case, since it prints nothing.

    None otherwise; the operand is then traced again, as one branch of a condition.

    Args:
      first: the truth of the operands before it; Python evaluates this one where it is `when`.
    """
    known: list[Any] = []

    def run() -> Any:
        with (
            observed(around, conditional=True, loop=False),
            mode.taken(first, when),
            table(nested=True),
        ):
            value = operand()
        if (
            not tree.is_numeric(value)
            or np.shape(value) != ()
            or jnp.result_type(value) != jnp.bool_
        ):
            return ()
        if not is_traced(value):
            known.append(value)
        return value

    traced = jax.make_jaxpr(run)()
    if traced.effects or not traced.out_avals:
        return None
    return known[0] if known else evaluate(traced)[0]


def all_(
    first: Any,
    *rest: Callable[[], Any],
    state: Variables | None = None,
    around: Surroundings = NOTHING,
) -> Any:
    """The truth of `first and rest[0]() and ...`."""
    operands = (lambda one=one: truth(one()) for one in rest)
    return and_(truth(first), *operands, state=state, around=around)


def any_(
    first: Any,
    *rest: Callable[[], Any],
    state: Variables | None = None,
    around: Surroundings = NOTHING,
) -> Any:
    """The truth of `first or rest[0]() or ...`."""
    operands = (lambda one=one: truth(one()) for one in rest)
    return or_(truth(first), *operands, state=state, around=around)


def compare(
    operators: tuple[Any, ...],
    left: Any,
    operand: Callable[[], Any],
    *rest: Callable[[], Any],
    state: Variables | None = None,
    around: Surroundings = NOTHING,
) -> Any:
    """`left < operand() < rest[0]() ...`: each operand is evaluated at most once, as in Python."""
    right = operand()
    result = operators[0](left, right)
    if not rest:
        return result
    others = lambda: compare(operators[1:], right, *rest, state=state, around=around)
    return and_(result, others, state=state, around=around)


def either(
    test: Any,
    then: Callable[[], Any],
    orelse: Callable[[], Any],
    state: Variables | None = None,
    name: str = "the conditional expression",
    changing: bool = False,
    around: Surroundings = NOTHING,
) -> Any:
    """`then() if test else orelse()`.

    Args:
      state: variables that functions called in the operands may assign.
      name: the variable that the value is assigned to, for messages.
      changing: whether that variable is changed in place.
      around: what the function can see, and a branch must not change.
    """
    condition = truth(test)
    if condition is True:
        return then()
    if condition is False:
        return orelse()
    # The expression is run as an `if` that assigns one more variable, which is kept in this list.
    box: list[Any] = [Undefined(name)]

    def write(value: Any, *values: Any) -> None:
        box[0] = value
        if state is not None:
            state.write(*values)

    def into_box(compute: Callable[[], Any]) -> Callable[[], None]:
        return lambda: operator.setitem(box, 0, compute())

    reads, names = (state.reads, state.names) if state else ((), ())
    mutated = ((name,) if changing else ()) + (state.mutated if state else ())
    both = Variables((lambda: box[0], *reads), write, (name, *names), (), (), around, mutated)
    branch(both, condition, into_box(then), into_box(orelse))
    return read(box[0], name)
