"""The status of a solve without a tolerance: it is 0 near a solution, in whatever units the problem is given."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import H

THETA = np.asarray([1.0, -2.0, 0.5])
SOLUTION = np.linalg.solve(H, THETA)
LIMIT, DONE = tk.Status.STEP_LIMIT, tk.Status.CONVERGED


def quadratic(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ jnp.asarray(H, y.dtype) @ y - y @ theta


def cosines(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(jnp.cosh(y) - theta * y)


def free_direction(y: Any, theta: Any) -> jax.Array:
    return 0.5 * (jnp.sum(y) - theta[0]) ** 2


def quartic(y: Any, theta: Any) -> jax.Array:
    return 0.1 * jnp.sum((y - theta) ** 4)


# function, start, steps, status: each in all units below.
ROWS = {
    "short": (quadratic, np.zeros(3), 30, LIMIT),
    "long": (quadratic, np.zeros(3), 400, DONE),
    "no_step": (quadratic, np.ones(3), 0, LIMIT),
    "solved_start": (quadratic, SOLUTION, 1, DONE),
    "solved_start_without_a_step": (quadratic, SOLUTION, 0, DONE),
    "start_solved_to_rounding": (quadratic, SOLUTION * (1 + 1e-13), 2, DONE),
    "nearly_solved_start": (quadratic, SOLUTION * (1 + 1e-3), 2, LIMIT),
    "curved": (cosines, np.zeros(3), 400, DONE),
    "curved_short": (cosines, np.zeros(3), 30, LIMIT),
    "a_free_direction": (free_direction, np.zeros(3), 200, DONE),
    "no_curvature_at_the_solution": (quartic, np.zeros(3), 400, LIMIT),
}
UNITS = [(c, 1.0) for c in (1e-12, 1e-5, 1.0, 1e5, 1e12)] + [(1.0, 1e-6), (1.0, 1e6)]


@pytest.mark.parametrize(
    ("row", "dtype"),
    [(row, jnp.float64) for row in ROWS] + [(row, jnp.float32) for row in ("long", "solved_start")],
)
def test_the_status_does_not_depend_on_units(row: str, dtype: Any) -> None:
    fun, y0, steps, expected = ROWS[row]

    def status(c: jax.Array, unit: jax.Array) -> jax.Array:
        scaled = lambda y, theta: c * fun(y / unit, theta)
        solver = tk.solver.GradientDescent(0.15 * unit**2 / c, steps)
        start = jnp.asarray(y0, dtype) * unit
        return tk.argmin(scaled, solver)(start, jnp.asarray(THETA, dtype)).info.status

    got = jax.jit(jax.vmap(status))(*jnp.asarray(UNITS, dtype).T)
    np.testing.assert_array_equal(got, expected)


def test_a_steep_start_makes_no_end_converged() -> None:
    # The gradient falls from 2e4 to 1, 4e-5 of what it was; the minimum is 7 away.
    fun = lambda y, theta: jnp.sum(jnp.exp(-y) + 1e-3 * y)
    solve = tk.argmin(fun, tk.solver.GradientDescent(1e-3, 1000))
    solution = solve(-10 * jnp.ones(1, jnp.float32))
    assert solution.info.residual < 2
    assert solution.info.status == LIMIT


def test_a_small_objective_is_told_by_the_hypergradient() -> None:
    small = lambda y, theta: 1e-5 * 0.5 * jnp.sum((y - theta) ** 2)
    solve = tk.argmin(small, tk.solver.GradientDescent(0.1, 50))
    hg = jax.jit(tk.hypergradient(lambda y, theta: jnp.sum(y), solve))
    report = hg(jnp.zeros(3, jnp.float32), jnp.ones(3, jnp.float32)).report
    assert report.status == tk.Issue.INNER_NOT_CONVERGED


@pytest.mark.parametrize("kind", [tk.root, tk.fixed_point])
def test_callables_are_judged_alike(kind: Callable) -> None:
    for c in (1e-12, 1.0, 1e12):
        fun = lambda y, theta, c=c: c * (theta - H @ y) + (y if kind is tk.fixed_point else 0)

        def answers(share: float) -> Callable:
            return lambda fun, y0, theta: tk.Solution(share * SOLUTION, tk.SolveInfo(0, 1, 0.0))

        status = [int(kind(fun, answers(s))(jnp.zeros(3), THETA).info.status) for s in (1.0, 0.999)]
        if kind is tk.root or c > 1e-12:  # else `fun(y) - y` is lost in the rounding of y
            assert status == [DONE, LIMIT], c
