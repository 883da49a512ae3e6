"""Quadratic programs with equality constraints, through `tk.root` on their optimality conditions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Implicit
from toolkit.linear import GMRES
from toolkit.solver import Newton, ProjectedGradient

_random = np.random.default_rng(4)
ROOT = jnp.asarray(_random.normal(size=(5, 5)))
THETA = {
    "Q": ROOT @ ROOT.T / 5 + jnp.eye(5),
    "c": jnp.asarray(_random.normal(size=5)),
    "A": jnp.asarray(_random.normal(size=(2, 5))),
    "b": jnp.asarray(_random.normal(size=2)),
}
START = {"y": jnp.zeros(5), "multipliers": jnp.zeros(2)}


def optimality(z: Any, theta: Any) -> Any:
    """Of `min y'Qy / 2 + c'y` over `A y = b`."""
    stationary = theta["Q"] @ z["y"] + theta["c"] + theta["A"].T @ z["multipliers"]
    return {"y": stationary, "multipliers": theta["A"] @ z["y"] - theta["b"]}


def exact(theta: Any) -> Any:
    system = jnp.block([[theta["Q"], theta["A"].T], [theta["A"], jnp.zeros((2, 2))]])
    z = jnp.linalg.solve(system, jnp.concatenate([-theta["c"], theta["b"]]))
    return {"y": z[:5], "multipliers": z[5:]}


def outer(z: Any, theta: Any) -> jax.Array:
    return jnp.sum(jnp.sin(z["y"])) + jnp.sum(z["multipliers"] ** 2)


@pytest.mark.parametrize(
    "adjoint",
    [Implicit(), pytest.param(Implicit(GMRES(20, 1e-13)), marks=pytest.mark.slow)],
    ids=str,
)
def test_solution_multipliers_gradient_and_hessian(adjoint: Any) -> None:
    solve = tk.root(optimality, Newton(3, 1e-12), adjoint=adjoint)
    hg = jax.jit(tk.hypergradient(outer, solve))(START, THETA)
    # Newton is exact on linear conditions: one step, and the second finds nothing to do.
    assert hg.solution.info.steps == 1 and hg.report.status == 0
    close = lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10)
    jax.tree.map(close, hg.solution.value, exact(THETA))
    of_exact = lambda theta: outer(exact(theta), theta)
    jax.tree.map(close, hg.gradient, jax.grad(of_exact)(THETA))
    curvature = lambda f: jax.hessian(lambda b: f(THETA | {"b": b}))(THETA["b"])
    close(curvature(lambda t: outer(solve(START, t).value, t)), curvature(of_exact))


def test_the_projected_solve_is_the_same_minimum() -> None:
    """Another algorithm, another derivative: a projection onto `A y = b` at every step."""
    fun = lambda y, theta: 0.5 * y @ theta["Q"] @ y + theta["c"] @ y
    onto = lambda y, theta: tk.prox.affine(y, (theta["A"], theta["b"]))
    step_size = 1 / float(jnp.linalg.norm(THETA["Q"], 2))
    solve = tk.argmin(fun, ProjectedGradient(onto, step_size, 2000, 1e-12))
    by_projection = lambda theta: jnp.sum(jnp.sin(solve(jnp.zeros(5), theta).value))
    # y'Qy sees the symmetric part of Q alone, Q y all of it.
    symmetric = lambda theta: theta | {"Q": (theta["Q"] + theta["Q"].T) / 2}
    by_conditions = lambda theta: jnp.sum(jnp.sin(exact(symmetric(theta))["y"]))
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9),
        jax.jit(jax.grad(by_projection))(THETA),
        jax.grad(by_conditions)(THETA),
    )
