"""Intervals of Python's integers, and what each operation makes of them.

Source: interval arithmetic (Moore 1966).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple


class IntegerInterval(NamedTuple):
    """The integers from `low` to `high`.

    The value `k + 1` also remembers that it is the loop variable `k`, shifted by 1: after 100 iterations of
    `k = k + 1` the interval of `k` has moved by 100. A value such as `k + j` is a shifted copy of either.
    """

    low: int
    high: int
    # By variable the least and the greatest shift.
    shifts: Mapping[Any, tuple[int, int]] = MappingProxyType({})

    def hull(self, other: IntegerInterval) -> IntegerInterval:
        """The values of both."""
        both = {
            base: (min(low, other.shifts[base][0]), max(high, other.shifts[base][1]))
            for base, (low, high) in self.shifts.items()
            if base in other.shifts
        }
        return IntegerInterval(min(self.low, other.low), max(self.high, other.high), both)

    def plain(self) -> IntegerInterval:
        """The same integers, as a shifted copy of nothing."""
        return IntegerInterval(self.low, self.high)

    def moved(self, low: int, high: int) -> IntegerInterval:
        """The sum with an integer from `low` to `high`."""
        shifts = {base: (a + low, b + high) for base, (a, b) in self.shifts.items()}
        return IntegerInterval(self.low + low, self.high + high, shifts)


Known = IntegerInterval | None  # None for a value that is not an integer from Python


class NotAsInPython(Exception):
    """Where JAX's integers would give another value than Python's: the sentence that says how."""


def hull(a: Known, b: Known) -> Known:
    return None if a is None or b is None else a.hull(b)


def together(values: Iterable[Known]) -> Known:
    """The interval of a value that may be any of these."""
    first, *others = values
    for value in others:
        first = hull(first, value)
    return first


def corners(function: Callable[..., int], *inputs: IntegerInterval) -> IntegerInterval:
    """The interval of a function's values, if its extremes lie at the ends of its arguments or next to 0.

    A product has its extremes at the ends; `abs` and even powers have their least value at 0, a quotient
    its extremes at the divisors 1 and -1.
    """
    points: list[tuple[int, ...]] = [()]
    for one in inputs:
        ends = {one.low, one.high} | {near for near in (-1, 0, 1) if one.low < near < one.high}
        points = [(*point, end) for point in points for end in ends]
    values = [function(*point) for point in points]
    return IntegerInterval(min(values), max(values))


def _add(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    found = a.moved(b.low, b.high)
    return found._replace(shifts={**b.moved(a.low, a.high).shifts, **found.shifts})


def _subtract(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    return a.moved(-b.high, -b.low)  # of `a - b` only `a` can be a shifted copy


def remainder(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    """Python's `a % b`, which has the sign of `b`."""
    if a.low >= 0 and a.high < b.low:
        return a
    return IntegerInterval(min(b.low + 1, 0), max(b.high - 1, 0))


def floor_divide(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    """Python's `a // b`; `b` is not 0."""
    return corners(lambda x, y: x // y if y else 0, a, b)


def _truncated(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    # XLA's quotient is rounded towards 0.
    return corners(lambda x, y: abs(x) // abs(y) * (1 if x * y > 0 else -1) if y else 0, a, b)


def _rest(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    # The remainder of XLA has the sign of the dividend, unlike that of Python.
    largest = max(abs(b.low), abs(b.high))
    return IntegerInterval(-largest if a.low < 0 else 0, largest if a.high > 0 else 0)


# Powers and shifts stop at 1000: no type holds their results by then, and an exponent such as 2**31 would
# make Python compute a number of gigabytes.
def power(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    largest = corners(lambda x, y: abs(x) ** min(max(y, 0), 1000), a, b)
    # Even and odd powers of what is negative have different signs.
    return IntegerInterval(-largest.high, largest.high) if a.low < 0 else largest


def _bits(*values: IntegerInterval) -> IntegerInterval:
    """All integers that need no more bits than these."""
    bits = max(end.bit_length() for one in values for end in (one.low, one.high))
    negative = any(one.low < 0 for one in values)
    return IntegerInterval(-(2**bits) if negative else 0, 2**bits - 1)


def _and(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    # `k & 255` lies between 0 and 255, whatever `k` is.
    limits = [one.high for one in (a, b) if one.low >= 0]
    return IntegerInterval(0, min(limits)) if limits else _bits(a, b)


def range_length(
    start: IntegerInterval, stop: IntegerInterval, step: IntegerInterval
) -> IntegerInterval:
    """The length of `range(start, stop, step)`, where `step` is known."""
    size = step.low
    gap = _subtract(stop, start) if size > 0 else _subtract(start, stop)
    low, high = (max(-(-end // abs(size)), 0) for end in (gap.low, gap.high))
    return IntegerInterval(low, high)


def _shift(function: Callable[[int, int], int]) -> Callable[..., IntegerInterval]:
    def rule(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
        return corners(lambda x, y: function(x, min(max(y, 0), 1000)), a, b)

    return rule


def _any_of(first: IntegerInterval, *others: IntegerInterval) -> IntegerInterval:
    for other in others:
        first = first.hull(other)
    return first


def _clamp(low: IntegerInterval, a: IntegerInterval, high: IntegerInterval) -> IntegerInterval:
    return _least(high, _largest(low, a))


def _largest(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    return IntegerInterval(max(a.low, b.low), max(a.high, b.high))


def _least(a: IntegerInterval, b: IntegerInterval) -> IntegerInterval:
    return IntegerInterval(min(a.low, b.low), min(a.high, b.high))


_SAME = (
    "convert_element_type", "copy", "broadcast_in_dim", "reshape", "squeeze", "slice", "transpose", "rev",
    "expand_dims", "reduce_max", "reduce_min", "pvary", "pcast", "stop_gradient",
)  # fmt: skip
RULES: dict[str, Callable[..., IntegerInterval]] = {
    "add": _add,
    "sub": _subtract,
    "mul": lambda a, b: corners(lambda x, y: x * y, a, b),
    "neg": lambda a: IntegerInterval(-a.high, -a.low),
    "abs": lambda a: corners(abs, a),
    "max": _largest,
    "min": _least,
    "clamp": _clamp,
    "rem": _rest,
    "div": _truncated,
    "sign": lambda _: IntegerInterval(-1, 1),
    "pow": power,
    "shift_left": _shift(lambda x, y: x << y),
    "shift_right_arithmetic": _shift(lambda x, y: x >> y),
    "shift_right_logical": _shift(lambda x, y: x >> y),  # of what is not negative
    "square": lambda a: corners(lambda x: x * x, a),
    "and": _and,
    "or": _bits,
    "xor": _bits,
    "not": lambda a: IntegerInterval(-a.high - 1, -a.low - 1),
    "concatenate": lambda *parts: _any_of(*parts),
    # An entry of an array; of the indices nothing needs to be known.
    **dict.fromkeys(_SAME, lambda a: a),
}
