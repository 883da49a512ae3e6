"""Python's integers have no bound and JAX's wrap: a staged loop in which they would is refused.

The integers of a block that come from Python (an index, `k = 1` before the loop, a literal) are
followed through its computation as intervals. What comes from arrays is JAX's from the start, and
is not followed.

Source: interval arithmetic (Moore 1966); loops are followed until they grow by equal steps.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax.numpy as jnp

from toolkit.jaxprs.classes import Literal
from toolkit.jaxprs.loops import branches, scan_parts, while_parts
from toolkit.jaxprs.operations import exponent, name_called, numbered
from toolkit.jaxprs.read import called, inner, opened
from toolkit.jaxprs.sources import summary

_DOUBLINGS = 70  # iterations followed where their number is unknown: doubling leaves 64 bits before
_LOOKOUTS = (2, 16, 128, 1024, 4096)  # iterations after which one looks far ahead, or gives up


class Interval(NamedTuple):
    """The integers from `low` to `high`."""

    low: int
    high: int

    def hull(self, other: Interval) -> Interval:
        return Interval(min(self.low, other.low), max(self.high, other.high))


Known = Interval | None  # None: not an integer of Python's
Items = Callable[[int | None], Sequence[Known]]  # of the k-th iteration; of any, without k


class Overflow(Exception):
    """An integer that its type may not hold; `reached`, if known, and `operation` say where."""

    def __init__(self, reached: int | None, dtype: Any, operation: str) -> None:
        super().__init__(operation)
        self.reached, self.dtype, self.operation = reached, dtype, operation


def check(
    jaxpr: Any,
    entry: Sequence[Known],
    items: Items,
    outputs: Sequence[int | None],
    length: int | None,
) -> None:
    """Follow a loop's integers.

    Args:
      jaxpr: one iteration; its inputs are the variables and then the item.
      entry: the variables before the loop.
      items: the item.
      outputs: for each variable which result it is next, or None where it stays.
      length: the number of iterations; None where it depends on data.

    Raises:
      Overflow: if an integer leaves its type.
    """
    if not any(one is not None for one in (*entry, *items(None))) or not _grows(jaxpr):
        return
    _follow(jaxpr, [], list(entry), items, outputs, length)


def _grows(jaxpr: Any) -> bool:
    """Whether integers may grow faster than by a constant a step."""
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        # The condition of a `while` makes no integer that goes on.
        inside = [opened(while_parts(equation).body)[0]] if name == "while" else inner(equation)
        if any(map(_grows, inside)):
            return True
        if not all(_is_integer(variable.aval) for variable in equation.outvars):
            continue
        if name in ("mul", "integer_pow", "pow", "shift_left", "div", "rem"):
            return True
        if name in ("add", "sub") and not any(isinstance(a, Literal) for a in equation.invars):
            return True
    return False


def _is_integer(aval: Any) -> bool:
    return jnp.issubdtype(getattr(aval, "dtype", float), jnp.integer)


def _follow(
    jaxpr: Any,
    consts: Sequence[Known],
    carry: list[Known],
    items: Items,
    outputs: Sequence[int | None],
    length: int | None,
) -> list[Known]:
    """The carry after the last iteration."""

    def step(carry: list[Known], k: int | None) -> list[Known]:
        results = _evaluate(jaxpr, [*consts, *carry, *items(k)])
        return [old if o is None else results[o] for old, o in zip(carry, outputs, strict=True)]

    for k in range(_DOUBLINGS if length is None else length):
        if length is not None and k in _LOOKOUTS:
            # Where every item together makes equal steps, the rest of the way is known.
            ahead = [carry]
            for _ in range(2):
                ahead.append(step(ahead[-1], None))
            if all(map(_equal_steps, *ahead)):
                far = [_extended(x, y, length - k - 1) for x, y in zip(*ahead[:2], strict=True)]
                return step(far, None)
        if k == _LOOKOUTS[-1]:
            raise Overflow(None, "int", "followed for too long")
        carry = step(carry, k)
    return carry


def _hull(a: Known, b: Known) -> Known:
    return None if a is None or b is None else a.hull(b)


def _equal_steps(x: Known, y: Known, z: Known) -> bool:
    if x is None or y is None or z is None:
        return y is None and z is None
    return z.low - y.low == y.low - x.low and z.high - y.high == y.high - x.high


def _extended(a: Known, b: Known, times: int) -> Known:
    if a is None or b is None:
        return None
    times = max(times, 0)
    return Interval(b.low + times * (b.low - a.low), b.high + times * (b.high - a.high))


def _evaluate(jaxpr: Any, inputs: Sequence[Known]) -> list[Known]:
    known: dict[Any, Known] = dict(zip(jaxpr.invars, inputs, strict=True))

    def read(atom: Any) -> Known:
        if isinstance(atom, Literal):
            aval: Any = atom.aval
            whole = _is_integer(aval) and aval.shape == ()
            return Interval(int(atom.val), int(atom.val)) if whole else None
        return known.get(atom)

    for equation in jaxpr.eqns:
        values = _apply(equation, [read(atom) for atom in equation.invars])
        for variable, value in zip(equation.outvars, values, strict=True):
            if value is not None:
                _check_fits(equation, variable.aval.dtype, value)
                known[variable] = value
    return [read(atom) for atom in jaxpr.outvars]


def _check_fits(equation: Any, dtype: Any, value: Interval) -> None:
    limits = jnp.iinfo(dtype)
    if value.low < limits.min or value.high > limits.max:
        reached = value.low if value.low < limits.min else value.high
        raise Overflow(reached, dtype, f"{equation.primitive.name} at {summary(equation)}")


def _apply(equation: Any, inputs: list[Known]) -> list[Known]:
    name = equation.primitive.name
    nothing: list[Known] = [None] * len(equation.outvars)
    if name == "scan":
        return _scan(equation, inputs)
    if name == "cond":
        found = [_evaluate(branch.jaxpr, inputs[1:]) for branch in branches(equation)]
        return [_together(values) for values in zip(*found, strict=True)]
    if name == "jit":
        if name_called(equation) == "python_power" and inputs[0] and inputs[1]:
            _check_exponent(equation, inputs[1])
            return [_power(inputs[0], inputs[1])]
        return _evaluate(opened(called(equation))[0], inputs)
    if name == "iota":
        return [Interval(0, max(numbered(equation) - 1, 0))]
    if name == "select_n":
        return [_together(tuple(inputs[1:]))]
    if any(one is None for one in inputs) or len(nothing) != 1 or not inputs:
        return nothing
    if not _is_integer(equation.outvars[0].aval):
        return nothing
    known = [one for one in inputs if one is not None]
    if name in _RULES:
        return [_RULES[name](*known)]
    if name == "integer_pow":
        return [_corners(lambda a: a ** exponent(equation), known[0])]
    return nothing


def _together(values: tuple[Known, ...]) -> Known:
    hull = values[0]
    for value in values[1:]:
        hull = _hull(hull, value)
    return hull


def _scan(equation: Any, inputs: list[Known]) -> list[Known]:
    loop = scan_parts(equation)
    consts, carry, items = loop.parted(inputs)
    body, outputs = opened(loop.body)[0], range(loop.carried)
    found = _follow(body, consts, list(carry), lambda _: items, outputs, loop.length)
    return [*found, *([None] * (len(equation.outvars) - loop.carried))]


def _corners(function: Callable[..., int], *inputs: Interval) -> Interval:
    """A function that takes its extremes at the ends of its arguments (or at zero)."""
    points: list[tuple[int, ...]] = [()]
    for one in inputs:
        ends = {one.low, one.high} | ({0} if one.low < 0 < one.high else set())
        points = [(*point, end) for point in points for end in ends]
    values = [function(*point) for point in points]
    return Interval(min(values), max(values))


def _remainder(a: Interval, b: Interval) -> Interval:
    largest = max(abs(b.low), abs(b.high))
    return Interval(-largest if a.low < 0 else 0, largest if a.high > 0 else 0)


def _check_exponent(equation: Any, exponent: Interval) -> None:
    if exponent.low < 0:
        place = summary(equation)
        raise Overflow(None, "int", f"a negative power, which is a float in Python, at {place}")


def _power(a: Interval, b: Interval) -> Interval:
    return _corners(lambda x, y: x ** min(max(y, 0), 1000), a, b)


_RULES: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: Interval(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: Interval(a.low - b.high, a.high - b.low),
    "mul": lambda a, b: _corners(lambda x, y: x * y, a, b),
    "neg": lambda a: Interval(-a.high, -a.low),
    "abs": lambda a: _corners(abs, a),
    "max": lambda a, b: Interval(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: Interval(min(a.low, b.low), min(a.high, b.high)),
    "rem": _remainder,
    "div": lambda a, _: Interval(min(a.low, -a.high), max(a.high, -a.low)),
    "sign": lambda _: Interval(-1, 1),
    "pow": _power,
    "shift_left": lambda a, b: _corners(lambda x, y: x << min(max(y, 0), 1000), a, b),
    "square": lambda a: _corners(lambda x: x * x, a),
    "convert_element_type": lambda a: a,
    **dict.fromkeys(("copy", "broadcast_in_dim", "reshape", "squeeze", "slice"), lambda a: a),
}
