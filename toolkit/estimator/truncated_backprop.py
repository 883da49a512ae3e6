"""`TruncatedBackprop`: reverse mode through one window of a long unroll at a time."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.errors.readable import readable
from toolkit.estimator.estimate import Estimate, rejoin
from toolkit.estimator.unrolled import (
    Unrolled,
    WindowedEstimator,
    after_window,
    begin_or_continue,
    require_windows,
    run_window,
)
from toolkit.leaves.containers import packed
from toolkit.settings import Count, settings
from toolkit.types import Tree


class TruncatedState(NamedTuple):
    """Where the unroll stands."""

    system: Tree  # the system's state
    time: Array  # [] int32, steps made in this episode


@settings("truncated_backprop")
class TruncatedBackprop:
    """The derivative through one window of `truncation` steps; its first state is a constant.

    Biased: how that state depends on `theta` is left out. Where short and long influences have opposite
    signs even the sign of the gradient can be wrong. The key is used by `start` only.

    Args:
      truncation: steps of a window, a divisor of the horizon; the horizon itself is `Backprop`.

    Raises:
      ValueError: `truncation` does not divide the horizon.

    Differentiation: forward and reverse mode, any order that the system allows.

    Cost: memory of `truncation` steps; one state is carried.

    Source: Williams and Peng 1990; the bias in Tallec and Ollivier 2017, Unbiasing Truncated
    Backpropagation Through Time.
    """

    truncation: Count

    def __call__(self, system: Unrolled) -> WindowedEstimator:
        """The pair `(init, step)`; the value is the window's mean loss at `theta`."""
        require_windows(system, self.truncation)

        @readable
        def init(theta: Tree, key: Array) -> TruncatedState:
            return TruncatedState(system.start(theta, key), jnp.int32(0))

        @readable
        def step(state: TruncatedState, theta: Tree, key: Array) -> tuple[TruncatedState, Estimate]:
            parts = tree.parts(theta)

            def window(inexact: Tree) -> tuple[Array, Tree]:
                moved = rejoin(parts, inexact)
                first = begin_or_continue(system, state.system, moved, state.time, key)
                last, loss = run_window(system, first, moved, state.time, self.truncation)
                return loss, last

            (value, last), gradient = jax.value_and_grad(window, has_aux=True)(parts.inexact)
            time = after_window(system, state.time, self.truncation)
            return TruncatedState(last, time), Estimate(value, packed(gradient))

        return WindowedEstimator(init, step)
