"""optax's optimizers and schedules, as a config names them.

optax makes closures, which cannot be compared, printed or written to a config. These settings can, and
`.build()` gives the optax transformation. The fields are arguments of the optax function that the
docstring names, with its defaults (a test compares them).
"""

from __future__ import annotations

from typing import Any

import optax
from jax import Array

from toolkit.settings import Fraction, NonNegative, Number, Positive, settings
from toolkit.vocabulary.roles import Optimizer, Schedule

__all__ = ["Adam", "AdamW", "Optimizer", "PowerDecay", "RMSProp", "Schedule", "Sgd", "built"]


def __dir__() -> list[str]:
    return sorted(__all__)


@settings("sgd")
class Sgd:
    """Gradient descent, with momentum where it is set: `optax.sgd`."""

    learning_rate: Positive
    momentum: Fraction | None = None
    nesterov: bool = False

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.sgd(self.learning_rate, self.momentum, self.nesterov)


@settings("adam")
class Adam:
    """Adam: `optax.adam`. Set `eps_root` above zero where its updates are differentiated.

    The derivative of the root of a zero second moment is infinite, and gives NaN.
    """

    learning_rate: Positive
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    eps_root: NonNegative = 0.0
    nesterov: bool = False

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adam(
            self.learning_rate, self.b1, self.b2, self.eps, self.eps_root, nesterov=self.nesterov
        )


@settings("adamw")
class AdamW:
    """Adam with decoupled weight decay: `optax.adamw`. `eps_root` as in `Adam`."""

    learning_rate: Positive
    b1: Fraction = 0.9
    b2: Fraction = 0.999
    eps: Positive = 1e-8
    eps_root: NonNegative = 0.0
    weight_decay: NonNegative = 1e-4
    nesterov: bool = False

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.adamw(
            self.learning_rate,
            self.b1,
            self.b2,
            self.eps,
            self.eps_root,
            weight_decay=self.weight_decay,
            nesterov=self.nesterov,
        )


@settings("rmsprop")
class RMSProp:
    """Gradients over a running root mean square of themselves: `optax.rmsprop`."""

    learning_rate: Positive
    decay: Fraction = 0.9
    eps: Positive = 1e-8
    initial_scale: NonNegative = 0.0
    centered: bool = False
    momentum: Fraction | None = None
    nesterov: bool = False

    def build(self) -> optax.GradientTransformation:
        """The transformation."""
        return optax.rmsprop(
            self.learning_rate,
            self.decay,
            self.eps,
            self.initial_scale,
            centered=self.centered,
            momentum=self.momentum,
            nesterov=self.nesterov,
        )


@settings("power_decay")
class PowerDecay:
    """The schedule `constant / (step + 1)^exponent`, steps counted from 0: that of most theorems.

    It is called like any optax schedule.

    Args:
      constant: positive, the value at step 0.
      exponent: a positive one decays; a negative one grows, as the penalty of `F2SA` must.
    """

    constant: Positive
    exponent: Number

    def __call__(self, step: Array | int) -> Array:
        """The value at a step."""
        return self.constant / (step + 1.0) ** self.exponent


def built(optimizer: Any) -> optax.GradientTransformation:
    """The optax transformation of one of the settings above; any other transformation as it is."""
    return optimizer.build() if hasattr(optimizer, "build") else optimizer
