"""A logarithmic axis over a short range, with numbers that can be read."""

from __future__ import annotations

from matplotlib.axis import Axis
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

SHORT = 100  # ends of an axis whose quotient is below this lie less than two decades apart


def readable(axis: Axis) -> None:
    """Write 2, 5, 10, 20 on an axis of less than two decades.

    matplotlib would write `2 x 10^0`, `3 x 10^0`, `4 x 10^0` there, one over the other, or a single number.
    """
    low, high = sorted(axis.get_view_interval())
    if axis.get_scale() != "log" or high >= SHORT * low:
        return
    axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axis.set_minor_formatter(NullFormatter())
