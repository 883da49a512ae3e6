"""Preconditioners change the steps, never the solution."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.linear import CG, GMRES, BiCGStab, Diagonal, Nystrom

N = 40
_random = np.random.default_rng(3)
BASIS = np.linalg.qr(_random.normal(size=(N, N)))[0]
SCALES = np.logspace(0, 6, N)
SCALED = np.diag(SCALES) + 0.3 * BASIS @ np.diag(np.linspace(0, 1, N)) @ BASIS.T
DECAYING = BASIS @ np.diag(np.logspace(3, -5, N) + 1e-2) @ BASIS.T
RIGHT = {"a": jnp.asarray(_random.normal(size=(3, 10))), "b": jnp.asarray(_random.normal(size=10))}
KRYLOV = [CG, GMRES, BiCGStab]

# A preconditioner near the inverse, and the matrix that it is for.
PRECONDITIONERS = {
    "diagonal": (
        Diagonal(jax.flatten_util.ravel_pytree(RIGHT)[1](jnp.asarray(SCALES))),
        SCALED,
    ),
    "nystrom": (Nystrom(30, 1e-2), DECAYING),
}


def _solve(solver: Any, matrix: np.ndarray, b: Any = RIGHT) -> tuple:
    def product(tree: Any) -> Any:
        flat, unravel = jax.flatten_util.ravel_pytree(tree)
        return unravel(jnp.asarray(matrix) @ flat)

    return jax.jit(lambda b: solver(product, b))(b)


def _flat(tree: Any) -> np.ndarray:
    return np.asarray(jax.flatten_util.ravel_pytree(tree)[0])


@pytest.mark.parametrize("solver", KRYLOV)
@pytest.mark.parametrize("name", PRECONDITIONERS)
def test_few_steps_to_the_same_solution(solver: Any, name: str) -> None:
    inverse, matrix = PRECONDITIONERS[name]
    _, plain = _solve(solver(20, 1e-9), matrix)
    x, info = _solve(solver(20, 1e-9, preconditioner=inverse), matrix)
    assert plain.status == tk.Status.STEP_LIMIT and info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(_flat(x), np.linalg.solve(matrix, _flat(RIGHT)), rtol=1e-5)


def test_the_exact_inverse_takes_one_step() -> None:
    b = jnp.asarray(_flat(RIGHT))
    _, info = _solve(CG(20, 1e-12, Diagonal(jnp.asarray(SCALES))), np.diag(SCALES), b)
    assert info.steps == 1
    _, info = _solve(CG(20, 1e-10, Nystrom(N, 1e-12)), DECAYING, b)
    assert info.steps <= 2


def test_an_indefinite_sketch_leaves_the_system_as_it_is() -> None:
    matrix = BASIS @ np.diag(np.append(-np.linspace(1, 2, 10), np.linspace(1, 4, 30))) @ BASIS.T
    x, info = _solve(CG(200, 1e-8, Nystrom(5, 0.1)), matrix)
    bare, _ = _solve(CG(200, 1e-8), matrix)
    np.testing.assert_allclose(_flat(x), _flat(bare), rtol=1e-6)
    assert info.negative_curvature


def test_a_preconditioner_that_depends_on_theta_has_no_derivative() -> None:
    """One penalty a weight: the Hessian is diag(exp(theta)) + X'X / 40."""
    X = jnp.asarray(_random.normal(size=(40, N)))
    penalties = jnp.linspace(-6.0, 8.0, N)

    def error(theta: jax.Array, preconditioned: bool) -> jax.Array:
        inverse = Diagonal(jnp.exp(theta) + 1.0) if preconditioned else None
        solve = tk.argmin(
            lambda y, t: 0.5 * jnp.mean((X @ y - 1.0) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * y**2),
            tk.solver.Newton(2, 1e-10),
            adjoint=tk.adjoint.Implicit(CG(100, 1e-12, inverse)),
        )
        return jnp.sum(solve(jnp.zeros(N), theta).value ** 2)

    def exact(theta: jax.Array) -> jax.Array:
        return jnp.sum(
            jnp.linalg.solve(X.T @ X / 40 + jnp.diag(jnp.exp(theta)), X.T @ jnp.ones(40) / 40) ** 2
        )

    got = jax.jit(jax.grad(error), static_argnums=1)(penalties, True)
    np.testing.assert_allclose(got, jax.grad(exact)(penalties), rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("solver", KRYLOV)
def test_bad_preconditioners_are_refused(solver: Any) -> None:
    with pytest.raises(ValueError, match=r"`preconditioner` must be None, tk.linear.Diagonal"):
        solver(5, 1e-6, preconditioner=jnp.ones(3))
    with pytest.raises(ValueError, match=r"`diagonal` must be one array.*got \{c: float64\[3\]\}"):
        _solve(solver(5, 1e-6, Diagonal({"c": jnp.ones(3)})), SCALED)
    with pytest.raises(ValueError, match=r"broadcasts to float64\[40\]: got float64\[41\]"):
        _solve(solver(5, 1e-6, Diagonal(jnp.ones(N + 1))), SCALED, jnp.ones(N))
