"""The truth of values that may be traced: `not`, `and`, `or`, comparisons, conditional expressions."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.control.python import branching, mode
from toolkit.control.python.errors import refuse
from toolkit.control.python.places import read
from toolkit.control.python.state import Undefined
from toolkit.control.python.state import Variables as State
from toolkit.control.python.tracing import is_traced


def truth(value: Any) -> Any:
    """`bool(value)`: a Python bool where it is known, else a traced scalar."""
    if not isinstance(value, jax.Array):
        return bool(value)
    if value.size != 1:
        raise refuse(
            f"the truth of an array of shape {value.shape}: reduce it with jnp.any or jnp.all, or use "
            "jnp.where."
        )
    if not mode.runs_as_python():
        try:
            return bool(value)
        except jax.errors.ConcretizationTypeError:
            return value.reshape(()) != 0
    return bool(value)


def scalar_truth(value: Any) -> Any:
    known = truth(value)
    return jnp.asarray(known)


def not_(value: Any) -> Any:
    """`not value`."""
    known = truth(value)
    return jnp.logical_not(known) if is_traced(known) else not known


def and_(first: Any, *rest: Callable[[], Any], state: State | None = None) -> Any:
    """`first and rest[0]() and ...`: the first operand that is false, or the last.

    `state`: variables that functions called in the operands may assign.
    """
    return _chain(first, rest, False, state)


def or_(first: Any, *rest: Callable[[], Any], state: State | None = None) -> Any:
    """`first or rest[0]() or ...`: the first operand that is true, or the last."""
    return _chain(first, rest, True, state)


def _chain(
    value: Any, rest: tuple[Callable[[], Any], ...], stop_at: bool, state: State | None
) -> Any:
    if not rest:
        return value
    known = truth(value)
    others = lambda: _chain(rest[0](), rest[1:], stop_at, state)
    if not is_traced(known):
        return value if known is stop_at else others()
    if value.dtype == jnp.bool_ and state is None:
        other = others()  # no short circuit: nothing in it can raise when it runs
        if np.shape(other) == () and jnp.result_type(other) == jnp.bool_:
            return (value | other) if stop_at else (value & other)
        others = lambda: other
    keep = lambda: value
    return either(known, *((keep, others) if stop_at else (others, keep)), state=state)


def all_(first: Any, *rest: Callable[[], Any], state: State | None = None) -> Any:
    """The truth of `first and rest[0]() and ...`."""
    return and_(truth(first), *(lambda one=one: truth(one()) for one in rest), state=state)


def any_(first: Any, *rest: Callable[[], Any], state: State | None = None) -> Any:
    """The truth of `first or rest[0]() or ...`."""
    return or_(truth(first), *(lambda one=one: truth(one()) for one in rest), state=state)


def compare(operators: tuple[Any, ...], left: Any, *rest: Callable[[], Any]) -> Any:
    """`left < rest[0]() < ...`, each operand evaluated once."""
    result: Any = True
    for operation, operand in zip(operators, rest, strict=True):
        right = operand()
        one = operation(left, right)
        left = right
        result = one if result is True else all_(result, lambda: one)  # noqa: B023
        if not isinstance(result, jax.Array) and not result:
            return result
    return result


def extreme(function: Any, *args: Any, **kwargs: Any) -> Any:
    """`max` and `min` of scalars: Python compares them two by two."""
    if function not in (builtins.max, builtins.min) or kwargs:
        return function(*args, **kwargs)
    scalars = args if len(args) > 1 else args[0]
    traced = isinstance(scalars, (list, tuple)) and any(map(is_traced, scalars))
    if not traced or any(np.shape(scalar) != () for scalar in scalars):
        return function(*args)
    best, *others = scalars
    for other in others:
        better = other > best if function is builtins.max else other < best
        best = jnp.where(better, other, best)
    return best


def either(
    test: Any,
    then: Callable[[], Any],
    orelse: Callable[[], Any],
    state: State | None = None,
    name: str = "the conditional expression",
) -> Any:
    """`then() if test else orelse()`; `name`: the variable that it is assigned to."""
    condition = truth(test)
    if condition is True:
        return then()
    if condition is False:
        return orelse()
    box: list[Any] = [Undefined(name)]

    def write(value: Any, *values: Any) -> None:
        box[0] = value
        if state is not None:
            state.write(*values)

    def into_box(compute: Callable[[], Any]) -> Callable[[], None]:
        return lambda: operator.setitem(box, 0, compute())

    reads, names = (state.reads, state.names) if state else ((), ())
    both = State((lambda: box[0], *reads), write, (name, *names), ())
    branching.branch(both, condition, into_box(then), into_box(orelse))
    return read(box[0], name)
