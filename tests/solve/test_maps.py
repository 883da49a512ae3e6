"""`argmin`, `root`, `fixed_point`: what they accept, what they refuse, how often they trace."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Implicit, OneStep, Stopped, Truncated, Unroll
from toolkit.solver import LBFGS, FixedPointIteration, GradientDescent, Newton

H = np.asarray([[3.0, 1.0], [1.0, 2.0]])
THETA, Y0 = np.asarray([1.0, -2.0]), np.zeros(2)
DESCENT = GradientDescent(0.2, 150)  # contraction 0.72: converged to rounding
RULES = {
    "implicit": Implicit(),
    "unroll": Unroll(),
    "unroll_forward": Unroll(forward_mode=True),
    "truncated": Truncated(100),
    "one_step": OneStep(),
    "stopped": Stopped(),
}
ALL_RULES = pytest.mark.parametrize("adjoint", RULES.values(), ids=RULES.keys())


def quadratic(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ H @ y - y @ theta


# ------------------------------------------------------------------------------------- bad input

BAD = {
    "fun": (
        lambda: tk.argmin(3, DESCENT),
        TypeError,
        r"`fun` must be callable: got int",
    ),
    "solver_class": (
        lambda: tk.argmin(quadratic, GradientDescent),
        TypeError,
        r"`solver` must be one of tk\.solver, such as .*got <class",
    ),
    "solver": (
        lambda: tk.argmin(quadratic, "newton"),
        TypeError,
        r"`solver` must be one of tk\.solver.*got 'newton'",
    ),
    "adjoint_class": (
        lambda: tk.argmin(quadratic, DESCENT, adjoint=Implicit),
        TypeError,
        r"`adjoint` must be one of tk\.adjoint, such as Implicit\(\): got <class",
    ),
    "adjoint": (
        lambda: tk.argmin(quadratic, DESCENT, adjoint="implicit"),
        TypeError,
        r"`adjoint` must be one of tk\.adjoint.*got 'implicit'",
    ),
    "y0_integers": (
        lambda: tk.argmin(quadratic, DESCENT)(np.asarray([1, 2]), THETA),
        ValueError,
        r"`y0` must have a floating or complex leaf to solve for: got int64\[2\]",
    ),
    "y0_none": (
        lambda: tk.argmin(quadratic, DESCENT)(None, THETA),
        ValueError,
        r"`y0` must have a floating or complex leaf",
    ),
    "not_scalar": (
        lambda: tk.argmin(lambda y, theta: y, DESCENT)(Y0, THETA),
        ValueError,
        r"`fun` must return a real scalar under argmin: got float64\[2\]; .*has_aux=True.*tk\.root",
    ),
    "integer_scalar": (
        lambda: tk.argmin(lambda y, theta: jnp.sum(y > 0), DESCENT)(Y0, THETA),
        ValueError,
        r"`fun` must return a real scalar under argmin: got int64\[\]",
    ),
    "complex_scalar": (
        lambda: tk.argmin(lambda y, theta: jnp.sum(y) * 1j, DESCENT)(Y0, THETA),
        ValueError,
        r"`fun` must return a real scalar under argmin: got complex128\[\]",
    ),
    "aux_without_has_aux": (
        lambda: tk.argmin(lambda y, theta: (jnp.sum(y), y), DESCENT)(Y0, THETA),
        ValueError,
        r"`fun` must return a real scalar under argmin.*pass has_aux=True",
    ),
    "has_aux_without_aux": (
        lambda: tk.argmin(quadratic, DESCENT, has_aux=True)(Y0, THETA),
        ValueError,
        r"`fun` must return a pair \(value, aux\) with has_aux=True: got float64\[\]",
    ),
    "root_structure": (
        lambda: tk.root(lambda y, theta: {"a": y}, Newton(3, 1e-6))(Y0, THETA),
        ValueError,
        r"`fun` must return a tree like `y`: got \{a: float64\[2\]\}, expected float64\[2\]",
    ),
    "root_shape": (
        lambda: tk.root(lambda y, theta: y[:1], Newton(3, 1e-6))(Y0, THETA),
        ValueError,
        r"the result of `fun` must have the shapes and dtypes of `y`: got float64\[1\]",
    ),
    "fixed_point_dtype": (
        lambda: tk.fixed_point(lambda y, theta: y * 1j, FixedPointIteration(3, 1e-6))(Y0, THETA),
        ValueError,
        r"the result of `fun` must have .*got complex128\[2\], expected float64\[2\]",
    ),
    "xs_length": (
        lambda: tk.argmin(lambda y, t, x: y @ y * x, DESCENT, adjoint=Unroll())(
            Y0, THETA, np.ones(7)
        ),
        ValueError,
        r"`xs` must have num_steps=150 entries along its leading axis: got shape \(7,\)",
    ),
    "xs_scalar": (
        lambda: tk.argmin(lambda y, t, x: y @ y * x, DESCENT, adjoint=Unroll())(Y0, THETA, 1.0),
        ValueError,
        r"`xs` must have one entry a step .*got float64\[\]",
    ),
    "xs_empty": (
        lambda: tk.argmin(lambda y, t, x: y @ y * x, DESCENT, adjoint=Unroll())(
            Y0, THETA, np.ones(0)
        ),
        ValueError,
        r"`xs` must have one entry a step .*got float64\[0\]",
    ),
    "xs_implicit": (
        lambda: tk.argmin(lambda y, t, x: y @ y * x, DESCENT)(Y0, THETA, np.ones(150)),
        ValueError,
        r"`xs` must be None under Implicit: .*use Unroll, Truncated or Stopped",
    ),
    "xs_one_step": (
        lambda: tk.argmin(lambda y, t, x: y @ y * x, DESCENT, adjoint=OneStep())(
            Y0, THETA, np.ones(150)
        ),
        ValueError,
        r"`xs` must be None under OneStep: .*use Unroll, Truncated or Stopped",
    ),
    "unroll_line_search": (
        lambda: tk.argmin(quadratic, LBFGS(9, 1e-6), adjoint=Unroll())(Y0, THETA),
        ValueError,
        r"`solver` must have steps that reverse mode can cross under Unroll: got LBFGS.*Implicit",
    ),
    "truncated_line_search": (
        lambda: tk.argmin(quadratic, LBFGS(9, 1e-6), adjoint=Truncated(3))(Y0, THETA),
        ValueError,
        r"reverse mode can cross under Truncated: got LBFGS.*Implicit",
    ),
    "one_step_line_search": (
        lambda: tk.argmin(quadratic, LBFGS(9, 1e-6), adjoint=OneStep())(Y0, THETA),
        ValueError,
        r"reverse mode can cross under OneStep: got LBFGS.*Implicit",
    ),
    "checkpoint": (
        lambda: Unroll(checkpoint=0),
        ValueError,
        r"`checkpoint` must be None, an int of at least 1, or 'sqrt', or .*got 0",
    ),
    "checkpoint_word": (
        lambda: Unroll(checkpoint="log"),
        ValueError,
        r"`checkpoint` must be .*got 'log'",
    ),
    "truncated_none": (
        lambda: Truncated(0),
        ValueError,
        r"`num_steps` must be an int of at least 1: got 0; use Stopped\(\)",
    ),
    "truncated_float": (
        lambda: Truncated(2.0),
        ValueError,
        r"`num_steps` must be an int of at least 1: got 2\.0",
    ),
    "callable_result": (
        lambda: tk.argmin(quadratic, lambda fun, y, theta: y)(Y0, THETA),
        ValueError,
        r"`solver` must return tk\.Solution\(value, info\): <lambda> returned ",
    ),
    "callable_info": (
        lambda: tk.argmin(quadratic, lambda fun, y, theta: tk.Solution(y, None))(Y0, THETA),
        ValueError,
        r"`solver` must return .*tk\.SolveInfo\(status, steps, residual\).*<lambda> is NoneType",
    ),
    "callable_shape": (
        lambda: tk.argmin(
            quadratic, lambda fun, y, theta: tk.Solution(y[:1], tk.SolveInfo(0, 1, 0.0))
        )(Y0, THETA),
        ValueError,
        r"the value of <lambda> must have the shapes and dtypes of `y`: got float64\[1\]",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_line(name: str) -> None:
    call, error, message = BAD[name]
    with pytest.raises(error, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


# ------------------------------------------------------------------------------------------- aux


@ALL_RULES
def test_aux_is_that_of_the_solution(adjoint: Any) -> None:
    fun = lambda y, theta: (quadratic(y, theta), {"double": 2 * y, "count": 3})
    solve = tk.argmin(fun, DESCENT, adjoint=adjoint, has_aux=True)
    got = jax.jit(solve)(Y0, THETA)
    np.testing.assert_allclose(got.aux["double"], 2 * np.linalg.solve(H, THETA), rtol=1e-10)
    assert got.aux["count"] == 3
    # aux is differentiated through the value.
    gradient = jax.jit(jax.grad(lambda theta: solve(Y0, theta).aux["double"][0]))(THETA)
    value = jax.jit(jax.grad(lambda theta: 2 * solve(Y0, theta).value[0]))(THETA)
    np.testing.assert_allclose(gradient, value, rtol=1e-12)


def test_aux_of_a_root_and_of_per_step_inputs() -> None:
    root = tk.root(lambda y, theta: (y**3 - theta, y + 1), Newton(30, 1e-12), has_aux=True)
    np.testing.assert_allclose(root(np.ones(1), np.asarray([8.0])).aux, 3.0, rtol=1e-10)
    fun = lambda y, theta, x: (0.5 * jnp.sum((y - x) ** 2), x)
    solve = tk.argmin(fun, GradientDescent(0.5, 4), adjoint=Unroll(), has_aux=True)
    assert solve(Y0, THETA, np.arange(4.0)).aux == 3.0  # of the last step's input
    assert tk.argmin(quadratic, DESCENT)(Y0, THETA).aux is None


# ------------------------------------------------------------------------------- callable solvers


def direct(fun: Callable, y0: Any, theta: Any) -> tk.Solution:
    """A solver of our own: solves the quadratic by its gradient at 0 and its Hessian."""
    gradient, hessian = jax.grad(fun)(y0, theta), jax.hessian(fun)(y0, theta)
    y = y0 - jnp.linalg.solve(hessian, gradient)
    return tk.Solution(y, tk.SolveInfo(jnp.asarray(0), jnp.asarray(1), jnp.asarray(0.0)))


@pytest.mark.parametrize(
    ("adjoint", "expected"),
    # One more application of an exact solver gives the exact derivative.
    [(Implicit(), np.linalg.inv(H)), (OneStep(), np.linalg.inv(H)), (Stopped(), np.zeros((2, 2)))],
    ids=str,
)
def test_callable_solver(adjoint: Any, expected: np.ndarray) -> None:
    solve = tk.argmin(quadratic, direct, adjoint=adjoint)
    got = jax.jit(solve)(Y0, THETA)
    np.testing.assert_allclose(got.value, np.linalg.solve(H, THETA), rtol=1e-13)
    assert (int(got.info.status), int(got.info.steps)) == (tk.Status.CONVERGED, 1)
    jacobian = jax.jit(jax.jacrev(lambda theta: solve(Y0, theta).value))(THETA)
    np.testing.assert_allclose(jacobian, expected, rtol=1e-10, atol=1e-14)


@pytest.mark.parametrize("adjoint", [Unroll(), Unroll(forward_mode=True), Truncated(3)], ids=str)
def test_callable_solver_is_refused_where_steps_are_needed(adjoint: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`solver` must show its steps under \w+: got the callable direct; use"
    ):
        tk.argmin(quadratic, direct, adjoint=adjoint)(Y0, THETA)


def test_callable_solver_may_compute_outside_jax_under_the_implicit_rule() -> None:
    def in_numpy(fun: Callable, y0: Any, theta: Any) -> tk.Solution:
        y, steps = np.asarray(y0), 0
        while np.linalg.norm(np.asarray(jax.grad(fun)(y, theta))) > 1e-12:  # a Python loop on data
            y, steps = y - 0.25 * np.asarray(jax.grad(fun)(y, theta)), steps + 1
        return tk.Solution(jnp.asarray(y), tk.SolveInfo(0, steps, 0.0))

    solve = tk.argmin(quadratic, in_numpy)
    gradient = jax.grad(lambda theta: solve(Y0, theta).value[0])(jnp.asarray(THETA))
    np.testing.assert_allclose(gradient, np.linalg.inv(H)[0], rtol=1e-10)


def test_a_lying_callable_solver_is_found_out() -> None:
    lazy = lambda fun, y0, theta: tk.Solution(y0, tk.SolveInfo(0, 0, 0.0))
    got = tk.argmin(quadratic, lazy)(Y0, THETA)
    assert got.info.status == tk.Status.STEP_LIMIT
    np.testing.assert_allclose(got.info.residual, np.linalg.norm(THETA), rtol=1e-14)


def test_callable_solver_of_a_fixed_point_sees_the_user_trees() -> None:
    def picard(fun: Callable, y0: dict, theta: dict) -> tk.Solution:
        assert set(y0) == {"a", "n"}
        assert theta["kind"] == "affine"
        y = y0
        for _ in range(60):
            y = fun(y, theta)
        return tk.Solution(y, tk.SolveInfo(0, 60, 0.0))

    fun = lambda y, theta: {"a": 0.5 * y["a"] + theta["shift"] * y["n"], "n": y["n"]}
    for adjoint, expected in ((Implicit(), 6.0), (OneStep(), 3.0)):
        solve = tk.fixed_point(fun, picard, adjoint=adjoint)
        at = lambda shift, s=solve: s({"a": 0.0, "n": 3}, {"shift": shift, "kind": "affine"}).value
        np.testing.assert_allclose(at(1.5)["a"], 9.0, rtol=1e-12)
        np.testing.assert_allclose(jax.grad(lambda s, at=at: at(s)["a"])(1.5), expected, rtol=1e-12)


# ----------------------------------------------------------------------------------------- traces


@ALL_RULES
@pytest.mark.parametrize("has_aux", [False, True])
def test_fun_is_traced_once_and_never_again(adjoint: Any, has_aux: bool) -> None:
    count = []

    def fun(y: Any, theta: Any) -> Any:
        count.append(1)
        return (quadratic(y, theta), y) if has_aux else quadratic(y, theta)

    solve = tk.argmin(fun, GradientDescent(0.2, 5), adjoint=adjoint, has_aux=has_aux)
    loss = jax.jit(jax.value_and_grad(lambda theta: jnp.sum(solve(Y0, theta).value)))
    loss(THETA)
    assert len(count) == 1 + has_aux  # the aux at the solution is a call of its own
    loss(THETA + 1)
    assert len(count) == 1 + has_aux


def test_a_changed_global_is_seen() -> None:
    scope = {"shift": jnp.asarray([1.0, 1.0])}
    solve = tk.argmin(lambda y, theta: quadratic(y, theta + scope["shift"]), DESCENT)
    for shift in (1.0, 5.0):
        scope["shift"] = jnp.full(2, shift)
        expected = np.linalg.solve(H, THETA + shift)
        np.testing.assert_allclose(solve(Y0, THETA).value, expected, rtol=1e-10)


# ------------------------------------------------------------------------------- hyperparameters


def _descent_with(step_size: Any, momentum: Any) -> GradientDescent:
    return GradientDescent(step_size, 6, momentum)


def _by_hand(step_size: np.ndarray, momentum: np.ndarray) -> np.ndarray:
    y, v = np.ones(2), np.zeros(2)
    for t in range(6):
        v = momentum[t] * v - (H @ y - THETA)
        y = y + step_size[t] * v
    return y


@pytest.mark.parametrize("form", ["scalar", "per_step", "in_theta"])
@pytest.mark.parametrize("rule", ["unroll", "unroll_sqrt", "unroll_forward", "truncated_all"])
def test_unrolled_derivative_in_step_size_and_momentum(form: str, rule: str) -> None:
    adjoint = {
        "unroll": Unroll(),
        "unroll_sqrt": Unroll(checkpoint="sqrt"),
        "unroll_forward": Unroll(forward_mode=True),
        "truncated_all": Truncated(6),
    }[rule]
    shape = (6,) if form == "per_step" else ()
    settings = jnp.full(shape, 0.1), jnp.full(shape, 0.6)

    def loss(step_size: Any, momentum: Any) -> jax.Array:
        if form == "in_theta":
            solver = GradientDescent(lambda theta, t: theta[1], 6, lambda theta, t: theta[2])
            fun, theta = lambda y, theta: quadratic(y, theta[0]), (THETA, step_size, momentum)
        else:
            solver, fun, theta = _descent_with(step_size, momentum), quadratic, THETA
        return jnp.sum(tk.argmin(fun, solver, adjoint=adjoint)(np.ones(2), theta).value ** 2)

    got = jax.jit(jax.grad(loss, (0, 1)))(*settings)
    h = 1e-6
    for i in (0, 1):
        for place in np.ndindex(shape):
            sides = []
            for sign in (h, -h):
                moved = [np.full(6, 0.1), np.full(6, 0.6)]
                moved[i][place or slice(None)] += sign
                sides.append(np.sum(_by_hand(*moved) ** 2))
            # Central differences of h = 1e-6 are good to about 1e-9.
            np.testing.assert_allclose(
                got[i][place], (sides[0] - sides[1]) / (2 * h), rtol=1e-7, atol=1e-8
            )


def test_implicit_derivative_in_settings_and_start_is_zero() -> None:
    def loss(step_size: Any, momentum: Any, y0: Any) -> jax.Array:
        solve = tk.argmin(quadratic, GradientDescent(step_size, 60, momentum))
        return jnp.sum(solve(y0, THETA).value ** 2)

    for bar in jax.jit(jax.grad(loss, (0, 1, 2)))(0.1, 0.5, jnp.ones(2)):
        np.testing.assert_array_equal(bar, 0)


def test_derivative_in_an_optimizer_built_inside() -> None:
    import optax

    def loss(rate: Any) -> jax.Array:
        solver = tk.solver.Optax(optax.sgd(rate), 6)
        solve = tk.argmin(quadratic, solver, adjoint=Unroll())
        return jnp.sum(solve(np.ones(2), THETA).value ** 2)

    h, zero = 1e-6, np.zeros(6)
    sides = [np.sum(_by_hand(np.full(6, 0.1 + s), zero) ** 2) for s in (h, -h)]
    # Central differences of h = 1e-6 are good to about 1e-9.
    np.testing.assert_allclose(jax.jit(jax.grad(loss))(0.1), (sides[0] - sides[1]) / (2 * h), 1e-7)


# ---------------------------------------------------------------------------------- composition


@ALL_RULES
def test_solve_inside_scan(adjoint: Any) -> None:
    solve = tk.argmin(quadratic, DESCENT, adjoint=adjoint)

    def chain(theta: Any) -> tuple:
        body = lambda theta, _: (solve(Y0, theta).value, solve(Y0, theta).info)
        return jax.lax.scan(body, theta, None, length=3)

    last, info = jax.jit(chain)(jnp.asarray(THETA))
    cubed = np.linalg.matrix_power(np.linalg.inv(H), 3)
    np.testing.assert_allclose(last, cubed @ THETA, rtol=1e-9)
    assert list(info.status) == [0, 0, 0]
    # One step of the solver has the derivative 0.2 I; the others that of the solution, or none.
    expected = {OneStep: 0.2**3 * np.eye(2), Stopped: np.zeros((2, 2))}.get(type(adjoint), cubed)
    jacobian = jax.jit(jax.jacrev(lambda theta: chain(theta)[0]))(jnp.asarray(THETA))
    np.testing.assert_allclose(jacobian, expected, rtol=1e-9, atol=1e-13)


@ALL_RULES
def test_vmap_with_integers_of_each_example_closed_over(adjoint: Any) -> None:
    table = jnp.asarray([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0]])

    def loss(theta: Any, index: Any, key: Any) -> jax.Array:
        sign = jnp.where(jax.random.bernoulli(key), 1.0, 1.0)
        fun = lambda y, theta: quadratic(y, theta * table[index] * sign)
        return jnp.sum(tk.argmin(fun, DESCENT, adjoint=adjoint)(Y0, theta).value)

    thetas, indices = jnp.asarray([THETA, THETA + 1, THETA - 1]), jnp.asarray([2, 0, 1])
    keys = jax.random.split(jax.random.key(0), 3)
    got, bars = jax.jit(jax.vmap(jax.value_and_grad(loss)))(thetas, indices, keys)
    rows = np.asarray(table)[np.asarray(indices)]
    expected = np.stack([np.linalg.solve(H, t * r) for t, r in zip(thetas, rows, strict=True)])
    np.testing.assert_allclose(got, expected.sum(1), rtol=1e-9, atol=1e-12)
    slope = {OneStep: 0.2 * np.ones(2), Stopped: np.zeros(2)}.get(
        type(adjoint), np.linalg.inv(H).sum(0)
    )
    np.testing.assert_allclose(bars, rows * slope, rtol=1e-9, atol=1e-12)


def test_vmap_with_a_tolerance_stops_each_example_by_itself() -> None:
    solve = tk.argmin(
        lambda y, theta: 0.5 * theta * jnp.sum(y**2), GradientDescent(0.5, 400, tol=1e-6)
    )
    rates = jnp.asarray([0.1, 1.0, 2.0])
    together = jax.jit(jax.vmap(lambda theta: solve(jnp.ones(2), theta)))(rates)
    for i, rate in enumerate(rates):
        alone = solve(jnp.ones(2), rate)
        assert together.info.steps[i] == alone.info.steps
        np.testing.assert_allclose(together.value[i], alone.value, rtol=1e-12)
    assert len(set(map(int, together.info.steps))) == 3


def test_theta_may_be_absent() -> None:
    def loss(theta: Any) -> jax.Array:
        solve = tk.argmin(lambda y, _: quadratic(y, theta), DESCENT)
        return jnp.sum(solve(Y0).value)

    np.testing.assert_allclose(jax.jit(jax.grad(loss))(THETA), np.linalg.inv(H).sum(0), rtol=1e-9)


@pytest.mark.parametrize("segment", [None, 4])
def test_derivative_in_the_inputs_of_each_step(segment: int | None) -> None:
    fun = lambda y, theta, x: quadratic(y, theta + x)
    solve = tk.argmin(fun, GradientDescent(0.2, 6), adjoint=Unroll(checkpoint=segment))
    xs = np.random.default_rng(0).normal(size=(6, 2))
    got = jax.jit(jax.jacrev(lambda xs: solve(Y0, THETA, xs).value))(xs)
    # y_6 = sum_t P^(5-t) 0.2 (theta + x_t), P = I - 0.2 H.
    powers = [0.2 * np.linalg.matrix_power(np.eye(2) - 0.2 * H, 5 - t) for t in range(6)]
    np.testing.assert_allclose(got, np.stack(powers, axis=1), rtol=1e-12, atol=1e-15)
