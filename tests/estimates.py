"""Judging an estimator by many of its estimates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk

STANDARD_ERRORS = 5


def assert_mean(samples: Any, expected: Any, resolution: float = 0.02) -> None:
    """The mean of `samples` `[M, D]` is `expected` `[D]` within 5 of its standard errors.

    `resolution` bounds the standard error, relative to the norm of `expected`: a test that could
    not tell a wrong mean from the right one fails.
    """
    samples, expected = np.asarray(samples, np.float64), np.asarray(expected, np.float64)
    mean = samples.mean(0)
    standard_error = samples.std(0, ddof=1) / np.sqrt(len(samples))
    scale = np.linalg.norm(expected)
    assert np.all(standard_error <= resolution * scale), f"too noisy: {standard_error} of {scale}"
    slack = STANDARD_ERRORS * standard_error + 1e-9 * scale
    assert np.all(np.abs(mean - expected) <= slack), (
        f"mean {mean}, expected {expected}, standard error {standard_error}"
    )


def assert_total_variance(samples: Any, mean: Any, expected: float) -> None:
    """`E |g - mean|^2` is `expected` within 5 standard errors, which are at most 2 % of it."""
    squares = np.sum((np.asarray(samples) - np.asarray(mean)) ** 2, axis=1)
    assert_mean(squares[:, None], [expected])


def many(estimate: Callable, theta: Any, count: int, seed: int = 0) -> tuple[Any, Any]:
    """`count` estimates: values `[count]` and gradients `[count, D]`, real and imaginary parts apart."""

    @jax.jit
    @jax.vmap
    def one(key: Any) -> tuple[Any, Any]:
        value, gradient = estimate(theta, key)
        return value, flat(gradient)

    return one(jax.random.split(jax.random.key(seed), count))


def flat(tree: Any) -> Any:
    """All leaves as one real vector."""
    leaves = [jnp.ravel(leaf) for leaf in jax.tree.leaves(tree)]
    parts = [[leaf.real, leaf.imag] if jnp.iscomplexobj(leaf) else [leaf] for leaf in leaves]
    return jnp.concatenate([part for pair in parts for part in pair])


class LinearSystem(NamedTuple):
    """`s <- A s + B theta`, `loss_t = q.(s - c)^2 / 2` after the step; `N` states, `M` unknowns."""

    A: Any  # [N, N]
    B: Any  # [N, M]
    c: Any  # [N]
    q: Any  # [N]
    s0: Any  # [N]

    def unrolled(self, horizon: int) -> tk.estimator.Unrolled:
        """The system as the estimators take it."""

        def step(state: Any, theta: Any, t: Any) -> tuple[Any, Any]:
            state = self.A @ state + self.B @ theta
            return state, self.q @ (state - self.c) ** 2 / 2

        return tk.estimator.Unrolled(lambda theta, key: jnp.asarray(self.s0), step, horizon)

    def influences(self, theta: Any, horizon: int, window: int) -> Any:
        """`[W, W, M]`: derivative of window `i`'s mean loss by window `j`'s copy of `theta`."""
        num_windows = horizon // window
        state, tangents = self.s0, np.zeros((num_windows, len(self.s0), len(theta)))
        influences = np.zeros((num_windows, num_windows, len(theta)))
        for t in range(horizon):
            state = self.A @ state + self.B @ theta
            tangents = self.A @ tangents
            tangents[t // window] += self.B
            influences[t // window] += (
                np.einsum("jnm,n->jm", tangents, self.q * (state - self.c)) / window
            )
        return influences


def influence_balancing(units: int = 23, positive: int = 10) -> LinearSystem:
    """Tallec and Ollivier 2017, section 5: near influences are positive, their sum is negative.

    A chain of leaky units, each fed by the next one and by `theta` times its sign; the loss sees the
    first unit alone, which ends at `2 theta (10 - 13)`.
    """
    A = 0.5 * (np.eye(units) + np.eye(units, k=1))
    signs = np.where(np.arange(units) < positive, 1.0, -1.0)
    return LinearSystem(A, signs[:, None], np.ones(units), np.eye(units)[0], np.ones(units))


def episodes(rule: Any, system: tk.estimator.Unrolled, theta: Any, count: int) -> Any:
    """`[count, W, D]`: the gradient of each window of an episode, `theta` held, for many keys."""
    init, step = rule(system)
    num_windows = system.horizon // rule.truncation

    @jax.jit
    @jax.vmap
    def one(key: Any) -> Any:
        init_key, windows_key = jax.random.split(key)

        def window(state: Any, window_key: Any) -> tuple[Any, Any]:
            state, (_, gradient) = step(state, theta, window_key)
            return state, flat(gradient)

        keys = jax.random.split(windows_key, num_windows)
        return jax.lax.scan(window, init(theta, init_key), keys)[1]

    return one(jax.random.split(jax.random.key(1), count))
