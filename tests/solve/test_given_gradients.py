"""`value_and_grad=True`: the gradient that the function returns is used, and no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, Nudged, OneStep, Reversible, Truncated, Unroll

A = np.random.default_rng(0).normal(size=(12, 3))
B = A @ np.asarray([1.0, -1.0, 0.5]) + 0.1
Y0, THETA = {"w": np.zeros(3)}, np.asarray([-1.0, 0.0, -2.0])


def ridge(y: Any, theta: Any) -> jax.Array:
    return jnp.mean((A @ y["w"] - B) ** 2) / 2 + jnp.sum(jnp.exp(theta) * y["w"] ** 2) / 2


def both(y: Any, theta: Any) -> Any:
    return jax.value_and_grad(ridge)(y, theta)


def outer(y: Any, theta: Any) -> jax.Array:
    return jnp.sum((y["w"] - 1) ** 2)


DESCENT = tk.solver.GradientDescent(0.3, 300)
PROX = lambda y, theta, s: {"w": tk.prox.lasso(y["w"], 0.01, s)}
PAIRS = [
    *((DESCENT, rule) for rule in (Implicit(), Unroll(), Truncated(300), Forward(), OneStep())),
    (DESCENT, Reversible()),
    (tk.solver.LBFGS(60, 1e-10), Implicit()),
    (tk.solver.Newton(9, 1e-10), Unroll()),
    (tk.solver.Optax(optax.polyak_sgd(0.2, f_min=0.1), 30), Unroll()),  # reads the value as well
    (tk.solver.ProximalGradient(PROX, 0.3, 300, 1e-10), Implicit()),
]


@pytest.mark.parametrize(("solver", "rule"), PAIRS, ids=lambda one: type(one).__name__)
def test_it_is_the_solve_and_the_derivative_of_the_value_alone(solver: Any, rule: Any) -> None:
    own = tk.hypergradient(outer, tk.argmin(ridge, solver, adjoint=rule))
    given = tk.hypergradient(outer, tk.argmin(both, solver, adjoint=rule, value_and_grad=True))
    expected, got = (jax.jit(lambda hg=hg: hg(Y0, THETA))() for hg in (own, given))
    np.testing.assert_allclose(got.gradient, expected.gradient, rtol=1e-8)
    np.testing.assert_allclose(got.solution.value["w"], expected.solution.value["w"], rtol=1e-10)
    assert got.report.status == expected.report.status


@pytest.mark.parametrize("solver", [DESCENT, tk.solver.LBFGS(60, 1e-9)], ids=repr)
def test_the_value_is_not_differentiated(solver: Any) -> None:
    def fun(y: Any, theta: Any) -> Any:  # JAX has no reverse mode of this loop
        value = jax.lax.while_loop(
            lambda c: c[1] < 1, lambda c: (ridge(y, theta), c[1] + 1), (0.0, 0)
        )[0]
        return (value, {"n": 3}), jax.grad(ridge)(y, theta)

    solve = tk.argmin(fun, solver, has_aux=True, value_and_grad=True)
    got = tk.hypergradient(outer, solve)(Y0, THETA)
    exact = jax.grad(
        lambda theta: outer(
            {"w": jnp.linalg.solve(A.T @ A / 12 + jnp.diag(jnp.exp(theta)), A.T @ B / 12)}, theta
        )
    )(THETA)
    np.testing.assert_allclose(got.gradient, exact, rtol=1e-6)
    assert got.solution.aux == {"n": 3}
    init, step = solve.steps()
    info = step(init(Y0, THETA), THETA)[1]
    np.testing.assert_allclose(info.value, ridge(Y0, THETA), rtol=1e-12)
    assert info.aux == {"n": 3}


def test_a_field_that_is_no_gradient_has_the_derivative_of_its_zero() -> None:
    """The implicit rule does not presume that the derivative of what it is given is symmetric."""
    matrix = np.eye(3) + 0.5 * np.triu(np.ones((3, 3)), 1)
    fun = lambda y, theta: (jnp.sum(y**2), matrix @ y - theta)
    solve = tk.argmin(fun, tk.solver.GradientDescent(0.3, 400), value_and_grad=True)
    got = jax.jacrev(lambda theta: solve(np.zeros(3), theta).value)(THETA)
    np.testing.assert_allclose(got, np.linalg.inv(matrix), rtol=1e-7, atol=1e-12)


def test_complex_gradients_are_as_jax_gives_them() -> None:
    fun = lambda y, theta: jnp.sum(jnp.abs(y - theta) ** 2)
    target = np.asarray([1.0 + 2.0j, -3.0j])
    for solver in (tk.solver.GradientDescent(0.2, 100), tk.solver.LBFGS(20, 1e-9)):
        solve = tk.argmin(jax.value_and_grad(fun), solver, value_and_grad=True)
        np.testing.assert_allclose(solve(np.zeros(2, complex), target).value, target, rtol=1e-7)


REFUSED: dict[str, tuple[Callable, str]] = {
    "structure": (
        lambda y, t: (ridge(y, t), y["w"]),
        r"got float64\[3\], expected \{w: float64\[3\]\}",
    ),
    "dtype": (
        lambda y, t: (ridge(y, t), {"w": y["w"].astype(jnp.float32)}),
        r"got \{w: float32\[3\]\}",
    ),
    "shape": (lambda y, t: (ridge(y, t), {"w": y["w"][:2]}), r"got \{w: float64\[2\]\}"),
    "no_pair": (ridge, r"`fun` must return \(value, gradient\) with value_and_grad=True"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_gradient_is_refused(name: str) -> None:
    fun, match = REFUSED[name]
    with pytest.raises(ValueError, match=match):
        tk.argmin(fun, DESCENT, value_and_grad=True)(Y0, THETA)


def test_nudged_needs_the_value_alone() -> None:
    solve = tk.argmin(both, DESCENT, adjoint=Nudged(0.01), value_and_grad=True)
    with pytest.raises(ValueError, match="`value_and_grad` must be False under Nudged"):
        solve(Y0, THETA)
