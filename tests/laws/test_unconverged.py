"""On a run that did not converge each rule has its own exact value, and they differ.

Gradient descent on `y'Hy/2 - y'B theta` from 0: `y_T = s sum_{k<T} P^k B theta`, `P = I - s H`.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.cases import B, H
from toolkit.adjoint import Forward, Implicit, OneStep, Stopped, Truncated, Unroll

STEPS, STEP_SIZE, LAST = 6, 0.05, 2
P = np.eye(3) - STEP_SIZE * H


def _series(terms: int) -> np.ndarray:
    return STEP_SIZE * sum(np.linalg.matrix_power(P, k) for k in range(terms)) @ B


EXPECTED = {
    Unroll(): _series(STEPS),
    Unroll(checkpoint="sqrt"): _series(STEPS),
    Unroll(checkpoint=4): _series(STEPS),
    Unroll(forward_mode=True): _series(STEPS),
    Unroll(written_out=True): _series(STEPS),
    Unroll(forward_mode=True, written_out=True): _series(STEPS),
    Forward(): _series(STEPS),
    Truncated(LAST): _series(LAST),
    OneStep(): _series(1),
    Implicit(): np.linalg.solve(H, B),
    Stopped(): np.zeros_like(B),
}


def _solve(adjoint: object, tol: float | None = None) -> tk.SolutionMap:
    solver = tk.solver.GradientDescent(STEP_SIZE, STEPS, tol=tol)
    return tk.argmin(lambda y, theta: 0.5 * y @ H @ y - y @ (B @ theta), solver, adjoint=adjoint)


@pytest.mark.parametrize("adjoint", EXPECTED, ids=str)
@pytest.mark.parametrize("tol", [None, 1e-12])
def test_each_rule_against_its_own_value(adjoint: object, tol: float | None) -> None:
    solve = _solve(adjoint, tol)
    jacobian = jax.jit(jax.jacrev(lambda theta: solve(jnp.zeros(3), theta).value))
    got = jacobian(jnp.asarray([0.5, -1.0]))
    np.testing.assert_allclose(got, EXPECTED[adjoint], rtol=1e-10, atol=1e-15)


@pytest.mark.parametrize("forward_mode", [False, True])
def test_steps_written_out_leave_no_loop_and_have_hessians(forward_mode: bool) -> None:
    def outer(rule: Unroll, theta: jax.Array) -> jax.Array:
        solver = tk.solver.GradientDescent(STEP_SIZE, STEPS, momentum=0.5)
        fun = lambda y, theta: jnp.sum(jnp.cosh(y - B @ theta)) + 0.5 * y @ H @ y
        return jnp.sum(tk.argmin(fun, solver, adjoint=rule)(jnp.ones(3), theta).value ** 3)

    theta = jnp.asarray([0.5, -1.0])
    out, loop = Unroll(forward_mode=forward_mode, written_out=True), Unroll()
    second = lambda rule: jax.hessian(lambda theta: outer(rule, theta))
    np.testing.assert_allclose(second(out)(theta), second(loop)(theta), rtol=1e-10)
    text = {rule: str(jax.make_jaxpr(second(rule))(theta)) for rule in (out, loop)}
    assert "scan[" in text[loop] and "scan[" not in text[out] and "while[" not in text[out]


def test_steps_written_out_are_not_checkpointed() -> None:
    with pytest.raises(
        ValueError, match=r"`checkpoint` must be None with written_out=True.*'sqrt'"
    ):
        Unroll("sqrt", written_out=True)


def test_the_rules_differ_there() -> None:
    distinct = [Unroll(), Truncated(LAST), OneStep(), Implicit(), Stopped()]
    for i, one in enumerate(distinct):
        for other in distinct[:i]:
            gap = np.linalg.norm(EXPECTED[one] - EXPECTED[other])
            assert gap > 0.1 * np.linalg.norm(EXPECTED[Implicit()]), (one, other)


def test_truncated_counts_the_steps_made_not_the_limit() -> None:
    theta = jnp.asarray([0.5, -1.0])
    loose = float(_solve(Stopped())(jnp.zeros(3), theta).info.residual) * 1.2
    solver = tk.solver.GradientDescent(STEP_SIZE, 100, tol=loose)
    fun = lambda y, theta: 0.5 * y @ H @ y - y @ (B @ theta)
    solve = tk.argmin(fun, solver, adjoint=Truncated(LAST))
    solution = solve(jnp.zeros(3), theta)
    assert LAST < int(solution.info.steps) < STEPS
    got = jax.jacrev(lambda theta: solve(jnp.zeros(3), theta).value)(theta)
    np.testing.assert_allclose(got, _series(LAST), rtol=1e-10)


@pytest.mark.parametrize(
    "adjoint", [Unroll(), Unroll(checkpoint=4), Unroll(forward_mode=True), Forward()], ids=str
)
def test_early_stop_unrolls_the_steps_made(adjoint: object) -> None:
    theta = jnp.asarray([0.5, -1.0])
    fun = lambda y, theta: 0.5 * y @ H @ y - y @ (B @ theta)
    solver = tk.solver.GradientDescent(STEP_SIZE, 50, tol=0.3)
    solve = tk.argmin(fun, solver, adjoint=adjoint)
    steps = int(solve(jnp.zeros(3), theta).info.steps)
    assert 2 < steps < 50
    got = jax.jacrev(lambda theta: solve(jnp.zeros(3), theta).value)(theta)
    np.testing.assert_allclose(got, _series(steps), rtol=1e-10)


def test_derivative_in_the_start() -> None:
    theta = jnp.asarray([0.5, -1.0])
    for adjoint, expected in (
        (Unroll(), np.linalg.matrix_power(P, STEPS)),
        (Forward(), np.linalg.matrix_power(P, STEPS)),
        (Truncated(STEPS), np.linalg.matrix_power(P, STEPS)),
        (Truncated(LAST), np.zeros((3, 3))),
        (Implicit(), np.zeros((3, 3))),
        (OneStep(), np.zeros((3, 3))),
    ):
        got = jax.jacrev(lambda y0, a=adjoint: _solve(a)(y0, theta).value)(jnp.ones(3))
        np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-15)
