"""`EvolutionStrategies`: differences of the loss along random directions."""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.estimator.estimate import (
    Estimate,
    Loss,
    as_gradient,
    of_inexact,
    require_divisor,
)
from toolkit.estimator.sampling import (
    at_both_signs,
    average,
    gaussian_like,
    split,
    weighted,
)
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


@settings("evolution_strategies")
class EvolutionStrategies:
    """`g = 1/(2 n sigma) sum_i e_i [L(theta + sigma e_i) - L(theta - sigma e_i)]`, `e_i ~ N(0, I)`.

    Unbiased for the gradient of the smoothed loss `E L(theta + sigma e)`, whether or not `L` is
    differentiable; the terms of even order cancel within a pair. For a quadratic the smoothed
    gradient is the gradient itself, and the variance, summed over `D` real unknowns, is
    `(D + 1) |grad L|^2 / n`. Also known as weight perturbation.

    Args:
      sigma: `> 0`, in units of `theta`; a number, or an array `[]`. Below the square root of the
        dtype's epsilon the differences are rounding.
      num_pairs: `n >= 1`.
      batch: pairs at once, a divisor of `num_pairs`; None is all of them. The noise does not depend
        on it, the last bits may.

    Raises:
      ValueError: `batch` does not divide `num_pairs`, or `loss` returns no real number of shape ().

    Differentiation: any mode and order that `loss` allows; none is needed for the estimate.

    Cost: `2 n` evaluations; memory of `2 batch` of them, without history.

    Source: Salimans et al. 2017, Evolution Strategies as a Scalable Alternative to Reinforcement
    Learning, section 2 (mirrored sampling); Nesterov and Spokoiny 2017.
    """

    sigma: Positive
    num_pairs: Count
    batch: Count | None = None

    def __post_init__(self) -> None:
        require_divisor("batch", self.batch, "num_pairs", self.num_pairs)

    def __call__(self, loss: Loss) -> Callable[[Tree, Array], Estimate]:
        """`(theta, key) -> (value, gradient)`.

        The value is the mean over the perturbed losses, an unbiased estimate of the smoothed loss:
        `loss(theta)` itself is never evaluated.
        """

        @readable
        def estimate(theta: Tree, key: Array) -> Estimate:
            fun, inexact = of_inexact(loss, theta)

            def pair(pair_key: Array) -> tuple[Array, Tree]:
                direction = gaussian_like(pair_key, inexact)
                plus, minus = at_both_signs(
                    lambda signed: fun(tree.add_scaled(inexact, self.sigma, signed)), direction
                )
                return (plus + minus) / 2, weighted((plus - minus) / (2 * self.sigma), direction)

            keys = split(key, self.num_pairs)
            values, mean = average(pair, keys, self.num_pairs, self.batch)
            return Estimate(jnp.mean(values), as_gradient(inexact, mean))

        return estimate
