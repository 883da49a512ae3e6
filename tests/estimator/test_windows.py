"""Rules that see a long unroll a window at a time: what truncation loses, and what persistence keeps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.estimates import (
    LinearSystem,
    assert_mean,
    assert_total_variance,
    episodes,
    flat,
    influence_balancing,
)
from toolkit.estimator import Backprop, PersistentES, TruncatedBackprop, TruncatedES, Unrolled

HORIZON, WINDOW, SIGMA = 12, 3, 0.3
COUNT = 20_000
SYSTEM = LinearSystem(
    np.array([[0.9, 0.3, 0.0], [-0.2, 0.8, 0.1], [0.0, 0.4, 0.7]]),
    np.array([[0.5, 0.0], [-0.3, 0.4], [0.2, -0.6]]),
    np.array([1.0, -0.5, 0.3]),
    np.array([1.0, 0.5, 2.0]),
    np.array([0.2, -0.1, 0.4]),
)
THETA = np.array([0.6, -0.4])
INFLUENCES = SYSTEM.influences(THETA, HORIZON, WINDOW)  # [W, W, 2]
FULL = INFLUENCES.sum(1)  # [W, 2], every window's gradient
TRUNCATED = np.einsum("iim->im", INFLUENCES)  # [W, 2], through its own copy of theta alone
THETA = jnp.asarray(THETA)
KEY = jax.random.key(0)


def test_the_closed_form_is_the_gradient() -> None:
    system = SYSTEM.unrolled(HORIZON)
    value, gradient = Backprop()(lambda theta: system.loss(theta, KEY))(THETA, KEY)
    np.testing.assert_allclose(gradient, FULL.mean(0), rtol=1e-12)
    assert value == system.loss(THETA, KEY)


def test_truncated_backprop_is_the_truncated_gradient() -> None:
    got = episodes(TruncatedBackprop(WINDOW), SYSTEM.unrolled(HORIZON), THETA, 1)[0]
    np.testing.assert_allclose(got, TRUNCATED, rtol=1e-12)


def test_truncated_es_has_the_bias_of_truncation() -> None:
    got = episodes(TruncatedES(SIGMA, 2, WINDOW), SYSTEM.unrolled(HORIZON), THETA, COUNT)
    for window in range(HORIZON // WINDOW):
        assert_mean(got[:, window], TRUNCATED[window])
    with pytest.raises(AssertionError, match="mean"):
        assert_mean(got.mean(1), FULL.mean(0))


def test_persistent_es_has_none() -> None:
    """In every window, not only over the episode; and the truncated gradient is refused."""
    got = episodes(PersistentES(SIGMA, 4, WINDOW), SYSTEM.unrolled(HORIZON), THETA, COUNT)
    for window in range(HORIZON // WINDOW):
        assert_mean(got[:, window], FULL[window])
    assert_mean(got.mean(1), FULL.mean(0))
    with pytest.raises(AssertionError, match="mean"):
        assert_mean(got.mean(1), TRUNCATED.mean(0), resolution=0.05)


def test_the_variance_of_persistent_es_grows_with_the_windows() -> None:
    """One unknown: `(t |a|^2 + (sum a)^2) / P`, `a_i` the influence of window `i`'s perturbation.

    `x ~ N(0, t)` and `d = sum_i a_i e_i` are Gaussian with covariance `c = sum a`, and
    `Var(x d) = Var x Var d + c^2`.
    """
    system = SYSTEM._replace(B=SYSTEM.B[:, :1])
    influences = system.influences(np.array([0.6]), HORIZON, WINDOW)[:, :, 0]
    got = episodes(
        PersistentES(SIGMA, 2, WINDOW), system.unrolled(HORIZON), jnp.asarray([0.6]), 2 * COUNT
    )
    for window, a in enumerate(influences):
        expected = ((window + 1) * a @ a + a.sum() ** 2) / 2
        assert_total_variance(got[:, window], [a.sum()], expected)


@pytest.mark.parametrize("rule", [TruncatedES, PersistentES])
def test_one_window_an_episode_is_the_whole_loss(rule: Any) -> None:
    system = SYSTEM.unrolled(HORIZON)
    got = episodes(rule(SIGMA, 4, HORIZON), system, THETA, COUNT)
    assert_mean(got[:, 0], FULL.mean(0))


def test_influence_balancing_tells_the_signs_apart() -> None:
    """Every truncated rule has the wrong sign, PES the right one, each 5 standard errors from zero."""
    chain, theta, horizon, window = influence_balancing(), np.array([0.5]), 200, 10
    influences = chain.influences(theta, horizon, window)[:, :, 0]
    exact, truncated = influences.sum(1).mean(), np.diag(influences).mean()
    assert truncated < 0 < exact
    system = chain.unrolled(horizon)
    np.testing.assert_allclose(jax.grad(system.loss)(jnp.asarray(theta), KEY), [exact], rtol=1e-10)

    def mean_and_error(rule: Any, count: int) -> tuple[float, float]:
        got = np.asarray(episodes(rule, system, jnp.asarray(theta), count)).mean(1)
        return got.mean(), got.std() / np.sqrt(count)

    mean, _ = mean_and_error(TruncatedBackprop(window), 1)
    np.testing.assert_allclose(mean, truncated, rtol=1e-10)
    mean, error = mean_and_error(TruncatedES(0.1, 10, window), 100)
    assert mean + 5 * error < 0
    assert abs(mean - truncated) < 5 * error
    mean, error = mean_and_error(PersistentES(0.1, 10, window), 100)
    assert mean - 5 * error > 0
    assert abs(mean - exact) < 5 * error


def random_walk(horizon: int = 6) -> Unrolled:
    """A state with keys and integers, a start that depends on `theta`, and odd leaves in `theta`."""

    def start(theta: Any, key: Any) -> dict:
        return {"x": theta["w"] * jax.random.normal(key), "steps": jnp.int32(0), "key": key}

    def step(state: dict, theta: Any, t: Any) -> tuple[dict, Any]:
        noise = jax.random.normal(jax.random.fold_in(state["key"], t))
        x = 0.8 * state["x"] + theta["w"] + 0.1 * noise
        steps = state["steps"] + theta["count"]
        return {"x": x, "steps": steps, "key": state["key"]}, x**2 + 0.0 * steps

    return Unrolled(start, step, horizon)


WALK = {"w": jnp.asarray(0.7), "count": jnp.int32(1), "name": "walk"}
RULES = [TruncatedBackprop(2), TruncatedES(0.1, 4, 2, batch=2), PersistentES(0.1, 4, 2, batch=2)]


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_states_and_thetas_may_hold_anything(rule: Any) -> None:
    init, step = rule(random_walk())
    state = init(WALK, KEY)
    jitted = jax.jit(lambda state, w, key: step(state, {**WALK, "w": w}, key))
    for window in range(4):
        key = jax.random.fold_in(KEY, window)
        state, (value, gradient) = jitted(state, WALK["w"], key)
        assert gradient["count"] is None
        assert gradient["name"] is None
        assert jnp.isfinite(value)
        assert jnp.isfinite(gradient["w"])
        assert state.time == 2 * ((window + 1) % 3)
    # The fourth window is the first of the second episode.
    steps = (state.system if hasattr(state, "system") else state.systems)["steps"]
    assert jnp.all(steps == 2)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_an_episode_forgets_the_one_before(rule: Any) -> None:
    """With the same keys the second episode has the first one's bits."""
    init, step = rule(random_walk())
    state = init(WALK, KEY)
    jitted = jax.jit(lambda state, key: step(state, WALK, key))
    seen = []
    for window in range(6):
        state, estimate = jitted(state, jax.random.fold_in(KEY, window % 3))
        seen.append(flat(estimate))
    np.testing.assert_array_equal(seen[:3], seen[3:])


