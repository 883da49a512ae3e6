"""An interval after many iterations of a loop, found from one of them.

If an iteration adds 1 to 3 to `k`, ten of them add 10 to 30. Where the effect is no sum, iterations are followed
until the interval grows no more, and `widened` lets it come to this sooner.
"""

from __future__ import annotations

from typing import Any

from toolkit.plain_python.tracing.intervals import IntegerInterval, Known

# What grows on and on is widened to the next of these ends.
_ENDS = sorted(s * 2**n for n in (7, 8, 15, 16, 24) for s in (-1, 1)) + [0]


def moved(
    first: IntegerInterval, now: IntegerInterval, base: Any, least: int, most: int
) -> IntegerInterval:
    """A variable after `least` to `most` iterations, of which one makes `now` of it."""
    if base in now.shifts:
        ends = [times * shift for times in (least, most) for shift in now.shifts[base]]
        return first.moved(min(ends), max(ends))
    return now if least else first.hull(now)


def at_most(
    most: int,
    about: list[tuple[int, str, Known]],
    init: list[Known],
    bases: list[Any],
    after: list[Known],
) -> int:
    """A bound of the number of iterations: `k < 10` and `k = k + 2` from 0 are five."""
    for k, operator, limit in about:
        first, now = init[k], after[k]
        if first is None or now is None or limit is None or bases[k] not in now.shifts:
            continue
        slowest, fastest = now.shifts[bases[k]]
        if operator in ("lt", "le") and slowest > 0:
            last = limit.high - (operator == "lt")
            most = min(most, max((last - first.low) // slowest + 1, 0))
        if operator in ("gt", "ge") and fastest < 0:
            last = limit.low + (operator == "gt")
            most = min(most, max((first.high - last) // -fastest + 1, 0))
    return most


def widened(old: Known, new: Known) -> Known:
    """An interval that has grown, with the ends that moved set so far that it may settle."""
    if old is None or new is None:
        return new
    low = max((end for end in _ENDS if end <= new.low), default=new.low)
    high = min((end for end in _ENDS if end >= new.high), default=new.high)
    return IntegerInterval(
        low if new.low < old.low else new.low, high if new.high > old.high else new.high
    )
