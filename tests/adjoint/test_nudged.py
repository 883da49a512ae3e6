"""Equilibrium propagation: orders of error, what is exact, and what is reported."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.cases import CASES, H, outer
from toolkit.adjoint import Implicit, Nudged
from toolkit.types import Issue

SCHEMES = {
    "one_sided": Nudged(1e-7, "one_sided"),
    "centered": Nudged(1e-2),
    "holomorphic": Nudged(1e-1, "holomorphic"),
}
every_scheme = pytest.mark.parametrize("rule", SCHEMES.values(), ids=SCHEMES)
NEWTON = tk.solver.Newton(40, 1e-13)
Y0 = jnp.zeros(3)
THETA = jnp.asarray([0.4, -0.3, 0.8])
READOUT = jnp.asarray([1.0, -2.0, 0.5])


def curved(y: jax.Array, theta: jax.Array) -> jax.Array:
    """Strongly convex, analytic, and neither quadratic nor even."""
    return 0.5 * y @ H @ y + jnp.sum(jnp.exp(y + 0.3 * theta)) / 2 - theta @ y


def readout(y: jax.Array, theta: jax.Array) -> jax.Array:
    return READOUT @ y + 0.1 * jnp.sum(theta**2)


def gradient(rule: Any, solver: Any = NEWTON, fun: Any = curved, theta: Any = THETA) -> jax.Array:
    solve = tk.argmin(fun, solver, adjoint=rule)
    return jax.jit(jax.grad(lambda t: readout(solve(Y0, t).value, t)))(theta)


def report(rule: Any, solver: Any, fun: Any, theta: Any, outer: Any) -> tk.HypergradientReport:
    solve = tk.argmin(fun, solver, adjoint=rule)
    return jax.jit(tk.hypergradient(outer, solve))(jnp.zeros(()), theta).report


# ---------------------------------------------------------------------------- how far it is off


@pytest.mark.parametrize(
    ("scheme", "num_points", "order", "beta"),
    [
        ("one_sided", 4, 1, 0.05),
        ("centered", 4, 2, 0.05),
        pytest.param("holomorphic", 2, 2, 0.05, marks=pytest.mark.slow),
        pytest.param("holomorphic", 3, 3, 0.1, marks=pytest.mark.slow),
        ("holomorphic", 4, 4, 0.4),
        pytest.param("holomorphic", 6, 6, 0.8, marks=pytest.mark.slow),
    ],
)
def test_error_is_of_the_stated_order(
    scheme: Any, num_points: int, order: int, beta: float
) -> None:
    exact = gradient(Implicit())
    errors = [
        np.linalg.norm(gradient(Nudged(b, scheme, num_points=num_points)) - exact)
        for b in (beta, beta / 2, beta / 4)
    ]
    slopes = np.log2(np.asarray(errors[:-1]) / errors[1:])
    assert errors[-1] > 1e-12  # above rounding, or the slopes mean nothing
    # Of a slope, whose next term is of the order of beta: neighbours in order are 1 apart.
    np.testing.assert_allclose(slopes, order, atol=0.1)


def test_two_points_are_the_centered_scheme_and_many_are_exact() -> None:
    two = gradient(Nudged(0.1, "holomorphic", num_points=2))
    np.testing.assert_allclose(two, gradient(Nudged(0.1)), rtol=1e-11)
    many = gradient(Nudged(0.3, "holomorphic", num_points=16))
    np.testing.assert_allclose(many, gradient(Implicit()), rtol=1e-12)


@pytest.mark.parametrize("beta", [1e-3, 1.0, 1e3])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_exact_on_quadratics_for_every_beta(scheme: Any, beta: float) -> None:
    problem = CASES["quadratic"]  # theta enters linearly in y
    solve = tk.argmin(problem.fun, NEWTON, adjoint=Nudged(beta, scheme))
    got = jax.grad(lambda t: outer(solve(problem.y0, t).value, t))(problem.theta)
    expected = jax.grad(lambda t: outer(problem.exact(t), t))(problem.theta)
    np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("case", ["ridge", "ridge_per_feature"])
@pytest.mark.parametrize("scheme", ["centered", "holomorphic"])
def test_exact_where_theta_multiplies_a_square(scheme: Any, case: str) -> None:
    problem = CASES[case]
    solve = problem.solve(Nudged(2.0, scheme))
    got = jax.grad(lambda t: outer(solve(problem.y0, t).value, t))(problem.theta)
    expected = jax.grad(lambda t: outer(problem.exact(t), t))(problem.theta)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, expected)


@pytest.mark.parametrize("scale", [1e-8, 1.0, 1e8])
def test_normalized_nudges_serve_outer_functions_of_any_scale(scale: float) -> None:
    solve = tk.argmin(curved, NEWTON, adjoint=Nudged(1e-3, normalize=True))
    got = jax.grad(lambda t: scale * READOUT @ solve(Y0, t).value)(THETA)
    exact = jax.grad(lambda t: READOUT @ tk.argmin(curved, NEWTON)(Y0, t).value)(THETA)
    np.testing.assert_allclose(got, scale * exact, rtol=1e-5)


# ------------------------------------------------------------------------------- as other rules


SOLVERS = {
    "descent": tk.solver.GradientDescent(0.1, 400, momentum=0.3),
    "descent_tol": tk.solver.GradientDescent(0.1, 1000, tol=1e-13),
    "newton": NEWTON,
    "sgd": tk.solver.Optax(optax.sgd(0.1, momentum=0.3), 400),
    "lbfgs": tk.solver.LBFGS(60, 1e-12),
}


@pytest.mark.parametrize("solver", SOLVERS)
@every_scheme
def test_every_solver_that_fits(rule: Nudged, solver: str) -> None:
    if rule.scheme == "holomorphic" and solver == "lbfgs":
        with pytest.raises(ValueError, match=r'LBFGS, which compares values.*scheme="centered"'):
            gradient(rule, SOLVERS[solver])
        return
    # One-sided at 1e-7: rounding of the solve over beta.
    rtol = {"one_sided": 1e-4, "centered": 1e-4, "holomorphic": 1e-6}[rule.scheme]
    np.testing.assert_allclose(gradient(rule, SOLVERS[solver]), gradient(Implicit()), rtol=rtol)


def _by_hand(fun: Any, y0: Any, theta: Any) -> tk.Solution:
    y = jax.lax.fori_loop(0, 400, lambda _, y: y - 0.1 * jax.grad(fun)(y, theta), y0)
    return tk.Solution(y, tk.SolveInfo(jnp.asarray(0), jnp.asarray(400), jnp.asarray(0.0)))


def test_optimizers_that_need_a_value_are_refused() -> None:
    solver = tk.solver.Optax(optax.polyak_sgd(0.1), 10)
    with pytest.raises(ValueError, match=r"Optax, which compares values"):
        gradient(Nudged(0.1, "holomorphic"), solver)


def test_callable_solver() -> None:
    np.testing.assert_allclose(gradient(Nudged(1e-3), _by_hand), gradient(Implicit()), rtol=1e-5)
    with pytest.raises(ValueError, match=r'the callable _by_hand.*scheme="centered"'):
        gradient(Nudged(1e-3, "holomorphic"), _by_hand)


@every_scheme
def test_traced_settings_and_closures(rule: Nudged) -> None:
    """A step size, a beta and a closed-over array that are all traced; vmap over them."""

    def value(theta: jax.Array, rate: jax.Array, beta: jax.Array) -> jax.Array:
        fun = lambda y, _: curved(y, theta)
        solver = tk.solver.GradientDescent(rate, 400)
        solve = tk.argmin(fun, solver, adjoint=Nudged(beta, rule.scheme))
        return READOUT @ solve(Y0, None).value

    thetas = THETA + jnp.asarray([[0.0], [0.5]])
    args = thetas, jnp.asarray([0.1, 0.12]), rule.beta * jnp.ones(2)
    by_theta, by_rate, by_beta = jax.vmap(jax.grad(value, (0, 1, 2)))(*args)
    exact = jax.vmap(jax.grad(lambda t: READOUT @ tk.argmin(curved, NEWTON)(Y0, t).value))(thetas)
    np.testing.assert_allclose(by_theta, exact, rtol=2e-4)
    assert jnp.all(by_rate == 0) and jnp.all(by_beta == 0)  # by theory


def test_no_cotangent_is_zero_to_the_bit() -> None:
    solver = tk.solver.GradientDescent(0.1, 3)  # far from converged
    solve = tk.argmin(curved, solver, adjoint=Nudged(1e-2))
    got = jax.grad(lambda t: 0 * jnp.sum(solve(Y0, t).value))(THETA)
    assert jnp.all(got == 0)


def test_nested_in_an_implicit_solve() -> None:
    """The inner gradient is a nudged one; the outer solver is first order."""

    def upper(t: jax.Array, _: None) -> jax.Array:
        y = tk.argmin(curved, NEWTON, adjoint=Nudged(1e-3))(Y0, t).value
        return jnp.sum((y - 0.2) ** 2) + 0.5 * jnp.sum(t**2)

    solve = tk.argmin(upper, tk.solver.GradientDescent(0.3, 60), adjoint=tk.adjoint.Stopped())
    assert solve(THETA).info.residual < 1e-8


# -------------------------------------------------------------------------------- what is refused


@every_scheme
def test_forward_mode_and_second_order_are_refused(rule: Nudged) -> None:
    solve = tk.argmin(curved, NEWTON, adjoint=rule)
    value = lambda t: readout(solve(Y0, t).value, t) ** 2
    closed = lambda t: readout(
        tk.argmin(lambda y, _: curved(y, t), NEWTON, adjoint=rule)(Y0).value, t
    )
    for fun in (value, closed):
        with pytest.raises(TypeError, match=r"Nudged\(\) has no forward mode.*Implicit\(\)"):
            jax.jacfwd(fun)(THETA)
    for second in (jax.hessian, lambda f: jax.jacrev(jax.grad(f))):
        with pytest.raises(TypeError, match=r"Nudged\(\) has first derivatives only.*Implicit\(\)"):
            second(value)(THETA)


@pytest.mark.parametrize("make", [tk.root, tk.fixed_point])
def test_equations_are_refused(make: Any) -> None:
    solve = make(lambda y, t: y - t, NEWTON, adjoint=Nudged(0.1))
    with pytest.raises(ValueError, match=f"needs tk.argmin.*tk.{make.__name__}; use Implicit"):
        solve(Y0, THETA)


def test_per_step_inputs_are_refused() -> None:
    solve = tk.argmin(
        lambda y, t, x: jnp.sum((y - t * x) ** 2),
        tk.solver.GradientDescent(0.1, 5),
        adjoint=Nudged(0.1),
    )
    with pytest.raises(ValueError, match="`xs` must be None under Nudged"):
        solve(Y0, THETA, jnp.arange(5.0))


@pytest.mark.parametrize(
    "settings",
    [
        {"beta": 0.0},
        {"beta": -1},
        {"beta": float("nan")},
        {"beta": np.ones(2)},
        {"beta": 0.1, "scheme": "central"},
        {"beta": 0.1, "num_points": 1},
        {"beta": 0.1, "num_points": 2.0},
    ],
)
def test_bad_settings(settings: dict) -> None:
    name = list(settings)[-1]
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Nudged(**settings)


@pytest.mark.parametrize(
    ("fun", "match"),
    [
        (lambda y, t: jnp.sum(jnp.abs(y - t) ** 2), "returns float64.*abs, real"),
        (lambda y, t: jnp.sum(jax.lax.erf(y) ** 2), "raises"),
        (lambda y, t: y[jnp.argmax(y)] + jnp.sum(y**2), "got argmax of complex numbers"),
    ],
)
def test_functions_without_a_complex_value_are_refused(fun: Any, match: str) -> None:
    with pytest.raises(ValueError, match=rf'complex-analytic.*{match}.*use scheme="centered"'):
        gradient(Nudged(0.1, "holomorphic"), fun=fun)


@pytest.mark.parametrize(
    "fun",
    [
        lambda y, t: jnp.sum((y - t) ** 2) - jax.nn.log_softmax(y)[0],
        lambda y, t: jnp.sum((y - t) ** 2) + jnp.sum(jnp.maximum(y + 9, 0)),
    ],
)
def test_an_order_of_complex_numbers_is_refused_or_right(fun: Any) -> None:
    # JAX orders complex numbers, by their real parts first. Since 0.12 it cannot differentiate that.
    try:
        got = gradient(Nudged(0.1, "holomorphic"), fun=fun)
    except ValueError as error:
        assert "got max of complex numbers" in str(error) and "logsumexp" in str(error)
        assert "\n" not in str(error)
    else:
        np.testing.assert_allclose(got, gradient(Implicit(), fun=fun), rtol=1e-4)


def test_complex_y_is_continued_nowhere() -> None:
    solve = tk.argmin(
        lambda y, t: jnp.sum(jnp.abs(y - t) ** 2), NEWTON, adjoint=Nudged(0.1, "holomorphic")
    )
    with pytest.raises(ValueError, match="`y0` must be real"):
        solve(jnp.zeros(2, complex), 1.0)


# ------------------------------------------------------------------------------- what is reported


DESCENT = tk.solver.GradientDescent(0.1, 300)
FAILURES = {
    # Slope at most 1: a nudge of 3 has no answer, and the iterate runs away.
    "unbounded": (lambda y, t: jnp.logaddexp(y - t, t - y), 3.0),
    # The nudge carries the solution over the barrier of a double well, where it converges.
    "another basin": (lambda y, t: (y**2 - 1) ** 2 / 4 - 0.1 * t * y, 2.0),
    # Beyond the reach of the steps' stability: it diverges to infinity.
    "infinite": (lambda y, t: y**4 / 4 + (y - t) ** 2 / 2, 1e4),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("scheme", ["one_sided", "centered"])
def test_too_large_a_beta_is_reported(scheme: Any, failure: str) -> None:
    fun, beta = FAILURES[failure]
    value = lambda y, t: y
    small = report(Nudged(1e-3, scheme), DESCENT, fun, jnp.asarray(0.3), value)
    assert small.status == 0
    large = report(Nudged(beta, scheme), DESCENT, fun, jnp.asarray(0.3), value)
    assert large.status & Issue.NOT_FINITE
    assert failure != "another basin" or large.status & Issue.NEGATIVE_CURVATURE
    assert failure != "unbounded" or large.status & Issue.INNER_NOT_CONVERGED
    solve = tk.argmin(fun, DESCENT, adjoint=Nudged(beta, scheme))
    assert jnp.isnan(jax.grad(lambda t: solve(jnp.zeros(()), t).value)(0.3))


def test_beyond_the_radius_of_convergence_is_reported() -> None:
    fun = lambda y, t: (y**2 - 1) ** 2 / 4 - 0.1 * t * y
    rules = [Nudged(beta, "holomorphic", num_points=8) for beta in (0.1, 2.0)]
    near, far = (report(r, DESCENT, fun, jnp.asarray(0.3), lambda y, t: y) for r in rules)
    assert near.status == 0
    assert far.status & Issue.NOT_FINITE


def test_a_tolerance_that_hides_the_nudge_is_reported() -> None:
    """The solve ends where it begins, and the difference would be zero."""
    fun = lambda y, t: (y - t) ** 2
    solver = tk.solver.GradientDescent(0.1, 300, tol=1e-2)
    said = report(Nudged(1e-3), solver, fun, jnp.asarray(0.3), lambda y, t: y)
    assert said.status == Issue.INNER_NOT_CONVERGED | Issue.NOT_FINITE


def test_short_nudged_solves_are_reported_and_kept() -> None:
    fun = lambda y, t: (y - t) ** 2 / 2
    solver = tk.solver.GradientDescent(0.1, 40)  # 0.9^40: 1.5 % of the nudge is unanswered
    said = report(Nudged(1e-2), solver, fun, jnp.asarray(0.3), lambda y, t: y)
    assert said.status == Issue.INNER_NOT_CONVERGED


def test_a_maximum_is_reported() -> None:
    """Newton's method is content with any stationary point."""
    fun = lambda y, t: -((y - t) ** 2)
    said = report(Nudged(1e-2), NEWTON, fun, jnp.asarray(0.3), lambda y, t: y)
    assert said.status == Issue.NEGATIVE_CURVATURE


