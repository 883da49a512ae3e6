"""What a function closes over is differentiated like theta, under every rule and transform."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import H
from toolkit.adjoint import Forward, Implicit, Nudged, OneStep, Reversible, Truncated, Unroll
from toolkit.linear import CG

RULES = [
    Implicit(),
    Implicit(CG(50, 1e-13)),
    Unroll(),
    Unroll("sqrt"),
    Unroll(forward_mode=True),
    Forward(),
    Truncated(150),
]
rules = pytest.mark.parametrize("adjoint", [*RULES, Reversible(), Nudged(0.5)], ids=str)
twice_differentiable_rules = pytest.mark.parametrize("adjoint", RULES, ids=str)
SOLVER = tk.solver.GradientDescent(0.15, 250, momentum=0.2)
LAM = jnp.asarray([0.5, -1.0, 2.0])


def _closed(lam: jax.Array, adjoint: Any, solver: Any = SOLVER) -> jax.Array:
    """sum y*^2 for y* = (H + diag(lam^2))^{-1} lam, with lam only in the closure, theta=None."""

    def fun(y: jax.Array, _: None) -> jax.Array:
        return 0.5 * y @ H @ y + 0.5 * jnp.sum((lam * y) ** 2) - y @ lam

    return jnp.sum(tk.argmin(fun, solver, adjoint=adjoint)(jnp.zeros(3), None).value ** 2)


def _exact(lam: jax.Array) -> jax.Array:
    return jnp.sum(jnp.linalg.solve(H + jnp.diag(lam**2), lam) ** 2)


@rules
def test_grad_of_jit_jit_of_grad_and_vmap_of_grad(adjoint: Any) -> None:
    value = lambda lam: _closed(lam, adjoint)
    expected = jax.grad(_exact)(LAM)
    for gradient in (jax.grad(jax.jit(value)), jax.jit(jax.grad(value)), jax.grad(value)):
        np.testing.assert_allclose(gradient(LAM), expected, rtol=1e-6)
    batch = jnp.stack([LAM, LAM + 0.1])
    np.testing.assert_allclose(
        jax.vmap(jax.grad(value))(batch), jax.vmap(jax.grad(_exact))(batch), rtol=1e-6
    )


@twice_differentiable_rules
def test_second_order(adjoint: Any) -> None:
    expected = jax.hessian(_exact)(LAM)
    got = jax.jit(jax.hessian(lambda lam: _closed(lam, adjoint)))(LAM)
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-8)


def test_one_step_closes_over_too() -> None:
    def value(lam: jax.Array) -> jax.Array:
        fun = lambda y, _: 0.5 * y @ H @ y - y @ lam
        solve = tk.argmin(fun, SOLVER, adjoint=OneStep())
        return jnp.sum(solve(jnp.zeros(3)).value)

    # One step of 0.15 moves y by 0.15 * lam.
    np.testing.assert_allclose(jax.grad(value)(LAM), 0.15 * np.ones(3), rtol=1e-12)


@rules
def test_closure_and_theta_together(adjoint: Any) -> None:
    def value(lam: jax.Array, theta: jax.Array) -> jax.Array:
        fun = lambda y, t: 0.5 * y @ H @ y - y @ (lam * t)
        return jnp.sum(tk.argmin(fun, SOLVER, adjoint=adjoint)(jnp.zeros(3), theta).value)

    exact = lambda lam, theta: jnp.sum(jnp.linalg.solve(H, lam * theta))
    got = jax.jit(jax.grad(value, (0, 1)))(LAM, LAM + 1)
    for a, b in zip(got, jax.grad(exact, (0, 1))(LAM, LAM + 1), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_a_changed_global_is_seen() -> None:
    """Notebooks change globals: a solve must not answer from an earlier trace."""
    scope = {"target": 1.0}
    solve = tk.argmin(lambda y, _: (y - scope["target"]) ** 2, tk.solver.GradientDescent(0.5, 5))
    assert solve(jnp.zeros(())).value == 1.0
    scope["target"] = 2.0
    assert solve(jnp.zeros(())).value == 2.0


@pytest.mark.parametrize(
    "adjoint",
    [Unroll(), Unroll("sqrt"), Unroll(forward_mode=True), Forward(), Reversible()],
    ids=str,
)
def test_traced_settings_are_hyperparameters(adjoint: Any) -> None:
    """Step sizes and momenta that the solver merely holds, against the closed form of 3 steps."""

    def value(settings: tuple) -> jax.Array:
        step_size, momentum = settings
        fun = lambda y, _: 0.5 * jnp.sum(y**2)
        solver = tk.solver.GradientDescent(step_size, 3, momentum)
        return jnp.sum(tk.argmin(fun, solver, adjoint=adjoint)(jnp.ones(2)).value)

    def by_hand(settings: tuple) -> jax.Array:
        s, m = settings
        y, v = jnp.ones(2), jnp.zeros(2)
        for t in range(3):
            v = m[t] * v - y
            y = y + s * v
        return jnp.sum(y)

    settings = (jnp.asarray(0.3), jnp.asarray([0.9, 0.8, 0.7]))
    got, expected = jax.jit(jax.grad(value))(settings), jax.grad(by_hand)(settings)
    # On the grid positions are rounded to 2^-40, velocities to 2^-34 or finer.
    rtol = 1e-9 if isinstance(adjoint, Reversible) else 1e-12
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=rtol)


def test_traced_settings_have_no_derivative_under_the_implicit_rule() -> None:
    def value(step_size: jax.Array) -> jax.Array:
        fun = lambda y, _: 0.5 * jnp.sum((y - 1) ** 2)
        return jnp.sum(tk.argmin(fun, tk.solver.GradientDescent(step_size, 3))(jnp.ones(2)).value)

    assert jax.grad(value)(jnp.asarray(0.3)) == 0
