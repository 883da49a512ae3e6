"""The default linear solver, and what it never builds."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.extend.core import jaxprs_in_params

import toolkit as tk
from toolkit.linear import CG, GMRES, BiCGStab, Dense, choose
from toolkit.linear.choose import choose_attracted


def _shapes(jaxpr: Any) -> set[tuple[int, ...]]:
    shapes = {tuple(out.aval.shape) for eqn in jaxpr.eqns for out in eqn.outvars}
    for equation in jaxpr.eqns:
        for inner in jaxprs_in_params(equation.params):
            shapes |= _shapes(inner)
    return shapes


def test_choice_follows_structure_and_size() -> None:
    small, large = {"a": jnp.zeros(256)}, {"a": jnp.zeros(256), "b": jnp.zeros(())}
    assert isinstance(choose(small, True), Dense)
    assert isinstance(choose(small, False), Dense)
    assert isinstance(choose(large, True), CG)
    assert isinstance(choose(large, False), GMRES)
    # A complex unknown counts twice.
    assert isinstance(choose(jnp.zeros(128, complex), True), Dense)
    assert isinstance(choose(jnp.zeros(129, complex), True), CG)
    assert isinstance(choose_attracted(small).solver, BiCGStab)


def test_tolerance_follows_the_widest_rounding() -> None:
    mixed = {"a": jnp.zeros(300, jnp.float32), "b": jnp.zeros(3)}
    assert choose(mixed, True).tol == pytest.approx(10 * np.finfo(np.float32).eps ** 0.75)
    assert choose(jnp.zeros(300), True).tol == pytest.approx(10 * np.finfo(float).eps ** 0.75)


@pytest.mark.parametrize("kind", ["argmin", "root", "fixed_point"])
@pytest.mark.parametrize("n", [256, 300])
def test_no_matrix_above_256_unknowns(kind: str, n: int) -> None:
    scale = jnp.linspace(1.0, 2.0, n)
    solve = {
        "argmin": lambda: tk.argmin(
            lambda y, theta: jnp.sum(scale * jnp.cosh(y) - theta * y),
            tk.solver.LBFGS(max_steps=20, tol=1e-8),
        ),
        "root": lambda: tk.root(
            lambda y, theta: scale * y + 0.1 * jnp.roll(y, 1) - theta, tk.solver.Newton(5, 1e-8)
        ),
        "fixed_point": lambda: tk.fixed_point(
            lambda y, theta: 0.3 * jnp.tanh(jnp.roll(y, 1)) + theta,
            tk.solver.FixedPointIteration(30, 1e-8),
        ),
    }[kind]()
    hg = tk.hypergradient(lambda y, theta: jnp.sum(y**2), solve)
    jaxpr = jax.make_jaxpr(lambda theta: hg(jnp.zeros(n), theta))(jnp.ones(n)).jaxpr
    square = {shape for shape in _shapes(jaxpr) if sum(size >= n for size in shape) >= 2}
    # At 256 the matrix is there: so the search can find one. At a fixed point that attracts there never is.
    assert bool(square) == (n <= 256 and kind != "fixed_point"), square


def test_a_system_that_the_default_fails_on_has_a_nan_derivative() -> None:
    # The spectral radius is 0.9, and (I - J)^-1 lengthens some vectors by 1e13.
    n = 200
    upper = np.triu(np.random.default_rng(0).normal(size=(n, n)))
    upper *= 0.9 / np.abs(np.diagonal(upper)).max()
    solver = tk.solver.FixedPointIteration(3, 1e-4)

    def gradient(linear_solver: Any, dtype: Any) -> Any:
        matrix = jnp.asarray(upper, dtype)
        adjoint = tk.adjoint.Implicit(linear_solver=linear_solver)
        solve = tk.fixed_point(lambda y, theta: matrix @ y + theta, solver, adjoint=adjoint)
        hg = tk.hypergradient(lambda y, theta: jnp.sum(y), solve)
        return hg(jnp.zeros(n, dtype), jnp.ones(n, dtype))

    failed = gradient(None, np.float32)
    assert failed.report.status & tk.Issue.LINEAR_NOT_CONVERGED
    assert np.all(np.isnan(failed.gradient))
    exact = scipy.linalg.solve_triangular(np.eye(n) - upper.T, np.ones(n), lower=True)
    np.testing.assert_allclose(gradient(Dense(), np.float64).gradient, exact, rtol=1e-6)


@pytest.mark.parametrize("radius", [0.5, 0.99])
@pytest.mark.parametrize("n", [1, 3, 60, 400])
def test_the_derivative_at_a_fixed_point_that_attracts(n: int, radius: float) -> None:
    rng = np.random.default_rng(n)
    matrix = rng.normal(size=(n, n))
    matrix *= radius / np.abs(np.linalg.eigvals(matrix)).max()
    solve = tk.fixed_point(
        lambda y, theta: matrix @ y + theta, tk.solver.FixedPointIteration(10_000, 1e-9)
    )
    weights = rng.normal(size=n)
    hg = tk.hypergradient(lambda y, theta: weights @ y, solve)(jnp.zeros(n), rng.normal(size=n))
    exact = np.linalg.solve(np.eye(n) - matrix.T, weights)
    assert hg.report.status == 0
    np.testing.assert_allclose(hg.gradient, exact, rtol=1e-6, atol=1e-8 * np.abs(exact).max())
