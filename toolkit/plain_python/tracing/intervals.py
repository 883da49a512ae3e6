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


Known = IntegerInterval | None  # None for a value that is not an integer from Python


class Overflow(Exception):
    """An integer leaves its type; `reached`: the value, if known; `operation`: what makes it, and where."""

    def __init__(self, reached: int | None, dtype: Any, operation: str) -> None:
        super().__init__(operation)
        self.reached, self.dtype, self.operation = reached, dtype, operation


def hull(a: Known, b: Known) -> Known:
    return None if a is None or b is None else a.hull(b)


def equal_steps(x: Known, y: Known, z: Known) -> bool:
    """Whether both ends move from `x` to `y` as far as from `y` to `z`."""
    if x is None or y is None or z is None:
        return y is None and z is None
    return z.low - y.low == y.low - x.low and z.high - y.high == y.high - x.high


def extended(a: Known, b: Known, times: int) -> Known:
    """`b`, moved `times` times as far as from `a` to `b`."""
    if a is None or b is None:
        return None
    times = max(times, 0)
    return IntegerInterval(b.low + times * (b.low - a.low), b.high + times * (b.high - a.high))


def together(values: tuple[Known, ...]) -> Known:
    """The interval of a value that may be any of these."""
    found = values[0]
    for value in values[1:]:
        found = hull(found, value)
    return found


def corners(function: Callable[..., int], *inputs: IntegerInterval) -> IntegerInterval:
    """The interval of a function's values, if its extremes lie at the ends of its arguments or at 0.

    A product has its extremes at the ends; `abs` and even powers have their least value at 0.
    """
    points: list[tuple[int, ...]] = [()]
    for one in inputs:
        ends = {one.low, one.high} | ({0} if one.low < 0 < one.high else set())
        points = [(*point, end) for point in points for end in ends]
    values = [function(*point) for point in points]
    return IntegerInterval(min(values), max(values))


def _remainder(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    # The remainder of XLA has the sign of the dividend, unlike that of Python.
    largest = max(abs(b.low), abs(b.high))
    return IntegerInterval(-largest if a.low < 0 else 0, largest if a.high > 0 else 0)


# Powers and shifts stop at 1000: no type holds their results by then, and an exponent such as 2**31 would
# make Python compute a number of gigabytes.
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
    # The divisor may be 1 or -1, so a quotient is at most as large as the dividend, of either sign.
    "div": lambda a, _: IntegerInterval(min(a.low, -a.high), max(a.high, -a.low)),
    "sign": lambda _: IntegerInterval(-1, 1),
    "pow": power,
    "shift_left": lambda a, b: corners(lambda x, y: x << min(max(y, 0), 1000), a, b),
    "square": lambda a: corners(lambda x: x * x, a),
    "convert_element_type": lambda a: a,
    **dict.fromkeys(("copy", "broadcast_in_dim", "reshape", "squeeze", "slice"), lambda a: a),
}
