"""Every linear solver in every kind of solve: the value of a dense solve, or NaN or a status that says no."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.linear import CG, GMRES, BiCGStab, Dense, Neumann, Nystrom

N = 4
_BASIS = np.linalg.qr(np.random.default_rng(0).normal(size=(N, N)))[0]
_TURN = 0.95 * np.array([[np.cos(0.3), -np.sin(0.3)], [np.sin(0.3), np.cos(0.3)]])
# Contractions: J of a fixed point, whose system is I - J.
MAPS = {
    "symmetric": _BASIS @ np.diag([-0.8, -0.3, 0.4, 0.9]) @ _BASIS.T,
    "turning": np.kron(np.eye(2), _TURN),  # pairs of complex eigenvalues near 1
}
SOLVERS = {
    "cg": CG(50, 1e-12),
    "gmres": GMRES(50, 1e-12),
    "bicgstab": BiCGStab(50, 1e-12),
    "neumann": Neumann(400, tol=1e-8),
    "series": Neumann(400, 1.0, 1e-8),
    "too_long_steps": Neumann(100, 3.0),
    "nystrom": Nystrom(N, 1e-9),
    "rough_nystrom": Nystrom(1, 1e-3),
    "dense": Dense(),
}
RIGHT = {
    "symmetric": {"cg", "gmres", "bicgstab", "neumann", "series", "nystrom", "dense"},
    "turning": {"gmres", "bicgstab", "neumann", "series", "dense"},
}
B = np.random.default_rng(1).normal(size=N)


def _solve(kind: str, jacobian: np.ndarray, linear_solver: Any) -> Any:
    """The solution of `y = J y + theta`, as each kind of solve."""
    system = np.eye(N) - jacobian
    funs = {
        "argmin": lambda y, t: 0.5 * y @ system @ y - y @ t,
        "root": lambda y, t: system @ y - t,
        "negated_root": lambda y, t: t - system @ y,
        "fixed_point": lambda y, t: jacobian @ y + t,
    }
    make = {"argmin": tk.argmin, "fixed_point": tk.fixed_point}.get(kind, tk.root)

    def solver(fun: Any, y0: Any, t: Any) -> tk.Solution:
        info = tk.SolveInfo(jnp.int32(0), jnp.int32(1), jnp.zeros(()))
        return tk.Solution(jnp.linalg.solve(system, t), info)

    return make(funs[kind], solver, adjoint=tk.adjoint.Implicit(linear_solver))


@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("argmin", "symmetric"),
        *((kind, shape) for kind in ("root", "negated_root", "fixed_point") for shape in MAPS),
    ],
)
def test_right_or_not_a_number(kind: str, shape: str) -> None:
    jacobian = MAPS[shape]
    exact = np.linalg.solve((np.eye(N) - jacobian).T, B)

    def all_of_them(theta: Any) -> tuple:
        made = {}
        for name, linear_solver in SOLVERS.items():
            solve = _solve(kind, jacobian, linear_solver)
            hg = tk.hypergradient(lambda y, _: B @ y, solve)(jnp.zeros(N), theta)
            plain = jax.grad(lambda t, solve=solve: B @ solve(jnp.zeros(N), t).value)(theta)
            made[name] = (plain, hg.gradient, hg.report.status)
        return made

    fast = {"xla_backend_optimization_level": 0}
    made = jax.jit(all_of_them, compiler_options=fast)(jnp.asarray(B[::-1].copy()))
    for name, (plain, gradient, status) in made.items():
        np.testing.assert_array_equal(np.isnan(plain), np.isnan(gradient), err_msg=name)
        right = np.allclose(plain, exact, rtol=1e-5)
        # At a minimum a rough sketch is a usual choice: the status alone says how far it is off.
        rough = (kind, name) == ("argmin", "rough_nystrom")
        assert right or rough or np.all(np.isnan(plain)), (name, plain)
        assert right or int(status), name
        # A series of steps of 1 has the sign of the system.
        if name in RIGHT[shape] and (kind, name) != ("negated_root", "series"):
            negative = (
                kind == "negated_root" and name == "nystrom"
            )  # for positive definite matrices
            assert right or negative, name


def test_a_truncated_series_keeps_its_value() -> None:
    jacobian = MAPS["symmetric"]
    powers = sum(np.linalg.matrix_power(jacobian, k) for k in range(5))
    solve = _solve("fixed_point", jacobian, Neumann(5, 1.0))
    got = jax.jit(jax.grad(lambda t: B @ solve(jnp.zeros(N), t).value))(jnp.ones(N))
    np.testing.assert_allclose(got, powers @ B, rtol=1e-12)


def test_damping_adds_to_the_system_of_a_fixed_point() -> None:
    jacobian = MAPS["symmetric"]
    solve = _solve("fixed_point", jacobian, None)
    damped = tk.fixed_point(solve.fun, solve.solver, adjoint=tk.adjoint.Implicit(damping=0.5))
    got = jax.jit(jax.grad(lambda t: B @ damped(jnp.zeros(N), t).value))(jnp.ones(N))
    np.testing.assert_allclose(got, np.linalg.solve(1.5 * np.eye(N) - jacobian, B), rtol=1e-12)
