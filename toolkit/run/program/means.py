"""A mean over seeds, with its interval, and how it is written."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import NamedTuple

CONFIDENCE = 0.95


class MeanOfSeeds(NamedTuple):
    """A mean over seeds and what is known of it."""

    mean: float
    half_width: float | None  # of its 95 % interval; None for a single value
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        if self.half_width is None:
            return None
        return self.mean - self.half_width, self.mean + self.half_width


def estimate(values: Sequence[float]) -> MeanOfSeeds | None:
    """Mean and 95 % interval by Student's t, which presumes values near normal; None without values."""
    n = len(values)
    if n == 0:
        return None
    mean = math.fsum(values) / n
    if n == 1:
        return MeanOfSeeds(mean, None, 1)
    from scipy.special import stdtrit  # comes with jax; takes a while to load

    quantile = float(stdtrit(n - 1, (1 + CONFIDENCE) / 2))
    return MeanOfSeeds(mean, quantile * statistics.stdev(values) / math.sqrt(n), n)


def written(found: MeanOfSeeds | None) -> str:
    """`0.893 ± 0.012`: the interval with two digits, the mean to the same place."""
    if found is None:
        return "–"
    if found.half_width is None or found.half_width == 0:
        zero = "" if found.half_width is None else " ± 0"
        return f"{found.mean:.4g}{zero}"
    # The decimal place of the second significant digit: 3 for 0.012.
    place = 1 - math.floor(math.log10(found.half_width))
    largest = max(abs(found.mean), found.half_width)
    if place > 6 or largest >= 1e6:
        # Very small or very large: with an exponent, the mean again to the place of the interval's digits.
        digits = max(0, place + math.floor(math.log10(largest)))
        return f"{found.mean:.{min(digits, 15)}e} ± {found.half_width:.1e}"
    return f"{found.mean:.{max(place, 0)}f} ± {found.half_width:.{max(place, 0)}f}"
