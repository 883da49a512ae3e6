"""A loss that is the mean over a long unroll, and the windows in which truncated rules see it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.estimator.estimate import Estimate, real_scalar
from toolkit.settings import Count, require
from toolkit.types import Tree


class Unrolled(NamedTuple):
    """The loss `L(theta) = mean of loss_t over an episode`, `t = 0 ... horizon - 1`.

    A state may hold keys and integers; its types do not change from step to step.
    """

    start: Callable[[Tree, Array], Tree]  # (theta, key) -> state, at the start of an episode
    step: Callable[[Tree, Tree, Array], tuple[Tree, Array]]  # (state, theta, t) -> (state, loss_t)
    horizon: int  # steps of an episode

    def loss(self, theta: Tree, key: Array) -> Array:
        """The whole episode at once, for rules without windows. `key` is for `start`."""
        return run_window(self, self.start(theta, key), theta, jnp.int32(0), self.horizon)[1]


class WindowedEstimator(NamedTuple):
    """A derivative rule that sees an episode a window at a time, then starts the next one.

    Each call of `step` gives an estimate for the mean loss of its window. Their mean over the
    `horizon / truncation` windows of an episode, `theta` held, is the estimate for `L(theta)`.
    Where `theta` moves between windows, the states still remember the earlier ones.
    """

    init: Callable[[Tree, Array], Any]  # (theta, key) -> state
    step: Callable[[Any, Tree, Array], tuple[Any, Estimate]]  # (state, theta, key)


def run_window(
    system: Unrolled, state: Tree, theta: Tree, time: Array, length: int
) -> tuple[Tree, Array]:
    """`length` steps from `time`: the state after them, and their mean loss."""

    def advance(state: Tree, t: Array) -> tuple[Tree, Array]:
        state, loss = system.step(state, theta, t)
        return state, real_scalar(loss, system.step)

    state, losses = jax.lax.scan(advance, state, time + jnp.arange(length, dtype=jnp.int32))
    return state, jnp.mean(losses)


def begin_or_continue(system: Unrolled, state: Tree, theta: Tree, time: Array, key: Array) -> Tree:
    """`state`, or a fresh one at the start of an episode."""
    return jax.lax.cond(time == 0, lambda: system.start(theta, key), lambda: state)


def after_window(system: Unrolled, time: Array, length: int) -> Array:
    """The time at which the next window begins."""
    return (time + length) % system.horizon


def require_windows(system: Unrolled, truncation: int) -> None:
    """Refuse windows that do not fill an episode."""
    require("horizon", system.horizon, Count)
    if system.horizon % truncation:
        raise ValueError(
            f"`truncation` must divide the system's `horizon`: got {truncation} and "
            f"{system.horizon}."
        )
