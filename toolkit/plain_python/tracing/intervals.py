"""Intervals of Python's integers, and what each operation makes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class IntegerInterval(NamedTuple):
    """The integers from `low` to `high`."""

    low: int
    high: int

    def hull(self, other: IntegerInterval) -> IntegerInterval:
        return IntegerInterval(min(self.low, other.low), max(self.high, other.high))


Known = IntegerInterval | None  # None: not an integer of Python's


class Overflow(Exception):
    """An integer that its type may not hold; `reached`, if known, and `operation` say where."""

    def __init__(self, reached: int | None, dtype: Any, operation: str) -> None:
        super().__init__(operation)
        self.reached, self.dtype, self.operation = reached, dtype, operation


def hull(a: Known, b: Known) -> Known:
    return None if a is None or b is None else a.hull(b)


def equal_steps(x: Known, y: Known, z: Known) -> bool:
    if x is None or y is None or z is None:
        return y is None and z is None
    return z.low - y.low == y.low - x.low and z.high - y.high == y.high - x.high


def extended(a: Known, b: Known, times: int) -> Known:
    if a is None or b is None:
        return None
    times = max(times, 0)
    return IntegerInterval(b.low + times * (b.low - a.low), b.high + times * (b.high - a.high))


def together(values: tuple[Known, ...]) -> Known:
    found = values[0]
    for value in values[1:]:
        found = hull(found, value)
    return found


def corners(function: Callable[..., int], *inputs: IntegerInterval) -> IntegerInterval:
    """A function that takes its extremes at the ends of its arguments (or at zero)."""
    points: list[tuple[int, ...]] = [()]
    for one in inputs:
        ends = {one.low, one.high} | ({0} if one.low < 0 < one.high else set())
        points = [(*point, end) for point in points for end in ends]
    values = [function(*point) for point in points]
    return IntegerInterval(min(values), max(values))


def _remainder(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    largest = max(abs(b.low), abs(b.high))
    return IntegerInterval(-largest if a.low < 0 else 0, largest if a.high > 0 else 0)


def power(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    return corners(lambda x, y: x ** min(max(y, 0), 1000), a, b)


RULES: dict[str, Callable[..., IntegerInterval]] = {
    "add": lambda a, b: IntegerInterval(a.low + b.low, a.high + b.high),
    "sub": lambda a, b: IntegerInterval(a.low - b.high, a.high - b.low),
    "mul": lambda a, b: corners(lambda x, y: x * y, a, b),
    "neg": lambda a: IntegerInterval(-a.high, -a.low),
    "abs": lambda a: corners(abs, a),
    "max": lambda a, b: IntegerInterval(max(a.low, b.low), max(a.high, b.high)),
    "min": lambda a, b: IntegerInterval(min(a.low, b.low), min(a.high, b.high)),
    "rem": _remainder,
    "div": lambda a, _: IntegerInterval(min(a.low, -a.high), max(a.high, -a.low)),
    "sign": lambda _: IntegerInterval(-1, 1),
    "pow": power,
    "shift_left": lambda a, b: corners(lambda x, y: x << min(max(y, 0), 1000), a, b),
    "square": lambda a: corners(lambda x: x * x, a),
    "convert_element_type": lambda a: a,
    **dict.fromkeys(("copy", "broadcast_in_dim", "reshape", "squeeze", "slice"), lambda a: a),
}