def test_a_function_of_the_real_part_is_reported() -> None:
    """It has a complex value, and no complex derivative."""
    fun = lambda y, t: (y - t) ** 2 + 0.3 * jnp.real(y) ** 2
    said = report(Nudged(1e-2, "holomorphic"), DESCENT, fun, jnp.asarray(0.3), lambda y, t: y)
    assert said.status == Issue.INNER_NOT_CONVERGED | Issue.NOT_FINITE


def test_nan_in_the_cotangent() -> None:
    fun = lambda y, t: (y - t) ** 2
    said = report(Nudged(1e-2), DESCENT, fun, jnp.asarray(0.3), lambda y, t: y * jnp.nan)
    assert said.status & Issue.NOT_FINITE


def test_report_of_a_sound_run() -> None:
    fun = lambda y, t: (y - t) ** 2
    said = report(Nudged(1e-2), DESCENT, fun, jnp.asarray(0.3), lambda y, t: y)
    assert said.status == 0 and said.hvp_evals == 0
    assert said.gradient_evals == 3 * 300 + 1 + 2 * 3 + 1  # solves, verdict, judgements


@every_scheme
def test_value_is_that_of_the_solver(rule: Nudged) -> None:
    values = {
        np.asarray(tk.argmin(curved, DESCENT, adjoint=a)(Y0, THETA).value).tobytes()
        for a in (rule, Implicit())
    }
    assert len(values) == 1


@pytest.mark.parametrize("rule", [Nudged(0.05), Nudged(0.1, "holomorphic")], ids=str)
def test_float32_takes_float32_nudges(rule: Nudged) -> None:
    single = jax.tree.map(lambda leaf: jnp.asarray(leaf, jnp.float32), (Y0, THETA, READOUT, H))
    y0, theta, weights, hessian = single

    def fun(y: jax.Array, t: jax.Array) -> jax.Array:
        return 0.5 * y @ hessian @ y + jnp.sum(jnp.exp(y + 0.3 * t)) / 2 - t @ y

    solve = tk.argmin(fun, tk.solver.GradientDescent(0.1, 200), adjoint=rule)
    got = jax.grad(lambda t: weights @ solve(y0, t).value)(theta)
    assert got.dtype == jnp.float32
    exact = jax.grad(lambda t: READOUT @ tk.argmin(curved, NEWTON)(Y0, t).value)(THETA)
    np.testing.assert_allclose(got, exact, rtol=1e-3)
