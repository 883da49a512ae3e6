"""A bracketed root: closed forms, each way to have none, and a bracket of its own for each lane."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.solver import Bisection

SOLVER = Bisection((0.0, 10.0), 100, 1e-11)
ZERO = jnp.zeros(())


def cube(y, theta):
    return y**3 - theta


def value(theta, solver=SOLVER, fun=cube):
    return tk.root(fun, solver)(ZERO, theta).value


def test_value_and_derivatives_are_the_closed_form():
    np.testing.assert_allclose(value(2.0), np.cbrt(2), rtol=1e-10)
    np.testing.assert_allclose(jax.grad(value)(2.0), 2 ** (-2 / 3) / 3, rtol=1e-6)
    np.testing.assert_allclose(jax.jacfwd(value)(2.0), 2 ** (-2 / 3) / 3, rtol=1e-6)
    np.testing.assert_allclose(jax.hessian(value)(2.0), -2 * 2 ** (-5 / 3) / 9, rtol=1e-6)


def test_each_lane_has_its_own_bracket_and_status():
    thetas = jnp.array([2.0, -1.0, 0.0, 1000.0, jnp.nan])
    run = lambda theta: (lambda solution: (solution.value, solution.info))(
        tk.root(cube, SOLVER)(ZERO, theta)
    )
    (values, info), slopes = jax.jit(jax.vmap(lambda t: (run(t), jax.grad(value)(t))))(thetas)
    # The roots of 0 and 1000 are ends of the bracket.
    np.testing.assert_array_equal(info.status, [0, 3, 0, 0, 2])
    np.testing.assert_array_equal(info.steps[1:], 0)
    np.testing.assert_allclose(values, [np.cbrt(2), np.nan, 0, 10, np.nan], rtol=1e-10)
    np.testing.assert_array_equal(np.isnan(slopes), [False, True, False, False, True])
    bounds = lambda theta: (theta - 7, theta + 5)
    follow = jax.vmap(jax.value_and_grad(lambda t: value(t, Bisection(bounds, 100, 1e-11))))
    found, slopes = follow(jnp.array([2.0, 8.0]))
    np.testing.assert_allclose(found, [np.cbrt(2), 2], rtol=1e-10)
    np.testing.assert_allclose(slopes, [2 ** (-2 / 3) / 3, 1 / 12], rtol=1e-6)  # not the bracket's


NONE = {
    "no change of sign": (lambda y, t: y + t, SOLVER, tk.Status.STALLED),
    "affine": (lambda y, t: 2 * y - t + 100, SOLVER, tk.Status.STALLED),
    "an empty bracket": (cube, Bisection((1.0, 1.0), 9, 1e-9), tk.Status.STALLED),
    "a jump": (lambda y, t: t * jnp.where(y < 5, -1.0, 1.0), SOLVER, tk.Status.STALLED),
    "a pole that is met": (lambda y, t: 1 / (y - t / 3), SOLVER, tk.Status.NOT_FINITE),
    "NaN at an end": (lambda y, t: jnp.log(y - t), SOLVER, tk.Status.NOT_FINITE),
    "NaN inside": (
        lambda y, t: jnp.where(jnp.abs(y - 5) < 1, jnp.nan, y - 4) * t,
        SOLVER,
        tk.Status.NOT_FINITE,
    ),
    "NaN as a bound": (cube, Bisection((jnp.nan, 1.0), 9, 1e-9), tk.Status.NOT_FINITE),
}


@pytest.mark.parametrize("case", NONE)
def test_no_root_is_nan_and_so_is_its_gradient(case):
    fun, solver, status = NONE[case]
    solution = tk.root(fun, solver)(ZERO, 3.0)
    assert solution.info.status == status and np.isnan(solution.value)
    assert np.isnan(jax.grad(lambda theta: value(theta, solver, fun))(3.0))


def test_limits_of_steps_and_of_digits():
    short = tk.root(cube, Bisection((0.0, 10.0), 5, 1e-9))(ZERO, 3.0)
    assert (short.info.status, short.info.steps) == (tk.Status.STEP_LIMIT, 5)
    assert short.value == 1.5625  # the nearest of 5, 2.5, 1.25, 1.875, 1.5625
    # No number of float64 solves this one to the bit. What is left is rounding, and the root is kept.
    finest = tk.root(lambda y, t: jnp.exp(y) - t, Bisection((0.0, 10.0), 100, 0.0))(ZERO, 2.7)
    assert finest.info.status in (tk.Status.STALLED, tk.Status.CONVERGED)
    assert finest.info.steps < 100
    np.testing.assert_allclose(finest.value, np.log(2.7), rtol=1e-15)


def test_trees_types_and_a_bracket_that_is_turned_round():
    fun = lambda y, theta: {"a": y["a"] - theta, "n": y["n"]}
    wide = Bisection(({"a": 9.0, "n": 0}, {"a": jnp.zeros((1, 1)), "n": 0}), 60, 1e-5)
    with jax.numpy_dtype_promotion("strict"):
        y = tk.root(fun, wide)({"a": jnp.zeros((1, 1), jnp.float32), "n": 3}, jnp.float32(2.0))
    assert y.value["a"].dtype == jnp.float32 and y.value["n"] == 3
    np.testing.assert_allclose(y.value["a"], [[2.0]], rtol=1e-5)
    huge = Bisection((-1.7e308, 1.7e308), 2000, 1e-9)  # their difference overflows
    np.testing.assert_allclose(value(3.0, huge, lambda y, t: jnp.tanh(y - t)), 3.0, rtol=1e-8)


def test_one_trace_and_no_host_callback():
    traces = []

    def fun(y, theta):
        traces.append(1)
        return cube(y, theta)

    solve = jax.jit(tk.root(fun, SOLVER))
    assert "callback" not in str(solve.trace(ZERO, 2.0).jaxpr)
    solve(ZERO, 2.0), solve(ZERO, 3.0)
    assert len(traces) == 1


MESSAGES = {
    "two numbers": (
        lambda: tk.root(cube, SOLVER)(jnp.zeros(2), 2.0),
        "`y0` must be one real number under Bisection: got float64[2]; use tk.solver.Newton, or jax.vmap",
    ),
    "complex": (
        lambda: tk.root(cube, SOLVER)(jnp.zeros((), complex), 2.0),
        "`y0` must be one real number under Bisection: got complex128[]",
    ),
    "an argmin": (
        lambda: tk.argmin(cube, SOLVER)(ZERO, 2.0),
        "`solver` must solve `argmin`: got Bisection, which solves `root`; use tk.solver.Newton.",
    ),
    "infinite": (
        lambda: tk.root(cube, Bisection((0.0, jnp.inf), 9, 1e-3))(ZERO, 2.0),
        "`bounds` must be finite under Bisection: got (0.0, inf)",
    ),
    "three bounds": (
        lambda: Bisection((0.0, 1.0, 2.0), 9, 1e-3),
        "`bounds` must be a tuple of 2 items, each a number, or a pair (lower, upper), or a callable theta -> "
        "(lower, upper): got (0.0, 1.0, 2.0).",
    ),
    "unrolled": (
        lambda: tk.root(cube, SOLVER, adjoint=tk.adjoint.Unroll())(ZERO, 2.0),
        "`solver` must show its steps under Unroll: got Bisection",
    ),
    "by hand": (
        lambda: tk.root(cube, SOLVER).steps()[0](ZERO, 2.0),
        "`solver` must show its steps: got Bisection, whose loop is its own; use tk.solver.Newton.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case):
    make, text = MESSAGES[case]
    with pytest.raises(ValueError) as found:
        make()
    assert text in str(found.value) and "\n" not in str(found.value)
