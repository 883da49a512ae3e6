"""Solvers of a minimum against closed forms and loops written in numpy."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from toolkit.adjoint import Stopped, Unroll
from toolkit.solver import (
    LBFGS,
    BlockCoordinateDescent,
    GradientDescent,
    MirrorDescent,
    Newton,
    Optax,
    Optimistix,
    ProjectedGradient,
    ProximalGradient,
    QuadraticProgram,
    Scipy,
)

H = np.asarray([[3.0, 1.0, 0.0], [1.0, 2.0, 0.5], [0.0, 0.5, 1.0]])  # eigenvalues 0.7, 1.5, 3.8
THETA = np.asarray([1.0, -2.0, 0.5])
Y0 = np.asarray([0.3, 0.2, -1.0])
EXACT = np.linalg.solve(H, THETA)


def quadratic(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ H @ y - y @ theta


def _solve(solver: Any, fun: Callable = quadratic, y0: Any = Y0, theta: Any = THETA) -> tk.Solution:
    solve = tk.argmin(fun, solver, adjoint=Stopped())
    return jax.jit(lambda y0, theta: solve(y0, theta))(y0, theta)


def _descent(steps: int, step_size: Callable, momentum: Callable, y: np.ndarray) -> np.ndarray:
    """Gradient descent on the quadratic, by hand."""
    velocity = np.zeros_like(y)
    for t in range(steps):
        velocity = momentum(t) * velocity - (H @ y - THETA)
        y = y + step_size(t) * velocity
    return y


SCHEDULE = np.linspace(0.3, 0.05, 12)
DESCENTS = {
    "number": (0.2, 0.0, lambda t: 0.2, lambda t: 0.0),
    "momentum": (0.1, 0.8, lambda t: 0.1, lambda t: 0.8),
    "array": (SCHEDULE, SCHEDULE[::-1], lambda t: SCHEDULE[t], lambda t: SCHEDULE[::-1][t]),
    "callable": (
        lambda theta, step: -0.1 * theta[1] / (1 + step),
        lambda theta, step: jnp.where(step < 3, 0.1, theta[0] * 0.5),
        lambda t: 0.2 / (1 + t),
        lambda t: 0.1 if t < 3 else 0.5,
    ),
}


@pytest.mark.parametrize("tol", [None, 0.0])
@pytest.mark.parametrize("name", DESCENTS)
def test_gradient_descent_is_the_hand_written_loop(name: str, tol: float | None) -> None:
    step_size, momentum, size_at, momentum_at = DESCENTS[name]
    got = _solve(GradientDescent(step_size, 12, momentum, tol=tol))
    # Rounding of 12 steps of 3 unknowns: the order of sums differs.
    np.testing.assert_allclose(got.value, _descent(12, size_at, momentum_at, Y0), rtol=1e-13)
    assert got.info.steps == 12
    residual = np.linalg.norm(H @ np.asarray(got.value) - THETA)
    np.testing.assert_allclose(got.info.residual, residual, rtol=1e-12)


OPTIMIZERS = {
    "adam": optax.adam(0.1),
    "schedule": optax.sgd(optax.cosine_decay_schedule(0.3, 20), momentum=0.5, nesterov=True),
    "chain": optax.chain(optax.clip_by_global_norm(0.5), optax.adamw(0.05, weight_decay=0.1)),
    "injected": optax.inject_hyperparams(optax.rmsprop)(learning_rate=0.05),
    "polyak": optax.polyak_sgd(max_learning_rate=0.3, f_min=-5.0),  # asks for the value
}


@pytest.mark.parametrize("tol", [None, 0.0])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_optax_is_the_hand_written_loop(name: str, tol: float | None) -> None:
    optimizer = optax.with_extra_args_support(OPTIMIZERS[name])
    y, state = jnp.asarray(Y0), optimizer.init(jnp.asarray(Y0))
    for _ in range(20):
        gradient = jnp.asarray(H @ np.asarray(y) - THETA)
        value = 0.5 * y @ H @ y - y @ THETA
        updates, state = optimizer.update(gradient, state, y, value=value)
        y = optax.apply_updates(y, updates)
    got = _solve(Optax(OPTIMIZERS[name], 20, tol=tol))
    np.testing.assert_allclose(got.value, y, rtol=1e-10)  # adam divides by roots of small numbers
    assert got.info.steps == 20


@pytest.mark.parametrize(
    "solver",
    [
        GradientDescent(0.25, 500, tol=1e-8),
        GradientDescent(0.2, 500, momentum=0.5, tol=1e-8),
        Optax(optax.sgd(0.25), 500, tol=1e-8),
        LBFGS(60, 1e-8),
        Newton(5, 1e-8),
        Newton(5, 1e-8, linear_solver=tk.linear.CG(10, 1e-12)),
        Newton(9, 1e-8, linear_solver=tk.linear.Neumann(200)),
    ],
    ids=lambda s: type(s).__name__,
)
def test_stops_at_the_tolerance_and_not_before(solver: Any) -> None:
    got = _solve(solver)
    residual = np.linalg.norm(H @ np.asarray(got.value) - THETA)
    assert residual <= 1e-8
    np.testing.assert_allclose(got.info.residual, residual, rtol=1e-5, atol=1e-14)
    assert got.info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(got.value, EXACT, atol=1e-8 / 0.6)  # residual over curvature
    limit = getattr(solver, "max_steps", None) or solver.num_steps
    assert 0 < got.info.steps < limit
    if isinstance(solver, GradientDescent) and solver.momentum == 0:
        y, expected = Y0, 0
        while np.linalg.norm(H @ y - THETA) > 1e-8:
            y, expected = y - 0.25 * (H @ y - THETA), expected + 1
        assert got.info.steps == expected


@pytest.mark.parametrize(
    "solver",
    [GradientDescent(0.1, 9, tol=1e-8), Optax(optax.sgd(0.1), 9, tol=1e-8), LBFGS(2, 1e-12)],
)
def test_step_limit(solver: Any) -> None:
    got = _solve(solver)
    assert got.info.status == tk.Status.STEP_LIMIT
    assert got.info.steps == (getattr(solver, "max_steps", None) or solver.num_steps)


def test_a_solved_start_takes_no_step() -> None:
    for solver in (GradientDescent(0.1, 9, tol=1e-8), LBFGS(9, 1e-8), Newton(9, 1e-8)):
        got = _solve(solver, y0=EXACT)
        assert got.info.steps == 0
        assert got.info.status == tk.Status.CONVERGED
        np.testing.assert_array_equal(got.value, EXACT)


def test_no_steps_return_the_start() -> None:
    for tol in (None, 1e-3):
        got = _solve(GradientDescent(0.1, 0, tol=tol))
        np.testing.assert_array_equal(got.value, Y0)
        assert (int(got.info.steps), int(got.info.status)) == (0, tk.Status.STEP_LIMIT)


def test_lbfgs_on_rosenbrock() -> None:
    def rosenbrock(y: Any, theta: Any) -> jax.Array:
        return jnp.sum(theta * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    got = _solve(LBFGS(200, 1e-10), rosenbrock, np.asarray([-1.2, 1.0, -1.2, 1.0]), 100.0)
    assert got.info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(got.value, 1.0, rtol=1e-9)
    assert got.info.steps < 100


def test_lbfgs_sees_the_function_of_each_step() -> None:
    # The line search leaves the value and gradient of the *previous* step's function behind. On half the squared
    # distance to x each step goes to its own x, and with the gradient of the step before it would stay there.
    xs = np.random.default_rng(0).normal(size=(4, 3))
    fun = lambda y, theta, x: jnp.sum((y - x) ** 2) / 2
    y0 = xs[0] + 0.1  # the first step is no longer than 1
    for count in (1, 2, 4):
        solve = tk.argmin(fun, LBFGS(count, 0.0), adjoint=Stopped())
        got = jax.jit(solve)(y0, None, xs[:count])
        np.testing.assert_allclose(got.value, xs[count - 1], rtol=1e-12)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_lbfgs_needs_few_evaluations(dtype: Any) -> None:
    def rosenbrock(y: Any, theta: Any) -> jax.Array:
        jax.debug.callback(lambda: counted.append(1))
        return jnp.sum(100 * (y[1:] - y[:-1] ** 2) ** 2 + (1 - y[:-1]) ** 2)

    counted: list[int] = []
    tol = 1e-3 if dtype == np.float32 else 1e-8
    got = jax.jit(lambda y0: tk.argmin(rosenbrock, LBFGS(200, tol))(y0))(
        np.asarray([-1.2, 1.0], dtype)
    )
    jax.effects_barrier()
    assert got.info.status == tk.Status.CONVERGED
    # One at the start, one a trial, and one for the residual in `info`.
    assert got.info.steps + 2 <= len(counted) <= 1.5 * got.info.steps


def test_lbfgs_says_where_it_finds_no_descent() -> None:
    # The gradient of |y| is 1 or -1 however near the minimum is.
    kink = lambda y, theta: jnp.sum(jnp.abs(y - theta))
    got = jax.jit(lambda y0: tk.argmin(kink, LBFGS(500, 1e-6))(y0, 0.3))(np.asarray([1.0, -2.0]))
    assert got.info.status == tk.Status.STALLED
    assert got.info.steps < 500
    assert np.all(np.isfinite(got.value))


def test_newton_converges_quadratically() -> None:
    # Minimum of sum(cosh(y) - theta y) at arcsinh(theta).
    fun = lambda y, theta: jnp.sum(jnp.cosh(y) - theta * y)
    errors = [
        float(np.max(np.abs(_solve(Newton(k, 0.0), fun).value - np.arcsinh(THETA))))
        for k in (3, 4, 5)
    ]
    assert errors[0] > 1e-5
    assert errors[2] < 1e-7
    # Newton's constant is |tanh(y*)| / 2 <= 1/2 at the solution, somewhat more on the way.
    assert all(after <= before**2 for before, after in itertools.pairwise(errors))


@pytest.mark.parametrize("name", ["descent", "momentum", "adam", "lbfgs", "newton"])
def test_complex_leaves_descend(name: str) -> None:
    solver = {
        "descent": GradientDescent(0.4, 100, tol=1e-9),
        "momentum": GradientDescent(0.2, 200, momentum=0.5, tol=1e-9),
        "adam": Optax(optax.adam(optax.cosine_decay_schedule(0.1, 400)), 400),
        "lbfgs": LBFGS(40, 1e-9),
        "newton": Newton(3, 1e-9),
    }[name]
    target, weight = np.asarray([1.0 + 2.0j, -3.0j]), np.asarray([1.0, 2.0])
    # |z - target|^2 / 2 has the gradient z - target along which it ascends; along its conjugate,
    # JAX's own gradient, the imaginary part would run away.
    fun = lambda y, theta: 0.5 * jnp.sum(weight * jnp.abs(y["z"] - theta) ** 2) + y["r"] ** 2
    y0 = {"z": np.zeros(2, complex), "r": np.asarray(1.0)}
    got = _solve(solver, fun, y0, target)
    np.testing.assert_allclose(got.value["z"], target, rtol=1e-6)
    np.testing.assert_allclose(got.value["r"], 0, atol=1e-6)
    if name == "descent":
        one = _solve(GradientDescent(0.4, 1), fun, y0, target)
        np.testing.assert_allclose(one.value["z"], 0.4 * weight * target, rtol=1e-14)
        residual = np.linalg.norm(np.r_[weight * (one.value["z"] - target), 2 * one.value["r"]])
        np.testing.assert_allclose(one.info.residual, residual, rtol=1e-13)


SOLVERS = {
    "descent": GradientDescent(0.2, 5),
    "descent_tol": GradientDescent(0.2, 5, tol=1e-6),
    "momentum_tol": GradientDescent(0.2, 5, momentum=0.5, tol=1e-6),
    "optax": Optax(optax.adam(0.1), 5),
    "optax_tol": Optax(optax.adam(0.1), 5, tol=1e-6),
    "lbfgs": LBFGS(5, 1e-6),
    "newton": Newton(5, 1e-6),
    "proximal": ProximalGradient(lambda y, theta, s: tk.prox.lasso(y, 0.1, s), 0.2, 5, 1e-6),
    "projected": ProjectedGradient(
        lambda y, theta: optax.projections.projection_l2_ball(y, 1.0), 0.2, 5, 1e-6
    ),
    "optimistix": Optimistix("BFGS", 5, 1e-6),
    "searched": GradientDescent(None, 5),
    "searched_tol": GradientDescent(None, 5, tol=1e-6),
    "accelerated": GradientDescent(0.2, 5, accelerated=True),
    "accelerated_searched_tol": GradientDescent(None, 5, tol=1e-6, accelerated=True),
    "proximal_searched": ProximalGradient(
        lambda y, theta, s: tk.prox.lasso(y, 0.1, s), None, 5, 1e-6
    ),
    "mirror": MirrorDescent(
        "identity", lambda y, theta: tk.projection.l2_ball(y, 1.0), 0.2, 5, 1e-6
    ),
    "blocks": BlockCoordinateDescent(lambda y, theta, s: tk.prox.lasso(y, 0.1, s), 0.2, 5, 1e-6),
    "blocks_searched": BlockCoordinateDescent(
        lambda y, theta, s: tk.prox.lasso(y, 0.1, s), None, 5, 1e-6
    ),
    "fista": ProximalGradient(lambda y, theta, s: tk.prox.lasso(y, 0.1, s), 0.2, 5, 1e-6, True),
    "projected_searched": ProjectedGradient(
        lambda y, theta: tk.projection.l2_ball(y, 1.0), None, 5, 1e-6, True
    ),
    "scipy": Scipy("L-BFGS-B", 5, 1e-6),
    "lbfgs_bounded": LBFGS(5, 1e-6, (-9.0, 9.0)),
    "quadratic_program": QuadraticProgram(bounds=(-9.0, 9.0), tol=1e-6),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_nan_in_gives_nan_out(name: str) -> None:
    solve = jax.jit(tk.argmin(quadratic, SOLVERS[name], adjoint=Stopped()))
    bad = np.asarray([0.0, np.nan, 0.0])
    for y0, theta in ((Y0, THETA + bad), (Y0 + bad, THETA), (Y0, np.full(3, np.inf))):
        got = solve(y0, theta)
        assert got.info.status == tk.Status.NOT_FINITE
        assert not np.all(np.isfinite(got.value))
    assert np.all(np.isfinite(solve(Y0, THETA).value))


def test_divergence_is_not_finite() -> None:
    for tol in (None, 1e-6):
        got = _solve(GradientDescent(10.0, 300, tol=tol))
        assert got.info.status == tk.Status.NOT_FINITE
        assert not np.any(np.isfinite(got.value))
    assert got.info.steps < 300  # with a tolerance the loop stops there


@pytest.mark.parametrize("name", [name for name in SOLVERS if "momentum" not in name])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_small_types_are_kept(name: str, dtype: str) -> None:
    matrix, theta = jnp.asarray(H, dtype), jnp.asarray(THETA, dtype)
    fun = lambda y, theta: 0.5 * y @ matrix @ y - y @ theta
    got = _solve(SOLVERS[name], fun, jnp.asarray(Y0, dtype), theta)
    assert got.value.dtype == jnp.dtype(dtype)
    assert got.info.residual.dtype == jnp.float32  # of bfloat16, too: a norm may leave a small type
    assert got.info.status != tk.Status.NOT_FINITE


@pytest.mark.parametrize("adjoint", [Stopped(), Unroll()], ids=str)
@pytest.mark.parametrize("tol", [None, 0.0])
def test_minibatches(adjoint: Any, tol: float | None) -> None:
    rng = np.random.default_rng(0)
    features, labels = rng.normal(size=(20, 3)), rng.normal(size=20)
    batches = rng.integers(0, 20, size=(7, 4))

    def fun(y: Any, theta: Any, batch: Any) -> jax.Array:
        rows = jnp.asarray(features)[batch["rows"]]
        wrong = rows @ y - jnp.asarray(labels)[batch["rows"]]
        noise = jax.random.bits(batch["key"], dtype=jnp.uint8) % 2
        return 0.5 * jnp.mean(wrong**2) + 0.5 * theta * jnp.sum(y**2) * noise

    keys = jax.random.split(jax.random.key(0), 7)
    y = Y0
    for rows, key in zip(batches, keys, strict=True):
        noise = int(jax.random.bits(key, dtype=jnp.uint8)) % 2
        gradient = features[rows].T @ (features[rows] @ y - labels[rows]) / 4 + 0.3 * noise * y
        y = y - 0.1 * gradient
    solve = tk.argmin(fun, GradientDescent(0.1, 7, tol=tol), adjoint=adjoint)
    got = jax.jit(solve)(Y0, 0.3, {"rows": batches, "key": keys})
    np.testing.assert_allclose(got.value, y, rtol=1e-12)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: GradientDescent(0.1, -1), r"`num_steps` must be an int of at least 0: got -1"),
        (lambda: GradientDescent(0.1, 2.0), r"`num_steps` must be an int of at least 0: got 2\.0"),
        (
            lambda: GradientDescent("0.1", 2),
            r"`step_size` must be None, a nonnegative number, .*got '0\.1'",
        ),
        (
            lambda: GradientDescent(np.ones(3), 2),
            r"`step_size` must be .*shape \(\) or \(2,\).*got shape \(3,\)",
        ),
        (lambda: GradientDescent(0.1, 2, momentum=np.ones((2, 2))), r"`momentum` must be"),
        (
            lambda: GradientDescent(0.1, 2, tol=-1e-3),
            r"`tol` must be a nonnegative number: got -0\.001",
        ),
        (
            lambda: GradientDescent(0.1, 2, tol=float("nan")),
            r"`tol` must be a nonnegative number: got nan",
        ),
        (
            lambda: GradientDescent(0.1, 2, 0.5, accelerated=True),
            r"`accelerated` must be False with `momentum`, .*: got True; leave `momentum` out",
        ),
        (
            lambda: GradientDescent(None, 2, 0.5),
            r"`momentum` must be 0 with step_size=None, .*: got 0\.5; use accelerated=True",
        ),
        (
            lambda: GradientDescent(None, 2, jnp.zeros(2)),
            r"`momentum` must be 0 .*: got float64\[2\]",
        ),
        (
            lambda: GradientDescent(0.1, 2, accelerated=1),
            r"`accelerated` must be True or False: got 1",
        ),
        (lambda: Optax(0.1, 2), r"`optimizer` must be an optax transformation, .*got 0\.1"),
        (lambda: Optax(optax.adam(0.1), "2"), r"`num_steps` must be .*got '2'"),
        (lambda: LBFGS(-2, 1e-3), r"`max_steps` must be .*got -2"),
        (lambda: LBFGS(2, "1e-3"), r"`tol` must be .*got '1e-3'"),
        (lambda: Newton(True, 1e-3), r"`max_steps` must be .*got True"),
    ],
)
def test_bad_settings_are_refused(make: Callable, message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        make()


@pytest.mark.parametrize("kind", [tk.root, tk.fixed_point])
@pytest.mark.parametrize("name", ["descent", "optax", "lbfgs"])
def test_a_solver_of_another_kind_is_refused(kind: Callable, name: str) -> None:
    with pytest.raises(ValueError, match=rf"`solver` must solve `{kind.__name__}`: .*use tk\.solv"):
        kind(lambda y, theta: y - theta, SOLVERS[name])(Y0, THETA)


def test_newton_factorises_once_a_step_and_the_rule_once_more() -> None:
    """None at the solution that the implicit rule does not need."""
    solves: list[int] = []

    def counted(matvec: Any, b: Any, x0: Any = None) -> Any:
        jax.debug.callback(lambda: solves.append(1))
        return tk.linear.Dense()(matvec, b, x0)

    def fun(y: Any, theta: Any) -> jax.Array:
        return quadratic(y, theta) + 0.1 * jnp.sum(y**4)

    def error(theta: Any, adjoint: Any) -> tuple[jax.Array, jax.Array]:
        solve = tk.argmin(fun, Newton(20, 1e-10, linear_solver=counted), adjoint=adjoint)
        solution = solve(Y0, theta)
        return jnp.sum(solution.value**2), solution.info.steps

    for adjoint, extra in ((Stopped(), 0), (tk.adjoint.Implicit(counted), 1)):
        solves.clear()
        _, steps = jax.jit(jax.grad(error, has_aux=True), static_argnums=1)(THETA, adjoint)
        jax.effects_barrier()
        assert len(solves) == int(steps) + extra
