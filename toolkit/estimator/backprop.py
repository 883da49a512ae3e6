"""`Backprop`: the exact gradient, by reverse mode."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

from toolkit.errors.readable import readable
from toolkit.estimator.estimate import Estimate, Loss, of_inexact
from toolkit.leaves.containers import packed
from toolkit.settings import settings
from toolkit.types import Tree


@settings("backprop")
class Backprop:
    """The exact gradient, by reverse mode; the key is ignored.

    Differentiation: forward and reverse mode, any order that `loss` allows.

    Cost: a few evaluations of `loss` in time, and the memory of its intermediate values.
    """

    def __call__(self, loss: Loss) -> Callable[[Tree, Array], Estimate]:
        """`(theta, key) -> (value, gradient)`; the value is `loss(theta)` to the bit."""

        @readable
        def estimate(theta: Tree, key: Array) -> Estimate:
            del key
            fun, inexact = of_inexact(loss, theta)
            value, gradient = jax.value_and_grad(fun)(inexact)
            return Estimate(value, packed(gradient))

        return estimate
