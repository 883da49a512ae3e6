"""Products with second derivatives, where `inner` calls a function whose derivative rule is its own."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.bilevel.parts.oracles import cross, hvp

W, FEEDBACK = jnp.array([[1.0, 0.4], [-0.3, 1.2]]), jnp.array([[0.9, 0.1], [0.5, 1.1]])
Y, THETA, V = jnp.array([0.4, -0.7]), jnp.array([0.3, 0.2]), jnp.array([1.0, -2.0])


@jax.custom_vjp
def feedback(x):
    return W @ x


feedback.defvjp(lambda x: (W @ x, None), lambda _, bar: (FEEDBACK.T @ bar,))


# A true rule, but of a backward pass alone.
@jax.custom_vjp
def tanh(x):
    return jnp.tanh(x)


tanh.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda out, bar: (bar * (1 - out**2),))


def _problem(operation: Any) -> tk.bilevel.Problem:
    def inner(y, theta, batch):
        return 0.5 * jnp.sum((operation(y) - theta) ** 2) + 0.1 * jnp.sum(theta * y**2)

    return tk.bilevel.Problem(inner, lambda y, theta, batch: jnp.sum(jnp.sin(y)))


@pytest.mark.parametrize("operation", [jnp.tanh, tanh, feedback])
def test_products_are_the_pullback_of_the_followed_gradient(operation: Any) -> None:
    problem = _problem(operation)
    gradient = jax.grad(problem.inner)
    in_y, in_theta = (np.asarray(jax.jacrev(gradient, i)(Y, THETA, None)) for i in (0, 1))
    np.testing.assert_allclose(hvp(problem, Y, THETA, V, None), in_y.T @ V, rtol=1e-12)
    np.testing.assert_allclose(cross(problem, Y, THETA, V, None), in_theta.T @ V, rtol=1e-12)


def test_a_single_loop_ends_where_the_transposed_system_says() -> None:
    problem = _problem(feedback)
    init, step = tk.bilevel.SOBA(0.3, 1e-13)(problem)
    state, _ = jax.jit(lambda s: jax.lax.scan(lambda s, _: step(s), s, None, 400))(
        init(jax.random.key(0), Y, THETA)
    )
    in_y = np.asarray(jax.jacrev(jax.grad(problem.inner))(state.y, THETA, None))
    np.testing.assert_allclose(state.v, np.linalg.solve(in_y.T, jnp.cos(state.y)), rtol=1e-9)


@pytest.mark.parametrize(
    "method",
    [
        tk.bilevel.BOME(0.1, 0.1),
        tk.bilevel.F2SA(0.1, 0.1),
        tk.bilevel.HOAG(0.1, 0.1),
        tk.bilevel.DARTS(0.1, 0.1),
        tk.bilevel.SAMA(0.1, 0.1),
    ],
    ids=lambda method: type(method).__name__,
)
def test_methods_that_take_it_for_symmetric_refuse(method: Any) -> None:
    with pytest.raises(ValueError, match=r"`inner` must have a true gradient.*`feedback` .*; use "):
        method(_problem(feedback))[0](jax.random.key(0), Y, THETA)
    method(_problem(jnp.tanh))[0](jax.random.key(0), Y, THETA)
