"""`ForwardGradient`: derivatives along random directions, by forward mode."""

from __future__ import annotations

from collections.abc import Callable

import jax
from jax import Array

from toolkit.errors.readable import readable
from toolkit.estimator.estimate import (
    Estimate,
    Loss,
    as_gradient,
    of_inexact,
    require_divisor,
)
from toolkit.estimator.sampling import average, gaussian_like, split, weighted
from toolkit.settings import Count, settings
from toolkit.types import Tree


@settings("forward_gradient")
class ForwardGradient:
    """`g = 1/n sum_i (grad L . v_i) v_i` with `v_i ~ N(0, I)`, by forward mode.

    Unbiased for any differentiable loss. With `D` real unknowns the variance, summed over entries,
    is `(D + 1) |grad L|^2 / n`: for few unknowns, or where reverse mode has no memory left.

    Args:
      num_directions: `n >= 1`.
      batch: directions at once, a divisor of `num_directions`; None is all of them. The noise does
        not depend on it, the last bits may.

    Raises:
      ValueError: `batch` does not divide `num_directions`, or `loss` returns no real number of
        shape ().

    Differentiation: any mode and order that `loss` allows on top of one forward pass.

    Cost: one evaluation and `n` tangents; memory of `loss` without its history, times `batch`.

    Source: Baydin et al. 2022, Gradients without Backpropagation, algorithm 1; Wengert 1964.
    """

    num_directions: Count = 1
    batch: Count | None = None

    def __post_init__(self) -> None:
        require_divisor("batch", self.batch, "num_directions", self.num_directions)

    def __call__(self, loss: Loss) -> Callable[[Tree, Array], Estimate]:
        """`(theta, key) -> (value, gradient)`; the value is `loss(theta)` to the bit."""

        @readable
        def estimate(theta: Tree, key: Array) -> Estimate:
            fun, inexact = of_inexact(loss, theta)

            def along(direction_key: Array) -> tuple[Array, Tree]:
                direction = gaussian_like(direction_key, inexact)
                value, slope = jax.jvp(fun, (inexact,), (direction,))
                return value, weighted(slope, direction)

            keys = split(key, self.num_directions)
            values, mean = average(along, keys, self.num_directions, self.batch)
            # All directions evaluate the same loss; a mean of equal values could round.
            return Estimate(values[0], as_gradient(inexact, mean))

        return estimate
