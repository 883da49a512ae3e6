"""Loops of one's own over `step` against the solver's own loop, for every solver that shows its steps."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.sharding import PartitionSpec

import toolkit as tk
from tests.solver import test_argmin_solvers, test_equation_solvers
from tests.traces import counted
from toolkit.adjoint import Stopped, Unroll
from toolkit.jaxprs.read import inner, opened
from toolkit.solver import (
    LBFGS,
    BlockCoordinateDescent,
    GradientDescent,
    Newton,
    Optax,
    Optimistix,
    QuadraticProgram,
    Scipy,
)
from toolkit.types import Solver

W = 0.3 * np.random.default_rng(0).normal(size=(3, 3))
Y0, THETA = np.asarray([0.3, 0.2, -1.0]), np.asarray([1.0, -2.0, 0.5])
H = W.T @ W + np.eye(3)


def loss(y: Any, theta: Any) -> jax.Array:
    return 0.5 * y @ H @ y - y @ theta + 0.1 * jnp.sum(jnp.sin(y))


def equation(y: Any, theta: Any) -> jax.Array:
    return jnp.tanh(W @ y + theta) - y


def mapped(y: Any, theta: Any) -> jax.Array:
    return jnp.tanh(W @ y + theta)


class Stepped(NamedTuple):
    """A solve whose solver shows its steps."""

    make: Callable
    fun: Callable
    solver: Any

    def solve(self, **how: Any) -> Any:
        return self.make(self.fun, self.solver, adjoint=Stopped(), **how)

    def limit(self) -> int:
        return getattr(self.solver, "max_steps", None) or self.solver.num_steps


def until_the_end(solver: Any) -> Any:
    """With a tolerance, so many steps that it is met: a loop then ends by its status."""
    if solver.tol is None:
        return solver
    name = "max_steps" if hasattr(solver, "max_steps") else "num_steps"
    return dataclasses.replace(solver, **{name: 400})


SHOWING = {
    name: Stepped(tk.argmin, loss, until_the_end(solver))
    for name, solver in test_argmin_solvers.SOLVERS.items()
    if isinstance(solver, Solver)
    and not isinstance(solver, Optimistix | Scipy | QuadraticProgram)  # which hide them
} | {
    f"fixed_point_{name}": Stepped(tk.fixed_point, mapped, until_the_end(solver))
    for name, solver in test_equation_solvers.FIXED_POINT.items()
}
SHOWING["root_newton"] = Stepped(tk.root, equation, Newton(60, 1e-6))
SHOWING["schedules"] = Stepped(
    tk.argmin, loss, GradientDescent(np.linspace(0.3, 0.1, 12), 12, np.linspace(0.0, 0.9, 12))
)
showing = pytest.mark.parametrize("name", SHOWING)


def while_loop(case: Stepped, y0: Any, theta: Any) -> tuple[Any, Any]:
    """A loop as a user writes it: the last state, and what is known of it."""
    init, step = case.solve().steps()

    def unfinished(carry: Any) -> Any:
        state, status = carry
        return (status == tk.Status.STEP_LIMIT) & (state.step < case.limit())

    def advance(carry: Any) -> Any:
        state, info = step(carry[0], theta)
        return state, info.status

    going_on = jnp.asarray(int(tk.Status.STEP_LIMIT), jnp.int32)
    return jax.lax.while_loop(unfinished, advance, (init(y0, theta), going_on))


def assert_same(got: Any, expected: Any) -> None:
    # XLA of jax 0.10 rounds the last digits of some operations by what stands beside them in a loop.
    ulps = 0 if jax.__version_info__ >= (0, 12) else 8
    for one, other in zip(*map(jax.tree.leaves, (got, expected)), strict=True):
        np.testing.assert_array_max_ulp(np.asarray(one), np.asarray(other), ulps)


@showing
def test_a_while_loop_is_the_solve_to_the_bit(name: str) -> None:
    case = SHOWING[name]
    state, status = jax.jit(lambda y0, theta: while_loop(case, y0, theta))(Y0, THETA)
    solve = case.solve()
    solution = jax.jit(lambda y0, theta: solve(y0, theta))(Y0, THETA)
    assert_same((state.y, state.step), (solution.value, solution.info.steps))
    if (
        case.solver.tol is not None
    ):  # else the loop ends at the limit, of which a step knows nothing
        assert int(status) == int(solution.info.status) == tk.Status.CONVERGED


@showing
def test_info_is_of_the_point_handed_in(name: str) -> None:
    case = SHOWING[name]
    init, step = case.solve().steps()

    def once(state: Any, _: Any) -> tuple[Any, Any]:
        new, info = step(state, THETA)
        return new, (state.y, new.y, info)

    before, after, info = jax.jit(lambda: jax.lax.scan(once, init(Y0, THETA), None, 400)[1])()
    tol = case.solver.tol
    small = np.zeros(400, bool) if tol is None else np.asarray(info.residual) <= tol
    np.testing.assert_array_equal(info.status, np.where(small, 0, 1))
    assert small.any() == (tol is not None)
    np.testing.assert_array_equal(np.asarray(before)[small], np.asarray(after)[small])
    assert np.all(np.any(np.asarray(before)[~small][:5] != np.asarray(after)[~small][:5], axis=1))
    for y, at in zip(before, jax.tree.map(list, info.residual), strict=False):
        if case.make is not tk.argmin:
            residual = case.fun(y, THETA) - (0 if case.make is tk.root else y)
        elif hasattr(case.solver, "prox") or hasattr(case.solver, "projection"):
            continue
        else:
            residual = jax.grad(loss)(y, THETA)
        np.testing.assert_allclose(at, jnp.linalg.norm(residual), rtol=1e-9, atol=1e-14)
        break  # one point: the others are the same program
    if case.make is tk.argmin:
        np.testing.assert_allclose(
            info.value, jax.vmap(lambda y: loss(y, THETA))(before), rtol=1e-12
        )
    else:
        assert info.value is None
    assert info.aux is None


@pytest.mark.parametrize("name", [n for n, c in SHOWING.items() if c.make is tk.argmin])
def test_a_scan_over_xs_is_the_solve_to_the_bit(name: str) -> None:
    case = SHOWING[name]
    xs = np.random.default_rng(1).normal(size=(case.limit(), 3))
    fun = lambda y, theta, x: loss(y, theta + 0.3 * x)
    solve = tk.argmin(fun, case.solver, adjoint=Stopped())
    init, step = solve.steps()
    scan = lambda y0, xs: jax.lax.scan(lambda state, x: step(state, THETA, x), init(y0, THETA), xs)
    state, infos = jax.jit(scan)(Y0, xs)
    solution = jax.jit(lambda y0, xs: solve(y0, THETA, xs))(Y0, xs)
    assert_same((state.y, state.step), (solution.value, solution.info.steps))
    np.testing.assert_allclose(infos.value[0], fun(Y0, THETA, xs[0]), rtol=1e-12)


@showing
def test_not_finite(name: str) -> None:
    case = SHOWING[name]
    init, step = case.solve().steps()
    bad = THETA + np.asarray([0.0, np.nan, 0.0])
    state, info = jax.jit(step)(init(Y0, bad), bad)
    assert info.status == tk.Status.NOT_FINITE and state.step == 1
    assert np.isnan(np.asarray(state.y)).any()


def test_a_leaf_that_is_not_read_counts_too() -> None:
    """Its gradient is 0, so the residual is finite."""
    both = {"used": Y0, "other": np.asarray(np.inf)}
    for tol in (None, 1e10):
        solver = GradientDescent(0.1, 9, tol=tol)
        init, step = tk.argmin(lambda y, theta: loss(y["used"], theta), solver).steps()
        assert step(init(both, THETA), THETA)[1].status == tk.Status.NOT_FINITE


def equations(program: Any, name: str) -> int:
    """How many equations of that name a program has, in its loops, branches and calls too."""
    found = 0
    for equation in opened(program)[0].eqns:
        found += (equation.primitive.name == name) + sum(
            equations(one, name) for one in inner(equation)
        )
    return found


@showing
@pytest.mark.parametrize("has_aux", [False, True])
def test_a_step_evaluates_its_function_once(name: str, has_aux: bool) -> None:
    case = SHOWING[name]
    if isinstance(case.solver, LBFGS):
        return  # see below: its line search evaluates, too
    inside = lambda y: jax.lax.lgamma(y + 3.0)  # its derivative is another function
    fun = lambda y, theta: case.fun(inside(y), theta)
    if case.make is not tk.argmin:
        fun = lambda y, theta: inside(case.fun(y, theta))
    with_aux = (lambda y, theta: (fun(y, theta), {"twice": 2 * y, "n": 3})) if has_aux else fun
    counting, traces = counted(with_aux)
    init, step = case.make(counting, case.solver, has_aux=has_aux).steps()
    state = init(Y0, THETA)
    assert not traces
    if getattr(case.solver, "step_size", 0) is None:
        return  # as are these
    # optax is offered the value, which XLA leaves out where it is not asked for. An accelerated step looks
    # ahead of y, and evaluates the function at y for the report alone. A sweep has a loop of its own.
    twice = isinstance(case.solver, Optax | BlockCoordinateDescent)
    expected = 2 if twice or getattr(case.solver, "accelerated", False) else 1
    assert equations(jax.make_jaxpr(step)(state, THETA), "lgamma") == expected
    assert len(traces) == 1


@pytest.mark.parametrize(
    "solver", [LBFGS(6, 1e-14), GradientDescent(0.1, 6), Newton(6, 1e-30)], ids=repr
)
def test_a_step_evaluates_as_often_as_the_solver(solver: Any) -> None:
    """A line search goes on from what it has evaluated; a value comes from the way to the gradient."""
    runs: list[None] = []

    @jax.custom_jvp
    def evaluated(y: Any) -> jax.Array:
        count = lambda y: runs.append(None) or y
        return jax.pure_callback(count, jax.ShapeDtypeStruct(y.shape, y.dtype), y)

    evaluated.defjvp(lambda primals, tangents: (evaluated(*primals), tangents[0]))
    solve = tk.argmin(lambda y, theta: loss(evaluated(y), theta), solver, adjoint=Stopped())
    jax.block_until_ready(jax.jit(lambda: solve(Y0, THETA).value)())
    alone = len(runs)
    runs.clear()
    init, step = solve.steps()

    def once(state: Any, _: Any) -> tuple[Any, Any]:
        state, info = step(state, THETA)
        return state, info

    jax.block_until_ready(jax.jit(lambda: jax.lax.scan(once, init(Y0, THETA), None, 6))())
    assert len(runs) == alone >= 6


DATA = np.ones(3)
FACTOR = 1.0


def test_a_line_search_notices_another_function() -> None:
    """By its theta, by an array or a number that it closes over: no value of the last one is used."""
    global DATA, FACTOR
    fun = lambda y, theta: loss(y, theta * DATA) * FACTOR
    init, step = tk.argmin(fun, LBFGS(20, 1e-12)).steps()
    state, theta = init(Y0, THETA), THETA
    for change in ("nothing", "theta", "signs", "order", "array", "number", "nothing"):
        if change == "theta":
            theta = theta + 1
        elif change == "signs":  # two changes that a sum of the bits would not see
            theta = theta * np.asarray([-1.0, -1.0, 1.0])
        elif change == "order":
            theta = theta[::-1].copy()
        elif change == "array":
            DATA = np.asarray([1.0, 0.5, 2.0])
        elif change == "number":
            FACTOR = 0.5
        new, info = step(state, theta)
        np.testing.assert_allclose(info.value, fun(state.y, theta), rtol=1e-12, err_msg=change)
        slope = jax.grad(fun)(state.y, theta)
        np.testing.assert_allclose(info.residual, jnp.linalg.norm(slope), rtol=1e-9, err_msg=change)
        state = new


@pytest.mark.parametrize("solver", [GradientDescent(0.2, 12, 0.5), Newton(12, 1e-30)], ids=repr)
def test_a_loop_is_differentiated_as_unroll_does(solver: Any) -> None:
    solve = tk.argmin(loss, solver, adjoint=Unroll())
    init, step = solve.steps()

    def last(theta: Any) -> jax.Array:
        state = jax.lax.scan(lambda s, _: (step(s, theta)[0], None), init(Y0, theta), None, 12)[0]
        return jnp.sum(state.y**3)

    unrolled = lambda theta: jnp.sum(solve(Y0, theta).value ** 3)
    expected, second = jax.jit(jax.grad(unrolled))(THETA), jax.jit(jax.hessian(unrolled))(THETA)
    for mode in (jax.grad, jax.jacfwd):
        np.testing.assert_allclose(jax.jit(mode(last))(THETA), expected, rtol=1e-10)
    np.testing.assert_allclose(jax.jit(jax.hessian(last))(THETA), second, rtol=1e-8, atol=1e-14)


def test_value_and_aux_have_their_derivative() -> None:
    fun = lambda y, theta: (loss(y, theta), {"sum": jnp.sum(y * theta), "name": "x"})
    init, step = tk.argmin(fun, GradientDescent(0.2, 12), has_aux=True).steps()

    def found(theta: Any) -> jax.Array:
        info = step(init(Y0, theta), theta)[1]
        assert info.aux["name"] == "x"
        return info.value + info.aux["sum"]

    by_hand = lambda theta: loss(Y0, theta) + jnp.sum(Y0 * theta)
    np.testing.assert_allclose(jax.grad(found)(THETA), jax.grad(by_hand)(THETA), rtol=1e-12)


def test_vmap_is_the_solve_of_each() -> None:
    case = Stepped(tk.argmin, loss, LBFGS(30, 1e-8))
    thetas = np.random.default_rng(2).normal(size=(4, 3))
    state, status = jax.jit(jax.vmap(lambda theta: while_loop(case, Y0, theta)))(thetas)
    solve = case.solve()
    solution = jax.jit(jax.vmap(lambda theta: solve(Y0, theta)))(thetas)
    assert_same((state.y, state.step), (solution.value, solution.info.steps))
    assert not np.any(status)


class Weights(NamedTuple):
    w: Any
    rest: Any


def test_a_state_is_a_carry_whatever_y_holds() -> None:
    y0 = Weights(
        {"a": 1.0, "b": np.ones(2, np.float32)}, [3, "relu", None, jax.random.key(0), True]
    )

    def fun(y: Weights, theta: Any) -> jax.Array:
        assert y.rest[1] == "relu"
        noise = 0 * jax.random.normal(y.rest[3], ())
        return (y.w["a"] - theta) ** 2 + y.rest[0] * jnp.sum((y.w["b"] - theta) ** 2) + noise

    init, step = tk.argmin(fun, Optax(optax.adam(0.1), 10)).steps()
    first = init(y0, 1.5)
    state = jax.lax.fori_loop(0, 4, lambda _, state: step(state, 1.5)[0], first)
    state = jax.jit(lambda state: step(state, 1.5)[0])(state)
    solution = tk.argmin(fun, Optax(optax.adam(0.1), 5))(y0, 1.5)
    assert isinstance(state.y, Weights) and state.y.rest[1:3] == ["relu", None]
    assert jax.tree.structure(state) == jax.tree.structure(first)
    np.testing.assert_allclose(state.y.w["b"], solution.value.w["b"], rtol=1e-6)
    assert state.y.w["b"].dtype == jnp.float32 and int(state.y.rest[0]) == 3
    weak = [leaf for leaf in jax.tree.leaves(first.arrays) if getattr(leaf, "weak_type", False)]
    assert first.step.dtype == jnp.int32 and not weak


def test_modules_of_nnx_are_carried() -> None:
    from flax import nnx

    model = nnx.Sequential(
        nnx.Linear(3, 2, rngs=nnx.Rngs(0)),
        nnx.BatchNorm(2, use_running_average=True, rngs=nnx.Rngs(1)),
    )
    fun = lambda model, theta: jnp.mean((model(W.astype(np.float32)) - theta) ** 2)
    solve = tk.argmin(fun, GradientDescent(0.1, 5), adjoint=Stopped())
    init, step = solve.steps()
    loop = lambda: jax.lax.fori_loop(0, 5, lambda _, s: step(s, 0.5)[0], init(model, 0.5))
    state = jax.jit(loop)()
    assert isinstance(state.y, nnx.Sequential)
    assert_same(state.y, jax.jit(lambda: solve(model, 0.5).value)())


def test_jit_compiles_a_step_once() -> None:
    for solver in (LBFGS(9, 1e-9), Optax(optax.adam(0.1), 9)):
        counting, traces = counted(loss)
        init, step = tk.argmin(counting, solver).steps()
        state, jitted = init(Y0, THETA), jax.jit(step)
        for shift in range(3):
            state, _ = jitted(state, THETA + shift)
        assert len(traces) == 1 and state.step == 3


def my_solver(fun: Callable, y0: Any, theta: Any) -> tk.Solution:
    raise NotImplementedError


@pytest.mark.parametrize("make", [tk.argmin, tk.root, tk.fixed_point])
def test_a_solver_without_steps_is_refused_with_one_that_has(make: Callable) -> None:
    match = r"`solver` must show its steps: got my_solver, .*use tk\.solver\.\w+"
    with pytest.raises(ValueError, match=match):
        make(loss, my_solver).steps()


def test_a_state_of_another_origin_is_refused() -> None:
    init, _ = tk.argmin(loss, GradientDescent(0.1, 9)).steps()
    _, step = tk.argmin(loss, GradientDescent(0.1, 9, 0.5)).steps()
    with pytest.raises(ValueError, match=r"`state` must come from the `init`"):
        step(init(Y0, THETA), THETA)
    with pytest.raises(TypeError, match=r"`state` must come from init\(y0, theta\)"):
        step(Y0, THETA)


def test_inside_shard_map_the_start_must_differ_as_the_function_does() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    init, step = tk.argmin(
        lambda y, theta: loss(y, theta[0]), GradientDescent(0.1, 9, tol=1e-9)
    ).steps()

    def each(theta: Any, marked: bool) -> jax.Array:
        y0 = jnp.asarray(Y0)
        y0 = jax.lax.pcast(y0, "data", to="varying") if marked else y0
        state = jax.lax.fori_loop(0, 3, lambda _, s: step(s, theta)[0], init(y0, theta))
        return state.y[None]

    split = PartitionSpec("data")
    run = lambda marked: jax.shard_map(
        lambda theta: each(theta, marked), mesh=mesh, in_specs=split, out_specs=split
    )(jnp.asarray(THETA)[None])
    with pytest.raises(
        ValueError, match=r"`y0` must differ between devices along \['data'\].*pcast"
    ):
        run(False)
    state = init(Y0, THETA[None])
    for _ in range(3):
        state, _info = step(state, THETA[None])
    np.testing.assert_allclose(run(True)[0], state.y, rtol=1e-12)
