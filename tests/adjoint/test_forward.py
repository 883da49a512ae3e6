"""What the laws do not say of Forward: its memory, its limit, its count."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import B, H
from toolkit.adjoint import Forward, Unroll

THETA = jnp.asarray([0.5, -1.0])


def _solve(num_steps: int, adjoint: object) -> tk.SolutionMap:
    # Not quadratic: else no iterate is needed to pull back through a step.
    fun = lambda y, theta: 0.5 * y @ H @ y - y @ (B @ theta) + 0.1 * jnp.sum(y**4)
    return tk.argmin(fun, tk.solver.GradientDescent(0.05, num_steps, 0.5), adjoint=adjoint)


def _temporary_bytes(num_steps: int, adjoint: object) -> int:
    solve = _solve(num_steps, adjoint)
    gradient = jax.grad(lambda theta: jnp.sum(solve(jnp.zeros(3), theta).value))
    compiled = jax.jit(gradient).lower(THETA).compile()
    return compiled.memory_analysis().temp_size_in_bytes


def test_memory_does_not_grow_with_the_steps() -> None:
    assert _temporary_bytes(1000, Forward()) <= 1.1 * _temporary_bytes(10, Forward())
    # The same measure does see the iterates that unrolling stores: float64, 3 a step, at least.
    assert _temporary_bytes(1000, Unroll()) >= 1000 * 3 * 8


def test_more_hyperparameters_than_tangents_are_refused() -> None:
    solve = tk.argmin(
        lambda y, theta: jnp.sum((y - theta) ** 2),
        tk.solver.GradientDescent(0.1, 3),
        adjoint=Forward(max_tangents=9),
    )
    value = lambda theta: jnp.sum(solve(jnp.zeros(10), theta).value)
    assert value(jnp.ones(10)) > 0  # the value costs no tangent
    with pytest.raises(ValueError, match=r"at most max_tangents=9 .* got 10.*Unroll\(\) or Impl"):
        jax.grad(value)(jnp.ones(10))


def test_only_what_is_differentiated_counts() -> None:
    data = jnp.arange(5000.0)

    def value(scale: jax.Array, data: jax.Array) -> jax.Array:
        fun = lambda y, s: (y - s * jnp.mean(data)) ** 2
        solve = tk.argmin(fun, tk.solver.GradientDescent(0.5, 3), adjoint=Forward())
        return solve(jnp.zeros(()), scale).value

    got = jax.jit(jax.grad(value))(jnp.asarray(2.0), data)
    np.testing.assert_allclose(got, 2499.5, rtol=1e-12)


def test_products_are_counted_for_every_tangent() -> None:
    hg = tk.hypergradient(lambda y, _: jnp.sum(y), _solve(30, Forward()))(jnp.zeros(3), THETA)
    assert hg.report.hvp_evals == 60
    assert hg.report.status == 0
