"""The truth of values that may be traced: `not`, `and`, `or`, comparisons, conditional expressions."""

from __future__ import annotations

import builtins
import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit.plain_python import branching, mode
from toolkit.plain_python.around import Around
from toolkit.plain_python.errors import refuse
from toolkit.plain_python.places import read
from toolkit.plain_python.state import Undefined
from toolkit.plain_python.state import Variables as State
from toolkit.plain_python.tracing import is_traced


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
            return _not_zero(value.reshape(()))
    return bool(value)


def _not_zero(value: Any) -> Any:
    return value if value.dtype == jnp.bool_ else value != jnp.zeros((), value.dtype)


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


def compare(
    operators: tuple[Any, ...],
    left: Any,
    operand: Callable[[], Any],
    *rest: Callable[[], Any],
    state: State | None = None,
) -> Any:
    """`left < operand() < rest[0]() ...`, each evaluated once, as far as Python would."""
    right = operand()
    result = operators[0](left, right)
    if not rest:
        return result
    return and_(result, lambda: compare(operators[1:], right, *rest, state=state), state=state)


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


def any_of(function: Any, *args: Any) -> Any:
    """`any` of an iterable that Python goes through."""
    return _of(function, builtins.any, True, *args)


def all_of(function: Any, *args: Any) -> Any:
    """`all` of an iterable that Python goes through."""
    return _of(function, builtins.all, False, *args)


def _of(function: Any, ours: Any, stop_at: bool, *args: Any) -> Any:
    if function is not ours or len(args) != 1:
        return function(*args)
    if is_traced(args[0]) and args[0].ndim == 1:
        return jnp.any(args[0]) if stop_at else jnp.all(args[0])
    result: Any = not stop_at
    for value in args[0]:
        known = truth(value)
        if known is stop_at:
            return stop_at
        if is_traced(known):
            both = result | known if stop_at else result & known
            result = both if is_traced(result) else known
    return result


def contains(left: Any, right: Any) -> Any:
    """`left in right`: of a tuple or a list the comparison with each element."""
    if not isinstance(right, (tuple, list)):
        return left in right
    if not (is_traced(left) or any(map(is_traced, right))):
        return left in right
    return any_of(builtins.any, [one is left or one == left for one in right])


def isinstance_(function: Any, value: Any, kinds: Any) -> Any:
    """`isinstance`, where a traced number may stand for a number of Python's."""
    if function is builtins.isinstance and is_traced(value) and mode.is_staged():
        asked = kinds if isinstance(kinds, tuple) else (kinds,)
        if value.weak_type and any(kind in (int, float, complex, bool) for kind in asked):
            raise refuse(
                f"`isinstance(..., {kinds})` of a Python number that became a traced value in this "
                "staged block: ask before the loop, or run it as Python with tk.control.unroll."
            )
    return function(value, kinds)


def text(function: Any, *args: Any) -> Any:
    """`str`, `repr` and `format`."""
    return function(*map(shown, args))


def shown(value: Any) -> Any:
    """A value that becomes text."""
    if is_traced(value) and mode.is_staged():
        raise refuse(
            "a traced value has no text: to print it use jax.debug.print; for a key such as "
            'params[f"w{i}"] run the loop as Python, `for i in tk.control.unroll(range(n))`.'
        )
    return value


def power(base: Any, exponent: Any) -> Any:
    """`base ** exponent`."""
    if is_traced(base) and base.weak_type and isinstance(exponent, int) and exponent < 0:
        return (1.0 * base) ** exponent  # of an integer, too, Python makes a float
    if not isinstance(base, int) or isinstance(base, bool) or not is_traced(exponent):
        return base**exponent
    if not (exponent.weak_type and jnp.issubdtype(exponent.dtype, jnp.integer)):
        return base**exponent
    return python_power(base, exponent)


@jax.jit
def python_power(base: Any, exponent: Any) -> Any:
    """Of integers of Python's: under a name by which `integers` knows it."""
    return base**exponent


def either(
    test: Any,
    then: Callable[[], Any],
    orelse: Callable[[], Any],
    state: State | None = None,
    name: str = "the conditional expression",
    changing: bool = False,
    around: Around = Around((), ()),
) -> Any:
    """`then() if test else orelse()`.

    `name`: the variable that it is assigned to; `changing`: whether that is changed in place;
    `around`: what the function can see.
    """
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
    mutated = ((name,) if changing else ()) + (state.mutated if state else ())
    both = State((lambda: box[0], *reads), write, (name, *names), (), (), around, mutated)
    branching.branch(both, condition, into_box(then), into_box(orelse))
    return read(box[0], name)