def test_windows_under_vmap() -> None:
    """Two runs at different times of their episodes."""
    init, step = PersistentES(0.1, 3, 2)(random_walk())
    run = jax.jit(lambda state, key: step(state, WALK, key))
    first = init(WALK, KEY)
    second, _ = run(first, KEY)
    both = jax.tree.map(lambda a, b: jnp.stack([a, b]), first, second)
    keys = jax.random.split(KEY, 2)
    _, batched = jax.vmap(run)(both, keys)
    for i, state in enumerate((first, second)):
        _, alone = run(state, keys[i])
        got = jax.tree.map(lambda leaf, i=i: leaf[i], batched)
        np.testing.assert_allclose(flat(got), flat(alone), rtol=1e-10)


def test_windows_must_fill_the_episode() -> None:
    for rule in (TruncatedBackprop(5), TruncatedES(0.1, 2, 5), PersistentES(0.1, 2, 5)):
        with pytest.raises(ValueError, match="`truncation` must divide"):
            rule(SYSTEM.unrolled(HORIZON))


def test_a_step_must_return_one_number() -> None:
    system = tk.estimator.Unrolled(lambda theta, key: theta, lambda s, theta, t: (s, s), 4)
    init, step = TruncatedBackprop(2)(system)
    with pytest.raises(ValueError, match="must return one real"):
        step(init(THETA, KEY), THETA, KEY)
