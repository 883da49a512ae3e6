"""The settings that all bilevel methods share."""

from __future__ import annotations

from dataclasses import dataclass, field

from toolkit.optimizers import PowerDecay
from toolkit.settings import Count, Positive, Weight
from toolkit.vocabulary.roles import Optimizer, Schedule

Rate = Positive | Schedule  # a number, an array [], or an optax schedule of the method's step
Momentum = Weight | Schedule


@dataclass(frozen=True)
class MethodSettings:
    """Step sizes, batches, and an optax transformation that may take the place of the outer step size."""

    inner_step_size: Rate
    outer_step_size: Rate
    batch_size: Count | None = None
    outer_optimizer: Optimizer | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class TwoOptimizers(MethodSettings):
    """Settings of the methods whose inner iterate may be moved by an optax transformation too."""

    inner_optimizer: Optimizer | None = field(default=None, kw_only=True)


def power_decay(constant: float, exponent: float) -> PowerDecay:
    """The schedule `constant / (step + 1)^exponent`, steps counted from 0: that of most theorems.

    A negative exponent grows, as the penalty of `F2SA` must.
    """
    return PowerDecay(constant, exponent)
