"""`TruncatedES`: evolution strategies through one window of a long unroll at a time."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.estimator.estimate import (
    Estimate,
    as_gradient,
    rejoin,
    require_divisor,
)
from toolkit.estimator.sampling import (
    at_both_signs,
    average,
    gaussian_like,
    split,
    weighted,
)
from toolkit.estimator.truncated_backprop import TruncatedState
from toolkit.estimator.unrolled import (
    Unrolled,
    WindowedEstimator,
    after_window,
    begin_or_continue,
    require_windows,
    run_window,
)
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


@settings("truncated_es")
class TruncatedES:
    """`EvolutionStrategies` for each window's loss; all particles start from the one carried state.

    Biased as `TruncatedBackprop` is: unbiased for the smoothed loss of a window whose first state
    is a constant.

    Args:
      sigma: `> 0`, in units of `theta`; a number, or an array `[]`.
      num_pairs: antithetic pairs a window.
      truncation: steps of a window, a divisor of the horizon.
      batch: pairs at once, a divisor of `num_pairs`; None is all of them.

    Raises:
      ValueError: `batch` does not divide `num_pairs`, or `truncation` the horizon.

    Differentiation: any mode and order that the system allows; none is needed for the estimate.

    Cost: `2 num_pairs + 1` windows; memory of `2 batch` states, one is carried.

    Source: Metz et al. 2019; Vicol et al. 2021, algorithm 1.
    """

    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def __post_init__(self) -> None:
        require_divisor("batch", self.batch, "num_pairs", self.num_pairs)

    def __call__(self, system: Unrolled) -> WindowedEstimator:
        """The pair `(init, step)`; the value is the window's mean loss at `theta`, unperturbed."""
        require_windows(system, self.truncation)

        @readable
        def init(theta: Tree, key: Array) -> TruncatedState:
            return TruncatedState(system.start(theta, key), jnp.int32(0))

        @readable
        def step(state: TruncatedState, theta: Tree, key: Array) -> tuple[TruncatedState, Estimate]:
            noise_key, start_key = split(key, 2)
            parts = tree.parts(theta)

            # All particles start an episode with the same key, so that their losses differ by `theta` alone.
            def window(inexact: Tree) -> tuple[Tree, Array]:
                moved = rejoin(parts, inexact)
                first = begin_or_continue(system, state.system, moved, state.time, start_key)
                return run_window(system, first, moved, state.time, self.truncation)

            def pair(pair_key: Array) -> tuple[None, Tree]:
                direction = gaussian_like(pair_key, parts.inexact)
                plus, minus = at_both_signs(
                    lambda signed: window(tree.add_scaled(parts.inexact, self.sigma, signed))[1],
                    direction,
                )
                return None, weighted((plus - minus) / (2 * self.sigma), direction)

            pair_keys = jax.random.split(noise_key, self.num_pairs)
            _, mean = average(pair, pair_keys, self.num_pairs, self.batch)
            # The carried state is that of the unperturbed `theta`; the particles' own are thrown away.
            last, value = window(parts.inexact)
            time = after_window(system, state.time, self.truncation)
            return TruncatedState(last, time), Estimate(value, as_gradient(parts.inexact, mean))

        return WindowedEstimator(init, step)
