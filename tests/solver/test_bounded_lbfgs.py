"""`LBFGS` within bounds: classical problems, derivatives in closed form, and how it fails."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.optimize

import toolkit as tk
from tests.solver.bounded_problems import PROBLEMS
from toolkit.solver import LBFGS

QUICK = ("HS 5", "HS 25", "quadratic", "Powell, singular")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in PROBLEMS]
)
def test_published_minima(name: str) -> None:
    problem = PROBLEMS[name]
    bounds = (jnp.asarray(problem.lower), jnp.asarray(problem.upper))
    solve = tk.argmin(lambda y, _: problem.fun(y), LBFGS(1000, 1e-9, bounds))
    y, info, _ = jax.jit(solve)(jnp.asarray(problem.start))
    assert info.status == tk.Status.CONVERGED and info.residual <= 1e-9
    assert jnp.all((bounds[0] <= y) & (y <= bounds[1]))
    minimum, rtol = problem.minimum, 1e-8
    if minimum is None:
        found = scipy.optimize.minimize(
            jax.jit(jax.value_and_grad(problem.fun)),
            np.clip(problem.start, *bounds),
            jac=True,
            method="L-BFGS-B",
            bounds=[*zip(problem.lower, problem.upper, strict=True)],
            options={"ftol": 0, "gtol": 1e-10},
        )
        minimum = found.fun
    np.testing.assert_allclose(problem.fun(y), minimum, rtol=rtol, atol=1e-12)
    if problem.at is not None:
        # HS 110 is published with eight digits.
        np.testing.assert_allclose(y, problem.at, rtol=1e-6, atol=1e-7)


# A quadratic of which the first entry is at its lower bound, the second at its upper one, two are free.
_random = np.random.default_rng(1)
ROOT = jnp.asarray(_random.normal(size=(4, 4)))
THETA = {
    "Q": ROOT @ ROOT.T + jnp.eye(4),
    "c": jnp.asarray([3.0, -6.0, 0.5, -0.7]),
    "lower": jnp.asarray([-0.1, -2.0, -5.0, -jnp.inf]),
    "upper": jnp.asarray([2.0, 0.2, jnp.inf, 5.0]),
}
START = jnp.asarray([9.0, -9.0, 0.0, 1.0])
WEIGHTS = jnp.arange(1.0, 5.0)


def quadratic(y: Any, theta: Any) -> Any:
    return y @ (theta["Q"] @ y) / 2 + theta["c"] @ y


def exact(theta: Any) -> Any:
    held = jnp.stack([theta["lower"][0], theta["upper"][1]])
    symmetric = (theta["Q"] + theta["Q"].T) / 2
    free = jnp.linalg.solve(symmetric[2:, 2:], -theta["c"][2:] - symmetric[2:, :2] @ held)
    return jnp.concatenate([held, free])


def outer(y: Any) -> Any:
    return jnp.sum(WEIGHTS * jnp.sin(y))


FROM_THETA = LBFGS(100, 1e-10, lambda theta: (theta["lower"], theta["upper"]))


def from_theta(theta: Any) -> Any:
    return outer(tk.argmin(quadratic, FROM_THETA)(START, theta).value)


def closed_over(theta: Any) -> Any:
    solver = LBFGS(100, 1e-10, (theta["lower"], theta["upper"]))
    return outer(tk.argmin(lambda y, _: quadratic(y, theta), solver)(START).value)


@pytest.mark.parametrize("value", [from_theta, closed_over])
def test_gradients_follow_active_bounds(value: Any) -> None:
    got, slope = jax.jit(jax.value_and_grad(value))(THETA)
    expected, exact_slope = jax.value_and_grad(lambda theta: outer(exact(theta)))(THETA)
    np.testing.assert_allclose(got, expected, rtol=1e-8)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9), slope, exact_slope
    )


@pytest.mark.slow
def test_second_derivatives() -> None:
    of = lambda value: lambda c: value(THETA | {"c": c})
    along = jnp.asarray([0.3, -0.2, 0.5, 1.0])
    product = lambda value: jax.jvp(jax.grad(of(value)), (THETA["c"],), (along,))[1]
    expected = product(lambda theta: outer(exact(theta)))
    np.testing.assert_allclose(product(from_theta), expected, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize(
    "linear",
    [tk.linear.Dense(), pytest.param(tk.linear.CG(20, 1e-6), marks=pytest.mark.slow)],
    ids=str,
)
def test_tiny_losses_in_single_precision(linear: Any) -> None:
    """Neither the gradient, of 1e-12 beside y of 1e3, nor the Hessian is lost behind the bounds."""
    single = lambda tree: jax.tree.map(lambda leaf: leaf.astype(jnp.float32), tree)
    theta = single(THETA)
    shifted = lambda y, theta: 1e-12 * quadratic(y - 1000, theta)
    bounds = lambda theta: (theta["lower"] + 1000, theta["upper"] + 1000)
    adjoint = tk.adjoint.Implicit(linear)
    solve = tk.argmin(shifted, LBFGS(100, 1e-15, bounds), adjoint=adjoint)

    def value(theta: Any) -> Any:
        solution = solve(START.astype(jnp.float32) + 1000, theta)
        return jnp.sum(WEIGHTS.astype(jnp.float32) * solution.value), solution.info

    slope, info = jax.jit(jax.grad(value, has_aux=True))(theta)
    expected = jax.grad(lambda theta: jnp.sum(WEIGHTS * exact(theta)))(THETA)
    assert info.residual < 1e-12
    # float32, at y of 1000 known to 6e-5
    for name in ("c", "lower", "upper"):
        np.testing.assert_allclose(slope[name], expected[name], rtol=1e-3, atol=1e-5)


def test_lanes_have_their_own_ends() -> None:
    traced = []

    def fun(y: Any, theta: Any) -> Any:
        traced.append(1)
        return jnp.sum((y - theta) ** 2) + y[0] * y[1] / 3

    solve = tk.argmin(fun, LBFGS(50, 1e-9, lambda theta: (0.0, theta[2])))

    def summed(theta: Any) -> Any:
        solution = solve(jnp.zeros(3), theta)
        return jnp.sum(solution.value), (solution.value, solution.info)

    def run_one(theta: Any) -> Any:
        slope, found = jax.grad(summed, has_aux=True)(theta)
        return found, slope

    run = jax.jit(jax.vmap(run_one))
    # The first two lanes have other active bounds; the last one has lower > upper.
    thetas = jnp.asarray([[0.3, 0.5, 0.4], [-1.0, 0.5, 9.0], [0.3, 0.5, -1.0]])
    (y, info), slopes = run(thetas)
    assert len(traced) == 1
    np.testing.assert_array_equal(info.status, [0, 0, tk.Status.NOT_FINITE])
    # 2 (y[0] - 0.3) + 0.4 / 3 = 0 with y[1] at its bound
    np.testing.assert_allclose(y[0], [0.3 - 0.2 / 3, 0.4, 0.4], rtol=1e-8)
    np.testing.assert_allclose(slopes[0], [1.0, 0.0, 2 - 1 / 6], rtol=1e-8)
    np.testing.assert_allclose(y[1], [0.0, 0.5, 9.0], rtol=1e-8)
    np.testing.assert_allclose(slopes[1], [0.0, 1.0, 1.0], rtol=1e-8)
    assert jnp.all(jnp.isnan(y[2])) and jnp.isnan(slopes[2, 2])


def test_a_start_outside_is_moved_to_the_bound() -> None:
    solve = tk.argmin(lambda y, _: 0.0 * jnp.sum(y), LBFGS(5, 1e-9, (-1.0, 2.0)))
    y, info, _ = solve(jnp.asarray([-5.0, 0.5, jnp.inf]))
    np.testing.assert_array_equal(y, [-1.0, 0.5, 2.0])
    assert info.steps == 0 and info.status == tk.Status.CONVERGED


def test_how_it_fails() -> None:
    def status(fun: Any, y: float = 1.0) -> Any:
        return tk.argmin(fun, LBFGS(60, 1e-9, (-3.0, 3.0)))(jnp.full(2, y)).info.status

    # At a kink no step descends, and the gradient is 1.
    assert status(lambda y, _: jnp.sum(jnp.abs(y - 0.3))) == tk.Status.STALLED
    assert status(lambda y, _: jnp.sum(jnp.log(y - 2))) == tk.Status.NOT_FINITE
    assert status(lambda y, _: jnp.sum(y**2), y=jnp.nan) == tk.Status.NOT_FINITE
    # Points where the function is not finite are too far.
    assert status(lambda y, _: jnp.sum(y - 1e-3 * jnp.log(y - 0.1))) == tk.Status.CONVERGED
    rosenbrock = PROBLEMS["HS 1"].fun
    limited = tk.argmin(lambda y, _: rosenbrock(y), LBFGS(3, 1e-9, (-3.0, 3.0)))
    assert limited(jnp.asarray([-2.0, 1.0])).info.status == tk.Status.STEP_LIMIT


def test_steps_by_hand_are_those_of_the_solve() -> None:
    solve = tk.argmin(quadratic, FROM_THETA)
    init, step = solve.steps()

    @jax.jit
    def by_hand(theta: Any) -> Any:
        going = lambda carry: carry[1].status == tk.Status.STEP_LIMIT
        first = step(init(START, theta), theta)
        return jax.lax.while_loop(going, lambda carry: step(carry[0], theta), first)[0]

    state, solution = by_hand(THETA), jax.jit(solve)(START, THETA)
    assert state.step == solution.info.steps
    np.testing.assert_array_equal(state.y, solution.value)


def test_rules_that_follow_steps_are_refused() -> None:
    def slope(adjoint: Any) -> Any:
        solve = tk.argmin(quadratic, FROM_THETA, adjoint=adjoint)
        return jax.grad(lambda theta: jnp.sum(solve(START, theta).value))(THETA)

    for rule in (tk.adjoint.Unroll(), tk.adjoint.Truncated(3), tk.adjoint.OneStep()):
        with pytest.raises(ValueError, match=rf"under {type(rule).__name__}: got LBFGS, whose"):
            slope(rule)
    with pytest.raises(ValueError, match="under Nudged, which tilts it: got LBFGS"):
        slope(tk.adjoint.Nudged(0.1))
    assert not jnp.any(slope(tk.adjoint.Stopped())["c"])


def test_the_unbounded_form_takes_its_memory() -> None:
    program = lambda solver: str(jax.make_jaxpr(tk.argmin(quadratic, solver))(START, THETA))
    assert program(LBFGS(9, 1e-9)) == program(LBFGS(9, 1e-9, None, 10))
    assert "f64[3,4]" in program(LBFGS(9, 1e-9, history=3))
    with pytest.raises(ValueError, match=r"`history` must be an int of at least 1: got 0\."):
        LBFGS(9, 1e-9, history=0)
