"""The laws of every bilevel method, on a quadratic whose minimiser and estimators are known.

A new method is one row in METHODS.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.bilevel import quadratic as q
from toolkit.bilevel import FSLA, SOBA, AmIGO, StocBiO, linear_system

ETA = 0.2


class Method(NamedTuple):
    make: Callable[..., Any]  # batch_size and overrides -> settings
    inverse: Callable[[], np.ndarray]  # what stands for A^{-1} at its full-batch fixed point
    gradients: int
    hvps: int


METHODS = {
    "SOBA": Method(
        lambda **k: SOBA(0.2, 0.2, **k), lambda: np.linalg.inv(q.MEAN["A"]), gradients=2, hvps=2
    ),
    "FSLA": Method(
        lambda **k: FSLA(0.2, 0.2, **k), lambda: np.linalg.inv(q.MEAN["A"]), gradients=4, hvps=3
    ),
    "AmIGO": Method(
        lambda **k: AmIGO(0.2, 0.2, inner_steps=4, linear_steps=3, **k),
        lambda: np.linalg.inv(q.MEAN["A"]),
        gradients=5,
        hvps=4,
    ),
    "StocBiO": Method(
        lambda **k: StocBiO(0.2, 0.2, inner_steps=4, linear_steps=3, linear_step_size=ETA, **k),
        lambda: q.truncated(ETA, 4),
        gradients=5,
        hvps=4,
    ),
}
every = pytest.mark.parametrize("name", METHODS)


def _run(settings: Any, steps: int, key: int = 0) -> tuple[Any, Any]:
    init, step = settings(q.problem())
    state = init(jax.random.key(key), q.Y0, q.X0)
    return jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s), s, None, steps))(state)


@every
def test_full_batch_arrives_at_the_minimiser_or_at_the_stated_bias(name: str) -> None:
    method = METHODS[name]
    state, info = _run(method.make(), 4000)
    x, y = q.solution(method.inverse())
    np.testing.assert_allclose(state.theta, x, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(state.y, y, rtol=1e-9, atol=1e-10)
    assert info.gradient_norm[-1] < 1e-9 < info.gradient_norm[0]
    if hasattr(state, "v"):
        slope = q.MEAN["F"] @ y + q.MEAN["K"].T @ x + q.MEAN["p"]
        np.testing.assert_allclose(state.v, np.linalg.solve(q.MEAN["A"], slope), rtol=1e-8)


@every
def test_the_cost_is_that_of_the_docstring(name: str) -> None:
    _, info = _run(METHODS[name].make(batch_size=2), 3)
    assert list(info.gradient_evals) == [METHODS[name].gradients] * 3
    assert list(info.hvp_evals) == [METHODS[name].hvps] * 3


@every
def test_same_key_same_bits_and_other_key_other_path(name: str) -> None:
    settings = METHODS[name].make(batch_size=1)
    first, again, other = (_run(settings, 5, key)[0].theta for key in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert np.any(first != other)


@every
def test_vmap_over_seeds_is_each_seed(name: str) -> None:
    init, step = METHODS[name].make(batch_size=2)(q.problem())

    def run(key: jax.Array) -> jax.Array:
        return jax.lax.scan(lambda s, _: step(s), init(key, q.Y0, q.X0), None, 5)[0].theta

    keys = jax.vmap(jax.random.key)(jnp.arange(3))
    together = jax.jit(jax.vmap(run))(keys)
    for i in range(3):
        np.testing.assert_allclose(together[i], jax.jit(run)(keys[i]), rtol=1e-12)


@every
def test_optax_in_place_of_step_sizes_and_schedules_of_the_step(name: str) -> None:
    rates = optax.polynomial_schedule(0.2, 0.1, 1, 4)
    by_number, _ = _run(METHODS[name].make(), 4)
    by_optax, _ = _run(
        METHODS[name].make(inner_optimizer=optax.sgd(0.2), outer_optimizer=optax.sgd(0.2)), 4
    )
    np.testing.assert_allclose(by_optax.theta, by_number.theta, rtol=1e-12)
    make = type(METHODS[name].make())
    words = {} if name != "StocBiO" else {"linear_step_size": ETA}
    scheduled, _ = _run(make(0.2, rates, **words), 4)
    fixed, _ = _run(make(0.2, 0.2, **words), 4)
    assert np.all(scheduled.theta != fixed.theta)


@every
def test_trees_and_carried_leaves(name: str) -> None:
    """The same path on dicts that also hold an integer and a name."""
    plain, _ = _run(METHODS[name].make(), 6)
    wrapped = tk.bilevel.Problem(
        lambda y, t, batch: q.inner(y["w"], t["x"], batch),
        lambda y, t, batch: q.outer(y["w"], t["x"], batch),
        q.INNER,
        q.OUTER,
    )
    init, step = METHODS[name].make()(wrapped)
    state = init(jax.random.key(0), {"w": q.Y0, "n": 3}, {"x": q.X0, "name": None})
    for _ in range(6):
        state, _ = step(state)
    np.testing.assert_allclose(state.theta["x"], plain.theta, rtol=1e-12)
    assert state.y["n"] == 3 and state.theta["name"] is None


# ------------------------------------------------------ expectations, over all batches of one example


def _all_pairs() -> list[tuple[Any, Any]]:
    one = lambda data, i: {k: jnp.asarray(v[i : i + 1]) for k, v in data.items()}
    return [
        (one(q.INNER, i), one(q.OUTER, j)) for i, j in itertools.product(range(q.I), range(q.J))
    ]


def test_the_mean_direction_of_soba_is_the_full_batch_direction() -> None:
    """At any (y, theta, v), for all three variables."""
    v = jnp.asarray([0.7, -0.3])

    def moves(inner_data: Any, outer_data: Any) -> np.ndarray:
        init, step = SOBA(1.0, 1.0)(q.problem(inner_data, outer_data))
        state = init(jax.random.key(0), q.Y0, q.X0)._replace(v=v)
        new, _ = step(state)
        return np.concatenate([new.y - q.Y0, new.v - v, new.theta - q.X0])

    each = [moves(*pair) for pair in _all_pairs()]
    np.testing.assert_allclose(np.mean(each, axis=0), moves(q.INNER, q.OUTER), atol=1e-12)
    y, x = np.asarray(q.Y0), np.asarray(q.X0)
    slope = q.MEAN["F"] @ y + q.MEAN["K"].T @ x + q.MEAN["p"]
    expected = np.concatenate(
        [
            -(q.MEAN["A"] @ y + q.MEAN["C"].T @ x + q.MEAN["a"]),
            -(q.MEAN["A"] @ v - slope),
            -(q.MEAN["E"] @ x + q.MEAN["K"] @ y + q.MEAN["e"] - q.MEAN["C"] @ v),
        ]
    )
    np.testing.assert_allclose(moves(q.INNER, q.OUTER), expected, atol=1e-12)


B, V0 = np.asarray([0.4, -1.1]), np.asarray([0.2, 0.5])


@pytest.mark.parametrize("kind", ["sum", "sample", "descend"])
def test_the_mean_of_a_stochastic_inverse_is_the_truncated_series(kind: str) -> None:
    """Exactly, by enumeration of all sequences of three batches of one example, and of all lengths."""
    Q, A = 3, jnp.asarray(q.INNER["A"])
    product = lambda i, w: A[i] @ w  # the key is the example
    sequences = jnp.asarray(list(itertools.product(range(q.I), repeat=Q)))
    series = {
        "sum": lambda keys: linear_system.neumann_sum(product, B, ETA, keys),
        "sample": lambda keys: sum(
            linear_system.neumann_sample(product, jnp.asarray(B), ETA, length, keys) / Q
            for length in range(Q)
        ),
        "descend": lambda keys: linear_system.descend(product, B, jnp.asarray(V0), ETA, keys),
    }
    mean = np.mean(jax.jit(jax.vmap(series[kind]))(sequences), axis=0)
    P = np.eye(q.N) - ETA * q.MEAN["A"]
    expected = {
        "sum": q.truncated(ETA, Q + 1) @ B,
        "sample": q.truncated(ETA, Q) @ B,
        "descend": np.linalg.matrix_power(P, Q) @ V0 + q.truncated(ETA, Q) @ B,
    }
    np.testing.assert_allclose(mean, expected[kind], atol=1e-12)


@pytest.mark.parametrize("name", ["AmIGO", "StocBiO"])
def test_the_mean_direction_is_that_of_the_truncated_inverse(name: str) -> None:
    """One step of theta with y held: over 60,000 keys, within 5 standard errors."""
    overrides = {"linear_steps": 2, "linear_step_size": ETA, "inner_steps": 1}
    make = {"AmIGO": AmIGO, "StocBiO": StocBiO}[name]
    init, step = make(1e-12, 1.0, batch_size=1, **overrides)(q.problem())

    def direction(key: jax.Array) -> jax.Array:
        return q.X0 - step(init(key, q.Y0, q.X0))[0].theta

    draws = jax.jit(jax.vmap(direction))(jax.random.split(jax.random.key(5), 60_000))
    inverse = q.truncated(ETA, {"AmIGO": 2, "StocBiO": 3}[name])
    expected = q.hypergradient(np.asarray(q.X0), np.asarray(q.Y0), inverse)
    error = np.mean(draws, axis=0) - expected
    assert np.all(np.abs(error) < 5 * np.std(draws, axis=0) / 60_000**0.5)
    # and it tells the truncated inverse from the exact one
    exact = q.hypergradient(np.asarray(q.X0), np.asarray(q.Y0), np.linalg.inv(q.MEAN["A"]))
    assert np.any(np.abs(np.mean(draws, axis=0) - exact) > 10 * np.std(draws, axis=0) / 60_000**0.5)


def test_fsla_is_its_recursion_and_without_noise_needs_none() -> None:
    """Against numpy for three steps of the full batch, where d stays the sample itself."""
    init, step = FSLA(0.2, 0.3, linear_step_size=0.1, momentum=0.4)(q.problem())
    state, m = init(jax.random.key(0), q.Y0, q.X0), q.MEAN
    y, x, v = np.asarray(q.Y0), np.asarray(q.X0), np.zeros(q.N)
    for _ in range(3):
        y = y - 0.2 * (m["A"] @ y + m["C"].T @ x + m["a"])
        v = v - 0.1 * (m["A"] @ v - (m["F"] @ y + m["K"].T @ x + m["p"]))
        d = m["E"] @ x + m["K"] @ y + m["e"] - m["C"] @ v
        x = x - 0.3 * d
        state, _ = step(state)
        np.testing.assert_allclose(state.direction, d, rtol=1e-12)
        np.testing.assert_allclose(state.theta, x, rtol=1e-12)


def test_the_memory_of_fsla_adds_no_bias() -> None:
    """d - D(u) has mean zero after three noisy steps of theta alone: 60,000 keys, 5 standard errors."""
    init, step = FSLA(1e-12, 1e-3, batch_size=1, linear_step_size=1e-12, momentum=0.3)(q.problem())

    def drift(key: jax.Array) -> jax.Array:
        state = init(key, q.Y0, q.X0)
        for _ in range(3):
            before, (state, _) = state.theta, step(state)
        m = {name: jnp.asarray(value) for name, value in q.MEAN.items()}
        return state.direction - (m["E"] @ before + m["K"] @ q.Y0 + m["e"])

    draws = jax.jit(jax.vmap(drift))(jax.random.split(jax.random.key(9), 60_000))
    assert np.all(np.abs(np.mean(draws, axis=0)) < 5 * np.std(draws, axis=0) / 60_000**0.5)


# ---------------------------------------------------------------------------------------- refusals


def test_bad_settings_and_data_are_refused() -> None:
    for make in (FSLA, SOBA, AmIGO, StocBiO):
        with pytest.raises(ValueError, match=r"`inner_step_size` must be a positive number"):
            make(-0.1, 0.1)
        with pytest.raises(ValueError, match=r"`outer_step_size` must be a positive number"):
            make(0.1, "fast")
        with pytest.raises(ValueError, match=r"`batch_size` must be an int of at least 1: got 0"):
            make(0.1, 0.1, batch_size=0)
        init, _ = make(0.1, 0.1)(q.problem())
        with pytest.raises(
            ValueError, match=r"`y0` must have floating leaves.*got complex128\[2\]"
        ):
            init(jax.random.key(0), q.Y0 + 0j, q.X0)
        with pytest.raises(ValueError, match=r"`theta0` must have floating leaves.*got int64\[\]"):
            init(jax.random.key(0), q.Y0, jnp.asarray(3))
    with pytest.raises(ValueError, match=r"`momentum` must be in \(0, 1\]: got 2"):
        FSLA(0.1, 0.1, momentum=2)
    with pytest.raises(ValueError, match=r"`inner_steps` must be an int of at least 1: got 0"):
        AmIGO(0.1, 0.1, inner_steps=0)
    with pytest.raises(ValueError, match=r"`linear_step_size` must be given where"):
        StocBiO(optax.constant_schedule(0.1), 0.1)
    with pytest.raises(ValueError, match=r"`inner_data` must have leaves that share"):
        tk.bilevel.Problem(q.inner, q.outer, {"a": jnp.ones(3), "b": jnp.ones(4)}, q.OUTER)
    with pytest.raises(TypeError, match=r"`outer` must be callable"):
        tk.bilevel.Problem(q.inner, 3.0)
