"""optimistix's solvers: the value is a solution, the derivative is ours, and the status believes nobody."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optimistix
import pytest

import toolkit as tk

THETA = jnp.array([0.3, 0.5, 0.7])
TIGHT = {"rtol": 1e-10, "atol": 1e-10}
MINIMISERS = (
    optimistix.BFGS(**TIGHT),
    optimistix.LBFGS(**TIGHT),
    optimistix.DFP(**TIGHT),
    optimistix.NonlinearCG(**TIGHT),
)
LEAST_SQUARES = (
    optimistix.LevenbergMarquardt(**TIGHT),
    optimistix.GaussNewton(**TIGHT),
    optimistix.Dogleg(**TIGHT),
)
named = lambda solver: type(solver).__name__


def quadratic(y, theta):
    """Solved by `a = theta`, `b = 1j sum(theta)`; `n` is carried."""
    b = y["b"] - 1j * jnp.sum(theta)
    return 2 * jnp.sum((y["a"] - theta) ** 2) + b.real**2 + b.imag**2 + y["n"][1]


def start():
    return {"a": jnp.zeros(3), "b": jnp.zeros((), complex), "n": jnp.arange(2)}


@pytest.mark.parametrize("solver", MINIMISERS, ids=named)
def test_minimum_and_gradient_are_the_closed_form(solver):
    solve = tk.argmin(quadratic, tk.solver.Optimistix(solver, 500, tol=1e-7))

    def outer(theta):
        solution = solve(start(), theta)
        y = solution.value
        return jnp.sum(y["a"] ** 3) + y["b"].imag ** 2, solution

    gradient, solution = jax.jit(jax.grad(outer, has_aux=True))(THETA)
    assert solution.info.status == tk.Status.CONVERGED and solution.info.residual <= 1e-7
    np.testing.assert_array_equal(solution.value["n"], [0, 1])
    np.testing.assert_allclose(solution.value["a"], THETA, rtol=1e-7)
    np.testing.assert_allclose(gradient, 3 * THETA**2 + 2 * jnp.sum(THETA), rtol=1e-6)


@pytest.mark.parametrize(
    "solver",
    [optimistix.Newton(**TIGHT), optimistix.Chord(**TIGHT), optimistix.LevenbergMarquardt(**TIGHT)],
    ids=named,
)
def test_roots(solver):
    solve = tk.root(lambda y, theta: y**3 + y - theta, tk.solver.Optimistix(solver, 200, tol=1e-7))
    of = lambda theta: solve(jnp.zeros(()), theta).value
    y, slope = jax.jit(jax.vmap(jax.value_and_grad(of)))(THETA)
    np.testing.assert_allclose(y**3 + y, THETA, rtol=1e-7)
    np.testing.assert_allclose(slope, 1 / (3 * y**2 + 1), rtol=1e-6)


@pytest.mark.parametrize("adjoint", [tk.adjoint.Implicit(), tk.adjoint.OneStep()], ids=named)
def test_fixed_points(adjoint):
    solver = tk.solver.Optimistix(optimistix.FixedPointIteration(**TIGHT), 500, tol=1e-8)
    solve = tk.fixed_point(lambda y, theta: jnp.cos(y) * theta, solver, adjoint=adjoint)
    of = lambda theta: solve(jnp.zeros(()), theta).value
    y, slope = jax.vmap(jax.value_and_grad(of))(THETA)
    np.testing.assert_allclose(jnp.cos(y) * THETA, y, rtol=1e-8)
    whole = jnp.cos(y) / (1 + THETA * jnp.sin(y))
    expected = whole if named(adjoint) == "Implicit" else jnp.cos(y)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_nudging_tilts_the_minimum():
    solver = tk.solver.Optimistix(optimistix.BFGS(**TIGHT), 200, tol=1e-6)
    # Solved by `theta / (1 + theta^2)`; of a quadratic function a nudge of any size gives the derivative.
    loss = lambda y, theta: jnp.sum((1 + theta**2) * y**2 / 2 - y * theta)
    nudged = tk.argmin(loss, solver, adjoint=tk.adjoint.Nudged(beta=0.1))
    gradient = jax.grad(lambda theta: jnp.sum(nudged(jnp.zeros(3), theta).value))(THETA)
    np.testing.assert_allclose(gradient, (1 - THETA**2) / (1 + THETA**2) ** 2, rtol=1e-6)


def residuals(y, theta):
    """A curve `a exp(-b x)` near data that it cannot meet, and a penalty: a complex leaf and a real one."""
    x = jnp.linspace(0.0, 1.0, 20)
    curve = y["a"] * jnp.exp(-theta[0] * x * y["b"]) - jnp.sin(3 * theta[1] * x)
    return {"curve": curve * jnp.exp(1j * x), "penalty": theta[2] * y["a"]}


def half_square(y, theta):
    return sum(jnp.sum(jnp.abs(leaf) ** 2) for leaf in residuals(y, theta).values()) / 2


CURVE_THETA = jnp.array([1.3, 0.7, 0.1])
CURVE_START = {"a": jnp.array(0.4), "b": jnp.array(-0.8)}


def curve_outer(solve):
    def outer(theta):
        y = solve(CURVE_START, theta).value
        return 3 * y["a"] + y["b"]

    return outer


@pytest.mark.parametrize("solver", [*LEAST_SQUARES, MINIMISERS[0]], ids=named)
def test_a_sum_of_squares_is_the_argmin_of_that_sum(solver):
    solve = tk.least_squares(residuals, tk.solver.Optimistix(solver, 200, tol=1e-6))
    plain = tk.argmin(half_square, tk.solver.LBFGS(500, 1e-11))
    assert solve(CURVE_START, CURVE_THETA).info.status == tk.Status.CONVERGED
    gradient = jax.jit(jax.grad(curve_outer(solve)))(CURVE_THETA)
    expected = jax.grad(curve_outer(plain))(CURVE_THETA)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("bounded", [False, True])
def test_gauss_newton_curvature_leaves_out_the_residuals_own(bounded):
    solver = (
        tk.solver.ProjectedGradient(
            lambda y, theta: {"a": y["a"], "b": jnp.minimum(y["b"], 9.0)}, 0.01, 4000, 1e-10
        )
        if bounded
        else tk.solver.LBFGS(500, 1e-11)
    )
    solve = tk.least_squares(residuals, solver, curvature="gauss_newton")
    exact = tk.least_squares(residuals, solver)
    solution, same = solve(CURVE_START, CURVE_THETA), exact(CURVE_START, CURVE_THETA)
    assert solution.info.status == tk.Status.CONVERGED
    jax.tree.map(np.testing.assert_array_equal, solution.value, same.value)  # to the bit

    flat, back = jax.flatten_util.ravel_pytree(solution.value)

    def real(flat, theta):
        out = jax.flatten_util.ravel_pytree(residuals(back(flat), theta))[0]
        return jnp.concatenate([out.real, out.imag])

    jacobian = jax.jacobian(real)(flat, CURVE_THETA)
    slope = jax.grad(lambda flat, theta: jnp.sum(real(flat, theta) ** 2) / 2)
    cross = jax.jacobian(slope, 1)(flat, CURVE_THETA)
    expected = -jnp.array([3.0, 1.0]) @ jnp.linalg.solve(jacobian.T @ jacobian, cross)
    np.testing.assert_allclose(jax.grad(curve_outer(solve))(CURVE_THETA), expected, rtol=1e-6)
    hypergradient = tk.hypergradient(lambda y, theta: 3 * y["a"] + y["b"], solve)
    hg = hypergradient(CURVE_START, CURVE_THETA)
    np.testing.assert_allclose(hg.gradient, expected, rtol=1e-6)
    wrong = jax.grad(curve_outer(exact))(CURVE_THETA)
    assert jnp.max(jnp.abs(wrong - expected)) > 1e-2  # they are different code


def test_steps_by_hand_of_a_sum_of_squares_are_those_of_the_solve():
    solve = tk.least_squares(residuals, tk.solver.LBFGS(40, 1e-9))
    init, step = solve.steps()

    def by_hand(theta):
        state = init(CURVE_START, theta)
        return jax.lax.fori_loop(0, 40, lambda _, state: step(state, theta)[0], state).y

    whole = jax.jit(solve)(CURVE_START, CURVE_THETA).value
    jax.tree.map(np.testing.assert_array_equal, jax.jit(by_hand)(CURVE_THETA), whole)


def test_statuses_are_ours():
    solve = lambda fun, solver, y0, steps=50: tk.argmin(
        fun, tk.solver.Optimistix(solver, steps, tol=1e-8)
    )(y0, THETA)
    loose = optimistix.BFGS(rtol=1e-1, atol=1e-1)  # optimistix calls it a success
    quartic = lambda y, theta: jnp.sum((y - theta) ** 4)
    assert solve(quartic, loose, jnp.zeros(3)).info.status == tk.Status.STALLED
    assert solve(quartic, MINIMISERS[0], jnp.zeros(3), 2).info.status == tk.Status.STEP_LIMIT
    # The gradient `theta / y` is finite where the function is not.
    undefined = solve(lambda y, theta: jnp.sum(jnp.log(y) * theta), MINIMISERS[0], -jnp.ones(3))
    assert undefined.info.status == tk.Status.NOT_FINITE
    assert jnp.all(jnp.isnan(undefined.value))


def test_by_name_as_a_config_writes_it():
    named_one = tk.argmin(quadratic, tk.solver.Optimistix("BFGS", 500, tol=1e-10))
    given = tk.argmin(quadratic, tk.solver.Optimistix(MINIMISERS[0], 500, tol=1e-10))
    y, expected = named_one(start(), THETA).value, given(start(), THETA).value
    jax.tree.map(np.testing.assert_array_equal, y, expected)


def test_a_stalled_solve_is_told_by_the_hypergradient():
    loose = tk.solver.Optimistix(optimistix.BFGS(rtol=1e-1, atol=1e-1), 50, tol=1e-8)
    solve = tk.argmin(lambda y, theta: jnp.sum((y - theta) ** 4), loose)
    report = tk.hypergradient(lambda y, theta: jnp.sum(y), solve)(jnp.zeros(3), THETA).report
    assert report.status & tk.Issue.INNER_NOT_CONVERGED


def test_one_trace_of_the_function_for_the_user():
    traces = []

    def loss(y, theta):
        traces.append(1)
        return jnp.sum((y - theta) ** 2)

    solve = jax.jit(tk.argmin(loss, tk.solver.Optimistix(MINIMISERS[0], 50, tol=1e-8)))
    solve(jnp.zeros(3), THETA), solve(jnp.ones(3), 2 * THETA)
    assert len(traces) == 1


MESSAGES = {
    "by hand": (
        lambda: tk.argmin(quadratic, tk.solver.Optimistix("BFGS", 9)).steps()[0],
        ValueError,
        "`solver` must show its steps: got Optimistix, whose loop is its own; use tk.solver.Grad",
    ),
    "least squares by hand": (
        lambda: tk.least_squares(residuals, tk.solver.Optimistix("LevenbergMarquardt", 9)).steps()[
            0
        ],
        ValueError,
        "`solver` must show its steps: got Optimistix, whose loop is its own; use tk.solver.Grad",
    ),
    "a root finder": (
        lambda: tk.argmin(quadratic, tk.solver.Optimistix(optimistix.Newton(**TIGHT), 9)),
        ValueError,
        "`solver` must be one of optimistix that solves `argmin`, such as BFGS, NonlinearCG or "
        "NelderMead: got Newton.",
    ),
    "least squares": (
        lambda: tk.argmin(quadratic, tk.solver.Optimistix(LEAST_SQUARES[0], 9)),
        ValueError,
        "got LevenbergMarquardt; for a sum of squares use tk.least_squares.",
    ),
    "a class": (
        lambda: tk.argmin(quadratic, tk.solver.Optimistix(optimistix.BFGS, 9)),
        TypeError,
        "a solver of optimistix, such as optimistix.BFGS(rtol=1e-8, atol=1e-8): got <class ",
    ),
    "unrolled": (
        lambda: tk.argmin(
            quadratic, tk.solver.Optimistix(MINIMISERS[0], 9), adjoint=tk.adjoint.Unroll()
        ),
        ValueError,
        "`solver` must show its steps under Unroll: got Optimistix; use one that does, such as",
    ),
    "one step": (
        lambda: tk.argmin(
            quadratic, tk.solver.Optimistix(MINIMISERS[0], 9), adjoint=tk.adjoint.OneStep()
        ),
        ValueError,
        "`solver` must show its steps under OneStep: got Optimistix",
    ),
    "integers": (
        lambda: tk.least_squares(lambda y, theta: jnp.arange(3), tk.solver.Newton(9, 1e-6)),
        ValueError,
        "`residuals` must return floating or complex arrays, whose squares are summed: got int64[3]",
    ),
    "no rule for it": (
        lambda: tk.least_squares(
            residuals,
            tk.solver.Newton(9, 1e-6),
            adjoint=tk.adjoint.Unroll(),
            curvature="gauss_newton",
        ),
        ValueError,
        "`curvature` must be 'exact' under Unroll: got 'gauss_newton'",
    ),
    "no such curvature": (
        lambda: tk.least_squares(residuals, tk.solver.Newton(9, 1e-6), curvature="exakt"),
        ValueError,
        "`curvature` must be one of 'exact', 'gauss_newton': got 'exakt'.",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case):
    make, error, text = MESSAGES[case]
    with pytest.raises(error) as found:
        make()(start(), THETA)
    assert text in str(found.value) and "\n" not in str(found.value)


def test_a_missing_library_names_its_extra(monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "optimistix", None)
    with pytest.raises(
        ImportError,
        match=r'optimistix, which is not installed: pip install "toolkit-jax\[solvers\]"',
    ):
        tk.argmin(quadratic, tk.solver.Optimistix(MINIMISERS[0], 9))(start(), THETA)
