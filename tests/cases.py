"""Problems whose solutions, or whose derivatives, are known in closed form.

Letters: `N` unknowns, `M` hyperparameters. All arrays are float64.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk


class Case(NamedTuple):
    """A solve, a solver that converges on it to rounding, and the exact solution."""

    make: Callable  # tk.argmin, tk.root or tk.fixed_point
    fun: Callable
    solver: Any
    y0: Any
    theta: Any
    exact: Callable  # theta -> y, differentiable by plain JAX; another computation than the solve

    def solve(self, adjoint: Any) -> tk.SolutionMap:
        """The solve under a rule."""
        return self.make(self.fun, self.solver, adjoint=adjoint)


def outer(y: Any, theta: Any) -> jax.Array:
    """A curved outer function that also depends on theta directly."""
    flat_y, _ = jax.flatten_util.ravel_pytree(y)
    flat_theta, _ = jax.flatten_util.ravel_pytree(theta)
    target = jnp.arange(1.0, 1.0 + flat_y.size)
    return jnp.sum((flat_y - target) ** 2 * jnp.cos(0.1 * target)) + 0.3 * jnp.sum(flat_theta**3)


_random = np.random.default_rng(0)
X = _random.normal(size=(12, 3))
Z = _random.normal(size=12)
H = X.T @ X / 4 + np.eye(3)  # eigenvalues in [1, 8]
B = _random.normal(size=(3, 2))
W = 0.3 * _random.normal(size=(3, 3))  # not symmetric
PENALTIES = jnp.asarray([0.5, 0.1, 0.1])  # of a lasso; SUPPORT and SIGNS are its solution's
SUPPORT, SIGNS = np.asarray([0, 1]), np.asarray([1.0, 1.0])
GRADIENT_DESCENT = tk.solver.GradientDescent(step_size=0.15, num_steps=250, momentum=0.2)


def _ridge() -> Case:
    def fun(y: jax.Array, theta: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((X @ y - Z) ** 2) / 4 + 0.5 * jnp.exp(theta) * jnp.sum(y**2)

    def exact(theta: jax.Array) -> jax.Array:
        return jnp.linalg.solve(X.T @ X / 4 + jnp.exp(theta) * jnp.eye(3), X.T @ Z / 4)

    return Case(tk.argmin, fun, GRADIENT_DESCENT, jnp.zeros(3), jnp.asarray(0.3), exact)


def _ridge_per_feature() -> Case:
    def fun(y: dict, theta: dict) -> jax.Array:
        w = jnp.concatenate([y["a"], y["b"]])
        return 0.5 * jnp.sum((X @ w - Z) ** 2) / 4 + 0.5 * jnp.sum(jnp.exp(theta["log_l2"]) * w**2)

    def exact(theta: dict) -> dict:
        w = jnp.linalg.solve(X.T @ X / 4 + jnp.diag(jnp.exp(theta["log_l2"])), X.T @ Z / 4)
        return {"a": w[:1], "b": w[1:]}

    y0 = {"a": jnp.ones(1), "b": jnp.zeros(2)}
    theta = {"log_l2": jnp.asarray([0.1, -0.2, 0.3])}
    return Case(tk.argmin, fun, GRADIENT_DESCENT, y0, theta, exact)


def _quadratic() -> Case:
    def fun(y: jax.Array, theta: jax.Array) -> jax.Array:
        return 0.5 * y @ H @ y - y @ (B @ theta)

    return Case(
        tk.argmin,
        fun,
        tk.solver.LBFGS(max_steps=60, tol=1e-12),
        jnp.ones(3),
        jnp.asarray([0.5, -1.0]),
        lambda theta: jnp.linalg.solve(H, B @ theta),
    )


def _lasso_per_feature() -> Case:
    # At these penalties the third weight is zero, and stays so nearby.
    def fun(y: jax.Array, theta: jax.Array) -> jax.Array:
        return 0.5 * jnp.sum((X @ y - Z) ** 2) / 4

    def exact(theta: jax.Array) -> jax.Array:
        on = X[:, SUPPORT]
        signed = jnp.exp(theta)[SUPPORT] * SIGNS
        y = jnp.linalg.solve(on.T @ on / 4, on.T @ Z / 4 - signed)
        return jnp.zeros(3).at[SUPPORT].set(y)

    prox = lambda y, theta, s: tk.prox.lasso(y, jnp.exp(theta), s)
    solver = tk.solver.ProximalGradient(prox, 0.4, 250, 1e-14)
    return Case(tk.argmin, fun, solver, jnp.ones(3), jnp.log(PENALTIES), exact)


def _cubic_root() -> Case:
    return Case(
        tk.root,
        lambda y, theta: y**3 - theta,
        tk.solver.Newton(max_steps=50, tol=1e-13),
        jnp.asarray([1.0, 1.5]),
        jnp.asarray([2.0, 5.0]),
        jnp.cbrt,
    )


def _linear_fixed_point() -> Case:
    return Case(
        tk.fixed_point,
        lambda y, theta: W @ y + B @ theta,
        tk.solver.FixedPointIteration(max_steps=300, tol=1e-14),
        jnp.zeros(3),
        jnp.asarray([0.5, -1.0]),
        lambda theta: jnp.linalg.solve(jnp.eye(3) - W, B @ theta),
    )


def _tanh_equilibrium() -> Case:
    # y = tanh(W y + theta) at y = EQUILIBRIUM when theta = atanh(y) - W y; the exact solution near
    # it is Newton's from there, whose derivatives are those of the inverse map theta(y).
    equilibrium = jnp.asarray([0.2, -0.5, 0.4])

    def inverse(y: jax.Array) -> jax.Array:
        return jnp.arctanh(y) - W @ y

    def exact(theta: jax.Array) -> jax.Array:
        y = equilibrium
        for _ in range(
            8
        ):  # plain Newton steps: exact to rounding, and to every order of derivative
            y = y - jnp.linalg.solve(jax.jacobian(inverse)(y), inverse(y) - theta)
        return y

    return Case(
        tk.fixed_point,
        lambda y, theta: jnp.tanh(W @ y + theta),
        tk.solver.Anderson(max_steps=100, tol=1e-13),
        jnp.zeros(3),
        inverse(equilibrium),
        exact,
    )


CASES = {
    "ridge": _ridge(),
    "ridge_per_feature": _ridge_per_feature(),
    "quadratic": _quadratic(),
    "lasso_per_feature": _lasso_per_feature(),
    "cubic_root": _cubic_root(),
    "linear_fixed_point": _linear_fixed_point(),
    "tanh_equilibrium": _tanh_equilibrium(),
}
