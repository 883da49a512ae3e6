"""`reversible`: right, or NaN."""

from __future__ import annotations

import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.control import reconstruction_error, reversible, store

STEPS, UNITS, STEP_SIZE = 300, 16, 0.05


def _leapfrog(weights: jax.Array) -> tuple[Any, Any]:
    half = lambda q: STEP_SIZE / 2 * jnp.tanh(weights @ q)

    def body(carry: tuple, x: jax.Array) -> tuple[tuple, jax.Array]:
        q, p, count = carry
        p = p - half(q)
        q = q + STEP_SIZE * p
        return (q, p - half(q) + x, count + 1), jnp.sum(q**2)

    def inverse(carry: tuple, x: jax.Array) -> tuple:
        q, p, count = carry
        p = p - x + half(q)
        q = q - STEP_SIZE * p
        return q, p + half(q), count - 1

    return body, inverse


def _problem(dtype: Any) -> tuple:
    rng = np.random.default_rng(0)
    # A positive definite force: the pair oscillates, neither growing nor shrinking.
    weights = np.eye(UNITS) + 0.1 * rng.normal(size=(UNITS, UNITS))
    q, xs = rng.normal(size=UNITS), 0.01 * rng.normal(size=(STEPS, UNITS))
    return jnp.asarray(weights, dtype), jnp.asarray(q, dtype), jnp.asarray(xs, dtype)


def _loss(make_gradient: Any) -> Any:
    def loss(weights: jax.Array, q: jax.Array, xs: jax.Array) -> jax.Array:
        body, inverse = _leapfrog(weights)
        start = (q, jnp.zeros_like(q), 0)
        (q, p, _), ys = tk.loop(body, start, xs, None, make_gradient(inverse))
        return jnp.sum(q**3) + jnp.sum(p) + jnp.mean(ys)

    return loss


def _relative_errors(got: Any, expected: Any) -> list[float]:
    return [
        float(jnp.linalg.norm(a - b) / jnp.linalg.norm(b))
        for a, b in zip(got, expected, strict=True)
    ]


# 300 steps and their inverses round 600 times: eps times some hundreds.
@pytest.mark.parametrize(("dtype", "rtol"), [(jnp.float32, 1e-4), (jnp.float64, 1e-12)])
def test_leapfrog_is_recovered_and_differentiated(dtype: Any, rtol: float) -> None:
    problem = _problem(dtype)
    got = jax.jit(jax.grad(_loss(reversible), (0, 1, 2)))(*problem)
    expected = jax.jit(jax.grad(_loss(lambda _: store()), (0, 1, 2)))(*problem)
    assert max(_relative_errors(got, expected)) < rtol
    body, inverse = _leapfrog(problem[0])
    start = (problem[1], jnp.zeros_like(problem[1]), 0)
    assert reconstruction_error(body, inverse, start, problem[2]) < rtol


def _scaled(factor: float) -> Any:
    def make(inverse: Any) -> Any:
        def wrong(carry: tuple, x: jax.Array) -> tuple:
            q, p, count = inverse(carry, x)
            return q * factor, p * factor, count

        return reversible(wrong)

    return make


def _miscounting(inverse: Any) -> Any:
    return reversible(lambda carry, x: (*inverse(carry, x)[:2], carry[2]))


@pytest.mark.parametrize(
    "make", [_scaled(1.001), _miscounting], ids=["wrong by 1e-3", "wrong in an integer"]
)
@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_wrong_inverse_gives_nan_everywhere(make: Any, steps: int) -> None:
    weights, q, xs = _problem(jnp.float32)
    gradients = jax.jit(jax.grad(_loss(make), (0, 1, 2)))(weights, q, xs[:steps])
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in gradients)


