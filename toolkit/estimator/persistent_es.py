"""`PersistentES`: evolution strategies through windows, with particles that remember their perturbations."""

from __future__ import annotations

from typing import NamedTuple

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


class PersistentState(NamedTuple):
    """What the `P` antithetic pairs carry from window to window."""

    systems: Tree  # [P, 2, ...] each particle's own state of the system, plus and minus
    drift: Tree  # [P, ...] like theta: the sum of this episode's directions
    time: Array  # [] int32, steps made in this episode


@settings("persistent_es")
class PersistentES:
    """Persistent evolution strategies: truncated windows without the bias of truncation.

    Each particle keeps its own state, and the sum `x_t` of all directions in which `theta` was moved for
    it since the episode began. All of these perturbations have reached a window's loss through the
    state, so the loss is correlated with their sum, not with the last one only:

        g_t = 1/(2 P sigma) sum_p x_t [L_t(plus) - L_t(minus)],   x_t = x_(t-1) + e_t

    Over the windows of an episode, `theta` held, the mean of `g_t` is unbiased for the gradient of
    the loss smoothed over independent perturbations of every window's copy of `theta`: the exact
    gradient where the losses are quadratic in a state that is linear in `theta`.

    The variance grows in proportion to the number of windows since the episode began. For one
    unknown, such a loss, and `a_i` the derivative of the window's mean loss through the copy of
    `theta` in window `i`, it is `(t |a|^2 + (sum_i a_i)^2) / P` in window `t = 1, 2, ...`.

    Args:
      sigma: `> 0`, in units of `theta`; a number, or an array `[]`.
      num_pairs: `P >= 1`.
      truncation: steps of a window, a divisor of the horizon; the horizon itself is
        `EvolutionStrategies`.
      batch: pairs at once, a divisor of `num_pairs`; None is all of them.

    Raises:
      ValueError: `batch` does not divide `num_pairs`, or `truncation` the horizon.

    Differentiation: any mode and order that the system allows; none is needed for the estimate.

    Cost: `2 P` windows; `2 P` states and `P` trees like `theta` are carried.

    Source: Vicol, Metz and Sohl-Dickstein 2021, Unbiased Gradient Estimation in Unrolled
    Computation Graphs with Persistent Evolution Strategies, algorithm 2.
    """

    sigma: Positive
    num_pairs: Count
    truncation: Count
    batch: Count | None = None

    def __post_init__(self) -> None:
        require_divisor("batch", self.batch, "num_pairs", self.num_pairs)

    def __call__(self, system: Unrolled) -> WindowedEstimator:
        """The pair `(init, step)`; the value is the window's mean loss over all particles."""
        require_windows(system, self.truncation)

        @readable
        def init(theta: Tree, key: Array) -> PersistentState:
            # Only shapes and types of this state matter: the first window starts a new episode.
            inexact = tree.parts(theta).inexact
            fresh = system.start(theta, key)
            return PersistentState(
                jax.tree.map(lambda s: _repeated(s, (self.num_pairs, 2)), fresh),
                jax.tree.map(
                    lambda leaf: jnp.zeros((self.num_pairs, *leaf.shape), leaf.dtype), inexact
                ),
                jnp.int32(0),
            )

        @readable
        def step(
            state: PersistentState, theta: Tree, key: Array
        ) -> tuple[PersistentState, Estimate]:
            noise_key, start_key = split(key, 2)
            parts = tree.parts(theta)

            def pair(of_pair: Tree) -> tuple[Tree, Tree]:
                systems, drift, direction_key, pair_start_key = of_pair
                direction = gaussian_like(direction_key, parts.inexact)
                # At the start of an episode the sum of directions starts at 0 again.
                earlier = tree.where(state.time == 0, jax.tree.map(jnp.zeros_like, drift), drift)
                drift = jax.tree.map(jnp.add, earlier, direction)

                def window(signed: Tree, systems: Tree) -> tuple[Tree, Array]:
                    moved = rejoin(parts, tree.add_scaled(parts.inexact, self.sigma, signed))
                    # Both particles of a pair start with the same key, so that their losses differ by
                    # `theta` alone. Different random starts would be noise in the difference.
                    first = begin_or_continue(system, systems, moved, state.time, pair_start_key)
                    return run_window(system, first, moved, state.time, self.truncation)

                systems, (plus, minus) = at_both_signs(window, direction, systems)
                contribution = weighted((plus - minus) / (2 * self.sigma), drift)
                return (systems, drift, (plus + minus) / 2), contribution

            direction_keys = jax.random.split(noise_key, self.num_pairs)
            start_keys = jax.random.split(start_key, self.num_pairs)
            pairs = (state.systems, state.drift, direction_keys, start_keys)
            (systems, drift, values), mean = average(pair, pairs, self.num_pairs, self.batch)
            time = after_window(system, state.time, self.truncation)
            estimate = Estimate(jnp.mean(values), as_gradient(parts.inexact, mean))
            return PersistentState(systems, drift, time), estimate

        return WindowedEstimator(init, step)


def _repeated(leaf: Array, shape: tuple[int, ...]) -> Array:
    return jnp.broadcast_to(leaf, (*shape, *jnp.shape(leaf)))
