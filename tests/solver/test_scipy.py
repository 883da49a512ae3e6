"""scipy's methods: the value is a solution, the derivative is ours, and the status is that of our residual."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.solver import Scipy
from toolkit.solver.scipy_host import METHODS

MINIMISERS = list(METHODS["minimize"])
BOUNDED = [name for name, method in METHODS["minimize"].items() if method.bounds]
# The others are known to diverge on most problems, this one among them.
ROOTS = [name for name in METHODS["root"] if name not in ("excitingmixing", "linearmixing")]
A = np.array([[3.0, 1.0, 0.5], [1.0, 2.0, 0.3], [0.5, 0.3, 1.5]])
THETA = jnp.array([1.0, -0.5, 2.0])
TOL = 1e-7


def loss(y, theta):
    return y @ A @ y / 2 - y @ theta


def gradient_and_info(solve, y0=jnp.zeros(3), power=3):
    """Of `sum(y^power)`, for two thetas at once."""

    def outer(theta):
        solution = solve(y0, theta)
        return jnp.sum(solution.value**power), (solution.value, solution.info)

    both = jax.jit(jax.vmap(jax.grad(outer, has_aux=True)))
    return both(jnp.stack([THETA, THETA / 2]))


@pytest.mark.parametrize("method", MINIMISERS)
def test_minimum_and_gradient_are_the_closed_form(method):
    gradients, (values, info) = gradient_and_info(tk.argmin(loss, Scipy(method, 500, TOL)))
    for scale, gradient, y in zip((1, 0.5), gradients, values, strict=True):
        exact = np.linalg.solve(A, scale * THETA)
        np.testing.assert_allclose(y, exact, rtol=1e-6)
        np.testing.assert_allclose(gradient, np.linalg.solve(A, 3 * exact**2), rtol=1e-6)
    assert np.all(info.status == tk.Status.CONVERGED) and np.all(info.residual <= TOL)
    assert np.all(info.steps <= 500)


@pytest.mark.parametrize("method", ROOTS)
def test_roots(method):
    solve = tk.root(lambda y, t: A @ y + y**3 - t, Scipy(method, 200, TOL))
    gradients, (values, info) = gradient_and_info(solve)
    for scale, gradient, y in zip((1, 0.5), gradients, values, strict=True):
        np.testing.assert_allclose(A @ y + y**3, scale * THETA, rtol=1e-6)
        jacobian = A + np.diag(3 * y**2)
        np.testing.assert_allclose(gradient, np.linalg.solve(jacobian.T, 3 * y**2), rtol=1e-6)
    assert np.all(info.status == tk.Status.CONVERGED)


def test_a_fixed_point_by_a_root_finder_to_second_order():
    solve = tk.fixed_point(lambda y, t: jnp.cos(y) * t, Scipy("hybr", 100, 1e-11))
    of = lambda t: solve(jnp.zeros(()), t).value
    y = of(0.7)
    np.testing.assert_allclose(jnp.cos(y) * 0.7, y, rtol=1e-9)
    # y = t cos(y): y' = cos(y) / (1 + t sin(y)), and once more.
    slope = lambda y, t: jnp.cos(y) / (1 + t * jnp.sin(y))
    np.testing.assert_allclose(jax.grad(of)(0.7), slope(y, 0.7), rtol=1e-6)
    second = jax.grad(slope, 1)(y, 0.7) + jax.grad(slope, 0)(y, 0.7) * slope(y, 0.7)
    np.testing.assert_allclose(jax.grad(jax.grad(of))(0.7), second, rtol=1e-6)


# Of three entries one lies on a bound that depends on theta, one between two, one is fixed.
BOX = lambda theta: (jnp.array([-jnp.inf, -3.0, 0.3]), jnp.array([0.2 * theta[2], jnp.inf, 0.3]))


@pytest.mark.parametrize("method", BOUNDED)
def test_on_a_bound_the_solution_follows_it(method):
    # Nelder-Mead starts on a lower bound. Powell's search does not find away from there.
    start = jnp.array([9.0, 0.5 if method == "Powell" else -9.0, -9.0])
    solve = tk.argmin(loss, Scipy(method, 2000, TOL, bounds=BOX))
    gradients, (values, info) = gradient_and_info(solve, start, power=1)
    expected = lambda theta: jnp.stack(
        [0.2 * theta[2], (theta[1] - 0.2 * theta[2] - 0.09) / 2, jnp.asarray(0.3)]
    )
    slope = jax.grad(lambda theta: jnp.sum(expected(theta)))
    for y, gradient, theta in zip(values, gradients, (THETA, THETA / 2), strict=True):
        np.testing.assert_allclose(y, expected(theta), rtol=1e-6)
        np.testing.assert_allclose(gradient, slope(theta), rtol=1e-6, atol=1e-12)
    assert np.all(info.status == tk.Status.CONVERGED)


def residuals(y, theta):
    """A real leaf and a complex one."""
    x = jnp.linspace(0.0, 1.0, 20)
    curve = y["a"] * jnp.exp(-theta[0] * x * y["b"]) - jnp.sin(3 * theta[1] * x)
    return {"curve": curve * jnp.exp(1j * x), "penalty": theta[2] * y["a"]}


@pytest.mark.parametrize("method", [*METHODS["least_squares"], "BFGS"])
def test_sums_of_squares(method):
    start, theta = {"a": jnp.array(0.4), "b": jnp.array(-0.8)}, jnp.array([1.3, 0.7, 0.1])

    def outer(solver):
        solve = tk.least_squares(residuals, solver)
        return lambda theta: 3 * (y := solve(start, theta).value)["a"] + y["b"]

    gradient = jax.jit(jax.grad(outer(Scipy(method, 200, 1e-9))))(theta)
    expected = jax.grad(outer(tk.solver.LBFGS(500, 1e-11)))(theta)
    np.testing.assert_allclose(gradient, expected, rtol=1e-6)


@pytest.mark.parametrize("method", ["trf", "dogbox", "L-BFGS-B"])
def test_a_bounded_sum_of_squares(method):
    solver = Scipy(method, 200, 1e-8, bounds=({"a": -jnp.inf, "b": 0.1}, {"a": 0.5, "b": 0.1}))
    solve = tk.least_squares(lambda y, theta: y["a"] - theta * (1 + y["b"]), solver)
    solution = solve({"a": jnp.array(3.0), "b": jnp.array(3.0)}, 2.0)
    np.testing.assert_allclose((solution.value["a"], solution.value["b"]), (0.5, 0.1), rtol=1e-8)
    assert solution.info.status == tk.Status.CONVERGED


def test_complex_leaves_and_carried_ones():
    def fun(y, theta):
        b = y["b"] - 1j * jnp.sum(theta)
        return jnp.sum((y["a"] - theta) ** 2) + b.real**2 + b.imag**2 + y["n"][1]

    start = {"a": jnp.zeros(3), "b": jnp.zeros((), complex), "n": jnp.arange(2)}
    solution = jax.jit(tk.argmin(fun, Scipy("BFGS", 100, TOL)))(start, THETA)
    np.testing.assert_allclose(solution.value["a"], THETA, rtol=1e-6)
    np.testing.assert_allclose(solution.value["b"], 1j * jnp.sum(THETA), atol=1e-6)
    np.testing.assert_array_equal(solution.value["n"], [0, 1])


@pytest.mark.parametrize(
    ("kind", "method"), [("argmin", "BFGS"), ("argmin", "trust-exact"), ("root", "krylov")]
)
def test_float32_and_strict_promotion(kind, method):
    matrix, theta = jnp.asarray(A, jnp.float32), jnp.asarray(THETA, jnp.float32)
    funs = {
        "argmin": lambda y, theta: y @ matrix @ y / 2 - y @ theta,
        "root": lambda y, theta: matrix @ y - theta,
    }
    solve = getattr(tk, kind)(funs[kind], Scipy(method, 100, 1e-4))
    with jax.numpy_dtype_promotion("strict"), jax.enable_x64(False):
        solution = jax.jit(solve)(jnp.zeros(3, jnp.float32), theta)
        assert solution.value.dtype == jnp.float32
        np.testing.assert_allclose(solution.value, np.linalg.solve(A, theta), rtol=1e-3)
        assert solution.info.status == tk.Status.CONVERGED


def test_statuses_are_ours():
    run = lambda fun, *settings, **more: tk.argmin(fun, Scipy(*settings, **more))(
        jnp.zeros(3), THETA
    )
    quartic = lambda y, theta: jnp.sum((y - theta) ** 4)
    assert run(quartic, "L-BFGS-B", 3, 1e-9).info.status == tk.Status.STEP_LIMIT
    # By differences of values alone no gradient of 1e-13 is found.
    assert run(loss, "Powell", 900, 1e-13).info.status == tk.Status.STALLED
    solved = tk.argmin(loss, Scipy("BFGS", 9, 1e-6))(jnp.linalg.solve(A, THETA), THETA)
    assert (solved.info.status, solved.info.steps) == (tk.Status.CONVERGED, 0)
    empty = run(loss, "L-BFGS-B", 9, 1e-6, bounds=(1.0, 0.0))
    assert empty.info.status == tk.Status.INFEASIBLE and np.all(np.isnan(empty.value))
    slope = jax.grad(lambda t: jnp.sum(run(loss, "L-BFGS-B", 9, 1e-6, bounds=(t, 0.0)).value))(1.0)
    assert np.isnan(slope)


@pytest.mark.parametrize("method", MINIMISERS)
def test_a_function_that_is_not_finite_gives_nan(method):
    solve = tk.argmin(lambda y, theta: jnp.sum(jnp.log(y) * theta), Scipy(method, 20, TOL))
    solution = solve(-jnp.ones(3), THETA)
    assert solution.info.status == tk.Status.NOT_FINITE and np.all(np.isnan(solution.value))


@pytest.mark.parametrize("method", METHODS["root"])
def test_no_root_is_no_solution(method):
    solve = tk.root(lambda y, theta: 1 + y**2, Scipy(method, 20, TOL))
    info = solve(jnp.ones(2), THETA).info
    assert info.status in (tk.Status.STALLED, tk.Status.STEP_LIMIT) and info.residual > 1


def test_one_trace_of_the_function_for_the_user():
    traces = []

    def fun(y, theta):
        traces.append(1)
        return jnp.sum((y - theta) ** 2)

    solve = jax.jit(tk.argmin(fun, Scipy("Newton-CG", 50, TOL)))
    solve(jnp.zeros(3), THETA), solve(jnp.ones(3), 2 * THETA)
    assert len(traces) == 1


def test_a_loop_of_solves_and_a_key_from_outside():
    def steps(key, theta):
        fun = lambda y, theta: jnp.sum((y - theta - jax.random.normal(key, (3,))) ** 2)
        solve = tk.argmin(fun, Scipy("BFGS", 50, TOL))
        return jax.lax.scan(lambda y, _: (solve(y, theta).value, None), theta, length=3)[0]

    key = jax.random.key(0)
    y = jax.jit(steps)(key, THETA)
    np.testing.assert_allclose(y, THETA + jax.random.normal(key, (3,)), atol=1e-6)


MESSAGES = {
    "a root finder": (
        lambda: tk.argmin(loss, Scipy("hybr", 9, TOL)),
        "`method` must be one of scipy's that solves `argmin`, Nelder-Mead, Powell, COBYLA, COBYQA, CG, BFGS, "
        "L-BFGS-B, TNC, SLSQP, Newton-CG, trust-ncg, trust-krylov, trust-constr, dogleg, trust-exact: got 'hybr'.",
    ),
    "least squares": (
        lambda: tk.argmin(loss, Scipy("trf", 9, TOL)),
        "trust-exact: got 'trf'; for a sum of squares use tk.least_squares.",
    ),
    "a minimiser": (
        lambda: tk.root(lambda y, t: y - t, Scipy("BFGS", 9, TOL)),
        "`method` must be one of scipy's that solves `root`, hybr, lm, df-sane, anderson, broyden1,",
    ),
    "no bounds": (
        lambda: tk.argmin(loss, Scipy("BFGS", 9, TOL, bounds=(0.0, 1.0))),
        "`bounds` must be None with the method 'BFGS', which takes none; use one of Nelder-Mead, Powell, COBYLA, "
        "COBYQA, L-BFGS-B, TNC, SLSQP, trust-constr.",
    ),
    "no bounds of least squares": (
        lambda: tk.least_squares(lambda y, t: y - t, Scipy("lm", 9, TOL, bounds=(0.0, 1.0))),
        "`bounds` must be None with the method 'lm', which takes none; use one of trf, dogbox, Nelder-Mead,",
    ),
    "bounds of a root": (
        lambda: tk.root(lambda y, t: y - t, Scipy("hybr", 9, TOL, bounds=(0.0, 1.0))),
        "`bounds` must be None with the method 'hybr', which takes none; use tk.least_squares with trf or dogbox.",
    ),
    "too few residuals": (
        lambda: tk.least_squares(lambda y, t: jnp.sum(y - t), Scipy("lm", 9, TOL)),
        "`method` must be 'trf' or 'dogbox' for fewer residuals than unknowns: got 'lm' for 1 residuals of 3",
    ),
    "unrolled": (
        lambda: tk.argmin(loss, Scipy("BFGS", 9, TOL), adjoint=tk.adjoint.Unroll()),
        "`solver` must show its steps under Unroll: got Scipy; use one that does, such as",
    ),
    "by hand": (
        lambda: tk.argmin(loss, Scipy("BFGS", 9, TOL)).steps()[0],
        "`solver` must show its steps: got Scipy, whose loop is its own; use tk.solver.Grad",
    ),
    "no such method": (lambda: Scipy("bfgs", 9, TOL), "`method` must be one of 'BFGS', 'CG',"),
    "on devices": (
        lambda: jax.shard_map(
            lambda y: tk.argmin(loss, Scipy("BFGS", 9, TOL))(y, THETA).value,
            mesh=jax.make_mesh((1,), ("d",), axis_types=(jax.sharding.AxisType.Auto,)),
            in_specs=jax.P(),
            out_specs=jax.P(),
        ),
        "`solver` must not be Scipy inside jax.shard_map or jax.pmap",
    ),
}


@pytest.mark.parametrize("case", MESSAGES)
def test_messages(case):
    make, text = MESSAGES[case]
    with pytest.raises(ValueError) as found:
        made = make()
        made(jnp.zeros(3)) if case == "on devices" else made(jnp.zeros(3), THETA)
    assert text in str(found.value) and "\n" not in str(found.value)