def test_outside_jit_a_warning_tells_the_numbers() -> None:
    weights, q, xs = _problem(jnp.float32)
    with pytest.warns(RuntimeWarning, match=r"missed a carry by .*e-0\d relative, 3\.5e-04 is ad"):
        jax.grad(_loss(_scaled(1.001)))(weights, q, xs[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        jax.grad(_loss(reversible))(weights, q, xs)


def _contraction(weights: jax.Array) -> tuple[Any, Any]:
    move = lambda x: 0.05 * (jnp.tanh(x @ weights) - x)
    body = lambda x, _: (x + move(x), None)

    def inverse(later: jax.Array, _: None) -> jax.Array:
        x = later
        for _ in range(8):
            x = later - move(x)
        return x

    return body, inverse


@pytest.mark.parametrize("dtype", [jnp.float32, pytest.param(jnp.float64, marks=pytest.mark.slow)])
def test_a_contraction_is_not_reversed_in_silence(dtype: Any) -> None:
    """Each inverse step is good to rounding, which grows by 1 / 0.95 at every step."""
    rng = np.random.default_rng(0)
    weights = jnp.asarray(rng.normal(size=(UNITS, UNITS)) / 4 / UNITS**0.5, dtype)
    start = jnp.asarray(rng.normal(size=(2, UNITS)), dtype)

    def loss(weights: jax.Array) -> jax.Array:
        body, inverse = _contraction(weights)
        return jnp.sum(tk.loop(body, start, None, 1000, reversible(inverse))[0] ** 2)

    assert jnp.all(jnp.isnan(jax.jit(jax.grad(loss))(weights)))
    body, inverse = _contraction(weights)
    # Every step alone passes: it is the carries, compared with their notes, that tell.
    one = reconstruction_error(body, inverse, start, None, 1)
    admitted = float(jnp.finfo(dtype).eps) ** 0.5
    assert one < admitted and not reconstruction_error(body, inverse, start, None, 1000) < admitted


def test_a_drift_that_heals_before_the_start_is_seen() -> None:
    """The loop grows by 2 and then shrinks by 2: backwards, an error grows and shrinks again.

    Each step is inverted to 1e-9, and so is the start; between them the carry is off by 0.03.
    """
    factors = jnp.concatenate([jnp.full(25, 2.0), jnp.full(25, 0.5)]).astype(jnp.float32)
    body = lambda carry, factor: (jnp.stack([carry[0] * factor, carry[1]]), carry[0] ** 2)
    start = jnp.asarray([0.0, 1.0], jnp.float32)

    def gradient(error: float) -> jax.Array:
        inverse = lambda carry, factor: jnp.stack([carry[0] / factor + error, carry[1]])
        loop = lambda carry: tk.loop(body, carry, factors, None, reversible(inverse))
        return jax.jit(jax.grad(lambda carry: jnp.sum(loop(carry)[0]) + jnp.sum(loop(carry)[1])))(
            start
        )

    np.testing.assert_allclose(gradient(0.0), [1, 1])
    assert jnp.isnan(gradient(1e-9)).all()


def test_a_fault_in_one_lane_leaves_the_others() -> None:
    weights, q, xs = _problem(jnp.float32)

    def loss(q: jax.Array, factor: jax.Array) -> jax.Array:
        body, inverse = _leapfrog(weights)

        def scaled(carry: tuple, x: jax.Array) -> tuple:
            before = inverse(carry, x)
            return before[0] * factor, before[1], before[2]

        carry, _ = tk.loop(body, (q, jnp.zeros_like(q), 0), xs, None, reversible(scaled))
        return jnp.sum(carry[0])

    factors = jnp.asarray([1.0, 1.01], jnp.float32)
    right, wrong = jax.jit(jax.vmap(jax.grad(loss), (None, 0)))(q, factors)
    assert jnp.isfinite(right).all() and jnp.isnan(wrong).all()


@pytest.mark.parametrize(
    ("inverse", "message"),
    [
        (lambda c, _: c[None], r"`inverse` must return a carry of the types .* float64\[1,3\]"),
        (lambda c, _: (c, None), "`inverse` must return a carry of the structure it was given"),
        (None, "`inverse` must be a function: got None"),
    ],
)
def test_an_inverse_of_another_type_is_refused(inverse: Any, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tk.loop(lambda c, _: (c, None), jnp.ones(3), None, 2, reversible(inverse))


def test_tolerance_is_checked() -> None:
    with pytest.raises(ValueError, match="`tol` must be None or a positive number: got 0"):
        reversible(lambda carry, _: carry, tol=0)
