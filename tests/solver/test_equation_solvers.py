"""Solvers of roots and fixed points against closed forms and loops written in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Stopped
from toolkit.jaxprs.read import inner, opened
from toolkit.solver import Anderson, FixedPointIteration, Newton

W = np.asarray([[0.5, 0.3, 0.0], [-0.4, 0.5, 0.2], [0.1, 0.0, 0.7]])  # spectral radius 0.75
THETA = np.asarray([1.0, -2.0, 0.9])
EXACT = np.linalg.solve(np.eye(3) - W, THETA)


def linear_map(y: Any, theta: Any) -> jax.Array:
    return W @ y + theta


def _fixed_point(
    solver: Any, fun: Callable = linear_map, y0: Any = None, theta: Any = THETA
) -> Any:
    solve = jax.jit(tk.fixed_point(fun, solver, adjoint=Stopped()))
    return solve(np.zeros(3) if y0 is None else y0, theta)


@pytest.mark.parametrize("damping", [0.0, 0.3])
def test_iteration_is_the_hand_written_loop(damping: float) -> None:
    y, steps = np.zeros(3), 0
    while np.linalg.norm(W @ y + THETA - y) > 1e-6:
        y, steps = damping * y + (1 - damping) * (W @ y + THETA), steps + 1
    got = _fixed_point(FixedPointIteration(500, 1e-6, damping))
    np.testing.assert_allclose(got.value, y, rtol=1e-13)
    assert got.info.steps == steps
    assert got.info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(got.info.residual, np.linalg.norm(W @ y + THETA - y), rtol=1e-8)
    short = _fixed_point(FixedPointIteration(5, 1e-6, damping))
    assert (int(short.info.steps), int(short.info.status)) == (5, tk.Status.STEP_LIMIT)


def test_anderson_reaches_the_solution_in_fewer_steps() -> None:
    plain = _fixed_point(FixedPointIteration(500, 1e-10))
    counts = []
    for history in (1, 2, 5):
        got = _fixed_point(Anderson(500, 1e-10, history))
        assert got.info.status == tk.Status.CONVERGED
        np.testing.assert_allclose(got.value, EXACT, rtol=1e-8)
        counts.append(int(got.info.steps))
    assert abs(counts[0] - int(plain.info.steps)) <= 1  # history 1 is the plain iteration
    assert counts[1] < counts[0]
    # On a linear map of 3 unknowns, GMRES in disguise: 4 values span the solution.
    assert counts[2] <= 6
    nonlinear = lambda y, theta: jnp.cos(W @ y + theta)
    slow = _fixed_point(FixedPointIteration(500, 1e-10), nonlinear)
    fast = _fixed_point(Anderson(500, 1e-10), nonlinear)
    np.testing.assert_allclose(fast.value, slow.value, rtol=1e-8)
    assert int(fast.info.steps) < int(slow.info.steps)


def test_anderson_solves_where_the_plain_iteration_diverges() -> None:
    steep = lambda y, theta: -2.0 * y + theta
    got = _fixed_point(Anderson(50, 1e-10), steep)
    np.testing.assert_allclose(got.value, THETA / 3, rtol=1e-9)
    diverged = _fixed_point(FixedPointIteration(2000, 1e-10), steep)
    assert diverged.info.status == tk.Status.NOT_FINITE
    assert np.all(np.isnan(diverged.value))


def test_newton_on_a_root_converges_quadratically() -> None:
    fun = lambda y, theta: {"x": y["x"] ** 2 - theta, "s": y["s"] * y["x"][0] - 1}
    y0 = {"x": np.asarray([1.0, 2.0]), "s": np.asarray(1.0)}
    errors = []
    for k in (3, 4, 5):
        got = jax.jit(tk.root(fun, Newton(k, 0.0), adjoint=Stopped()))(y0, np.asarray([2.0, 3.0]))
        expected = np.asarray([*np.sqrt([2.0, 3.0]), 1 / np.sqrt(2.0)])
        errors.append(np.max(np.abs(np.asarray([*got.value["x"], got.value["s"]]) - expected)))
    assert errors[-1] < 1e-9
    rounding = 1e-15
    assert all(b <= 1.5 * a**2 + rounding for a, b in itertools.pairwise(errors))


@pytest.mark.parametrize(
    "linear_solver",
    [None, tk.linear.GMRES(10, 1e-12), tk.linear.BiCGStab(10, 1e-12)],
    ids=lambda s: type(s).__name__,
)
def test_newton_on_a_fixed_point(linear_solver: Any) -> None:
    got = _fixed_point(Newton(4, 1e-9, linear_solver))
    np.testing.assert_allclose(got.value, EXACT, rtol=1e-8)
    assert got.info.steps == 1  # the map is linear
    assert got.info.status == tk.Status.CONVERGED


def test_newton_at_a_singular_jacobian_says_so() -> None:
    got = jax.jit(tk.root(lambda y, theta: y**2 + theta, Newton(20, 1e-9), adjoint=Stopped()))(
        np.zeros(2), np.ones(2)
    )
    assert got.info.status != tk.Status.CONVERGED


def test_complex_root_and_fixed_point() -> None:
    target = np.asarray([1.0 + 2.0j, -0.5j])
    root = jax.jit(tk.root(lambda y, theta: y**2 - theta, Newton(30, 1e-12), adjoint=Stopped()))
    got = root(np.asarray([1.0 + 1.0j, 1.0 - 1.0j]), target)
    np.testing.assert_allclose(got.value, np.sqrt(target), rtol=1e-10)
    # conj is not analytic: only a real linearisation of the pair (real, imaginary) solves it.
    conj = jax.jit(
        tk.root(lambda y, theta: y + 0.5 * jnp.conj(y) - theta, Newton(3, 1e-12), adjoint=Stopped())
    )
    expected = target.real / 1.5 + 1j * target.imag / 0.5
    np.testing.assert_allclose(conj(np.zeros(2, complex), target).value, expected, rtol=1e-12)
    rotation = 0.6 * np.exp(0.8j)
    for solver in (FixedPointIteration(200, 1e-12), Anderson(50, 1e-12), Newton(3, 1e-12)):
        got = _fixed_point(
            solver, lambda y, theta: rotation * y + theta, np.zeros(2, complex), target
        )
        np.testing.assert_allclose(got.value, target / (1 - rotation), rtol=1e-10)
        assert got.info.status == tk.Status.CONVERGED


FIXED_POINT = {
    "plain": FixedPointIteration(5, 1e-6),
    "damped": FixedPointIteration(5, 1e-6, 0.5),
    "anderson": Anderson(5, 1e-6),
    "newton": Newton(5, 1e-6),
}


@pytest.mark.parametrize("name", FIXED_POINT)
def test_nan_in_gives_nan_out(name: str) -> None:
    solve = jax.jit(tk.fixed_point(linear_map, FIXED_POINT[name], adjoint=Stopped()))
    bad = np.asarray([0.0, np.nan, 0.0])
    for y0, theta in ((np.zeros(3), THETA + bad), (bad, THETA), (np.zeros(3), THETA * np.inf)):
        got = solve(y0, theta)
        assert got.info.status == tk.Status.NOT_FINITE
        assert np.any(np.isnan(got.value))


@pytest.mark.parametrize("name", FIXED_POINT)
def test_small_types_are_kept(name: str) -> None:
    small = jnp.asarray(W, jnp.bfloat16)
    got = _fixed_point(
        FIXED_POINT[name],
        lambda y, theta: small @ y + theta,
        jnp.zeros(3, jnp.bfloat16),
        jnp.asarray(THETA, jnp.bfloat16),
    )
    assert got.value.dtype == jnp.bfloat16
    assert got.info.status in (0, 1)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: FixedPointIteration(3, 1e-3, 1.0),
            r"`damping` must be a number in \[0, 1\): got 1\.0",
        ),
        (
            lambda: FixedPointIteration(3, 1e-3, -0.1),
            r"`damping` must be a number in \[0, 1\): got -0\.1",
        ),
        (lambda: FixedPointIteration(3.0, 1e-3), r"`max_steps` must be .*got 3\.0"),
        (lambda: Anderson(3, 1e-3, 0), r"`history` must be an int of at least 1: got 0"),
        (lambda: Anderson(3, -1.0), r"`tol` must be .*got -1\.0"),
    ],
)
def test_bad_settings_are_refused(make: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("name", ["plain", "anderson"])
@pytest.mark.parametrize(
    ("make", "fun"),
    [
        (tk.root, lambda y, theta: y - theta),
        (tk.argmin, lambda y, theta: jnp.sum((y - theta) ** 2)),
    ],
    ids=["root", "argmin"],
)
def test_a_solver_of_another_kind_is_refused(make: Callable, fun: Callable, name: str) -> None:
    with pytest.raises(ValueError, match=rf"must solve `{make.__name__}`: .*use tk\.solver\."):
        make(fun, FIXED_POINT[name])(np.zeros(3), THETA)


@pytest.mark.parametrize("kind", [tk.argmin, tk.root, tk.fixed_point])
def test_newton_evaluates_its_function_once_a_step(kind: Callable) -> None:
    """And once at the solution, and once to judge it."""
    runs: list[None] = []

    @jax.custom_jvp
    def evaluated(y: Any) -> jax.Array:
        count = lambda y: runs.append(None) or y
        return jax.pure_callback(count, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    evaluated.defjvp(lambda primals, tangents: (evaluated(*primals), tangents[0]))
    slope = lambda y, theta: 0.1 * jnp.sin(theta * evaluated(y))
    fun = {
        tk.argmin: lambda y, theta: 0.5 * jnp.sum((evaluated(y) - theta) ** 2) + jnp.sum(y**4),
        tk.root: lambda y, theta: slope(y, theta) - y + theta,
        tk.fixed_point: lambda y, theta: slope(y, theta) + theta,
    }[kind]
    got = jax.jit(kind(fun, Newton(20, 1e-10), adjoint=Stopped()))(0.5 * jnp.ones(3), THETA)
    assert got.info.status == tk.Status.CONVERGED and got.info.steps >= 2
    jax.block_until_ready(got)
    assert len(runs) == got.info.steps + 2


def _count(program: Any, name: str) -> int:
    """How many equations of that name a program has, in its loops, branches and calls too."""
    found = 0
    for equation in opened(program)[0].eqns:
        found += (equation.primitive.name == name) + sum(
            _count(one, name) for one in inner(equation)
        )
    return found


def test_the_step_of_newton_holds_its_function_once() -> None:
    fun = lambda y, theta: jax.lax.lgamma(y) - theta * y  # its derivative is another function
    solve = tk.root(fun, Newton(20, 1e-10), adjoint=Stopped())
    # The second one judges the end.
    for run in (solve, jax.vmap(solve)):
        assert _count(jax.make_jaxpr(run)(jnp.ones((2, 3)), jnp.ones((2, 3))), "lgamma") == 2
