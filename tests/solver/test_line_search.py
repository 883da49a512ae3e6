"""`step_size=None` and `accelerated`: loops written by hand, closed forms, rates and evaluations counted."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

import toolkit as tk
from tests.solver import test_proximal_gradient as proximal
from tests.traces import counted
from toolkit.adjoint import (
    Forward,
    Implicit,
    Nudged,
    OneStep,
    Reversible,
    Stopped,
    Truncated,
    Unroll,
)
from toolkit.linear import CG
from toolkit.solver import GradientDescent, ProjectedGradient, ProximalGradient

H = np.asarray([[60.0, 20.0, 0.0], [20.0, 40.0, 10.0], [0.0, 10.0, 20.0]])
THETA, Y0 = np.asarray([1.0, -2.0, 0.5]), np.asarray([0.3, 0.2, -1.0])
SEARCHED = GradientDescent(None, 400, tol=1e-12)
RULES = {
    "implicit": Implicit(),
    "unroll": Unroll(),
    "forward_mode": Unroll(forward_mode=True),
    "forward": Forward(),
    "truncated": Truncated(400),
}


def loss(y: Any, theta: Any) -> Any:
    return 0.5 * y @ H @ y - y @ theta


def outer(y: Any) -> Any:
    return jnp.sum(jnp.sin(y)) + jnp.sum(y**3)


def _close(got: Any, expected: Any, rtol: float = 1e-6) -> None:
    np.testing.assert_allclose(got, expected, rtol=rtol, atol=1e-12)


def _sizes(steps: int) -> tuple[list[float], int]:
    """The step sizes that are accepted on the quadratic from Y0, by hand, and the trials that they took."""
    y, s, sizes, trials = Y0, 1.0, [], 0
    for _ in range(steps):
        g = H @ y - THETA
        while True:
            trials += 1
            d = -s * g
            if d @ H @ d <= d @ d / s:  # f(y + d) - f(y) - <g, d> = d'Hd / 2
                break
            s /= 2
        sizes.append(s)
        y, s = y + d, 2 * s if 2 * (d @ H @ d) <= d @ d / s else s
    return sizes, trials


def _evaluations(make: Callable) -> tuple[Any, list]:
    """What `make(look)` computes, and the evaluations of `look`, an identity, on the way."""
    runs: list[None] = []

    @jax.custom_jvp
    def look(y: Any) -> jax.Array:
        shape = jax.ShapeDtypeStruct(y.shape, y.dtype)
        seen = lambda y: runs.append(None) or y
        return jax.pure_callback(seen, shape, y, vmap_method="expand_dims")

    look.defjvp(lambda primals, tangents: (look(*primals), tangents[0]))
    return jax.block_until_ready(jax.jit(lambda: make(look))()), runs


def test_the_search_is_the_one_by_hand_and_evaluates_no_point_twice() -> None:
    sizes, trials = _sizes(12)
    assert sizes[0] < 1 and len({*sizes}) > 1  # it shrinks, and grows again
    solve = lambda look: tk.argmin(
        lambda y, theta: loss(look(y), theta), GradientDescent(None, 12), adjoint=Stopped()
    )
    y, runs = _evaluations(lambda look: solve(look)(Y0, THETA).value)
    by_hand = Y0
    for s in sizes:
        by_hand = by_hand - s * (H @ by_hand - THETA)
    np.testing.assert_allclose(y, by_hand, rtol=1e-12)
    assert len(runs) == 1 + trials  # the start, and each trial with its gradient


def test_lanes_search_for_themselves_and_wait_for_the_slowest_alone() -> None:
    thetas = np.asarray([[1.0], [2.0], [-30.0]]) * THETA
    fun = lambda y, theta: loss(y, theta) + 0.1 * jnp.sum(y**4)
    solve = lambda look: tk.argmin(
        lambda y, theta: fun(look(y), theta), SEARCHED, adjoint=Stopped()
    )
    of = lambda look: (
        lambda theta: (lambda got: (got.value, got.info.steps))(solve(look)(Y0, theta))
    )
    (y, steps), runs = _evaluations(lambda look: jax.vmap(of(look))(thetas))
    for theta, lane, made in zip(thetas, y, steps, strict=True):
        alone = jax.jit(of(lambda y: y))(theta)
        np.testing.assert_allclose(lane, alone[0], rtol=1e-12)
        assert made == alone[1]
    # A `cond` would evaluate the start of each step again, beside some two trials.
    assert len(runs) < 3 * max(steps)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("accelerated", [False, True])
def test_gradient_and_hessian_are_the_closed_forms(rule: str, accelerated: bool) -> None:
    solver = dataclasses.replace(SEARCHED, accelerated=accelerated)
    solve = tk.argmin(loss, solver, adjoint=RULES[rule])
    composed = lambda theta: outer(solve(Y0, theta).value)
    exact = lambda theta: outer(jnp.linalg.solve(jnp.asarray(H), theta))
    both = lambda f, mode: lambda theta: (f(theta), jax.grad(f)(theta), mode(f)(theta))
    mode = jax.jacfwd if rule == "forward" else jax.hessian
    jax.tree.map(_close, jax.jit(both(composed, mode))(THETA), both(exact, mode)(THETA))


@pytest.mark.parametrize("rule", ["unroll", "forward_mode", "forward"])
def test_steps_are_differentiated_with_their_sizes_held(rule: str) -> None:
    """Few steps, far from the solution; the step sizes are powers of two, which do not move with theta."""
    sizes, _ = _sizes(5)

    def by_hand(theta: Any) -> Any:
        y = jnp.asarray(Y0)
        for s in sizes:
            y = y - s * (H @ y - theta)
        return outer(y)

    solve = tk.argmin(loss, GradientDescent(None, 5), adjoint=RULES[rule])
    composed = lambda theta: outer(solve(Y0, theta).value)
    both = lambda f: lambda theta: (f(theta), jax.grad(f)(theta), jax.jacfwd(jax.grad(f))(theta))
    jax.tree.map(_close, jax.jit(both(composed))(THETA), both(by_hand)(THETA))


def test_accelerated_steps_are_those_of_the_paper() -> None:
    """Beck & Teboulle 2009, equations 4.1 to 4.3; restarts of O'Donoghue & Candes, where asked for."""
    penalty = lambda y, theta, s: tk.prox.lasso(y, 0.3, s)
    soft = lambda z, s: np.sign(z) * np.maximum(np.abs(z) - 0.3 * s, 0)
    restarts = []
    for restart in (False, True):
        y, z, t, s = Y0, Y0, 1.0, 0.012
        for _ in range(40):
            new = soft(z - s * (H @ z - THETA), s)
            uphill = restart and (z - new) @ (new - y) > 0
            t_new = 1.0 if uphill else (1 + np.sqrt(1 + 4 * t**2)) / 2
            z = new + (0 if uphill else (t - 1) / t_new) * (new - y)
            y, t = new, t_new
            restarts.append(uphill)
        solver = ProximalGradient(penalty, s, 40, 0.0, True, restart)
        got = jax.jit(tk.argmin(loss, solver, adjoint=Stopped()))(Y0, THETA)
        np.testing.assert_allclose(got.value, y, rtol=1e-11)
    assert any(restarts)


@pytest.mark.parametrize("accelerated", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", ["elastic_net", "simplex"])
@pytest.mark.parametrize("rule", ["cg", "unroll"])
def test_proximal_solves_are_the_closed_forms(name: str, accelerated: bool, rule: str) -> None:
    case = proximal.CASES[name]
    solver = dataclasses.replace(case.solver, step_size=None, tol=1e-12, accelerated=accelerated)
    rules = {"cg": Implicit(CG(20, 1e-13)), "unroll": Unroll()}
    composed = proximal._composed(case._replace(solver=solver), rules[rule])
    exact = lambda theta: proximal.outer(case.exact(theta), theta)
    both = lambda f: lambda theta: (f(theta), jax.grad(f)(theta), jax.hessian(f)(theta))
    proximal._close(jax.jit(both(composed))(case.theta), both(exact)(case.theta))


def test_acceleration_takes_a_root_of_the_steps_and_restarts_make_it_linear() -> None:
    curvatures = np.geomspace(1e-3, 1, 30)  # condition number 1000
    fun = lambda y, theta: 0.5 * jnp.sum(curvatures * y**2) - theta * jnp.sum(y)

    def steps(tol: float, **how: Any) -> int:
        solver = ProjectedGradient(lambda y, _: y, max_steps=30_000, tol=tol, **how)
        got = jax.jit(tk.argmin(fun, solver, adjoint=Stopped()))(np.zeros(30), 1.0)
        assert got.info.status == tk.Status.CONVERGED and got.info.residual <= tol
        np.testing.assert_allclose(got.value, 1 / curvatures, rtol=2e3 * tol, atol=2e3 * tol)
        return int(got.info.steps)

    plain, fast = steps(1e-6, step_size=1.0), steps(1e-6, step_size=1.0, accelerated=True)
    assert fast < plain / 10
    # Linear: as many steps for six digits more as for those before. Without restarts it is slower than that.
    assert steps(1e-12, step_size=1.0, accelerated=True) < 2.5 * fast
    without = steps(1e-9, step_size=1.0, accelerated=True, restart=False)
    assert without > 3 * steps(1e-9, step_size=1.0, accelerated=True)
    searched = steps(1e-6, step_size=None), steps(1e-6, step_size=None, accelerated=True)
    assert searched[0] < plain and searched[1] < 2 * fast


DOMAINS = {
    "logarithm": (lambda y, t: jnp.sum(t * y - jnp.log(y)), 1e-3, lambda t: 1 / t),
    "overflow": (lambda y, t: jnp.sum(jnp.exp(y) - t * y), 30.0, np.log),
    "flat": (lambda y, t: 1e-9 * jnp.sum((y - t) ** 2), 0.0, lambda t: t),
    "steep": (lambda y, t: 1e12 * jnp.sum((y - t) ** 2), 0.0, lambda t: t),
    "offset": (lambda y, t: 1e8 + jnp.sum(jnp.cosh(y - t)), 0.0, lambda t: t),
}


@pytest.mark.parametrize("accelerated", [False, True])
@pytest.mark.parametrize("name", DOMAINS)
def test_any_scale_and_any_domain(name: str, accelerated: bool) -> None:
    """From where the first trial is not finite, over twenty powers of two, to where values are all rounding."""
    fun, start, exact = DOMAINS[name]
    tol = {"flat": 1e-18, "steep": 1e-2}.get(name, 1e-10)
    solver = GradientDescent(None, 400, tol=tol, accelerated=accelerated)
    theta = np.asarray([1.0, 2.0, 0.5])
    got = jax.jit(tk.argmin(fun, solver, adjoint=Stopped()))(np.full(3, start), theta)
    assert got.info.status == tk.Status.CONVERGED and got.info.steps < 150
    np.testing.assert_allclose(got.value, exact(theta), rtol=1e-8, atol=1e-9)


def test_no_step_where_no_trial_is_accepted_and_nan_where_the_start_is() -> None:
    kink = lambda y, theta: jnp.sum(jnp.where(y == theta, 0.0, jnp.inf * jnp.abs(y - theta)) + y)
    for accelerated in (False, True):
        solver = GradientDescent(None, 3, accelerated=accelerated)
        got = jax.jit(tk.argmin(kink, solver, adjoint=Stopped()))(THETA, THETA)
        np.testing.assert_array_equal(got.value, THETA)
        assert got.info.status != tk.Status.CONVERGED
        broken = lambda y, theta: loss(y, theta) + jax.lax.stop_gradient(jnp.log(y[2]))
        got = jax.jit(tk.argmin(broken, solver, adjoint=Stopped()))(Y0, THETA)
        assert got.info.status == tk.Status.NOT_FINITE and not np.all(np.isfinite(got.value))


@pytest.mark.parametrize("accelerated", [False, True])
def test_trees_of_mixed_and_complex_leaves_under_strict_promotion(accelerated: bool) -> None:
    target = {
        "z": jnp.asarray([1 + 2j, -3j], jnp.complex64),
        "single": jnp.asarray(2.0, jnp.float32),
        "double": jnp.asarray([1.0, 2.0]),
    }
    far = lambda y, t: sum(jnp.sum(jnp.square(jnp.abs(y[k] - t[k])).astype(float)) for k in t)
    prox = lambda y, _, s: tk.prox.lasso(y, 0.01, s)
    shrunk = jax.tree.map(lambda t: (t * (1 - 0.005 / jnp.abs(t))).astype(t.dtype), target)
    kinds = {
        "descent": (lambda **how: GradientDescent(None, 100, tol=1e-3, **how), target),
        "proximal": (lambda **how: ProximalGradient(prox, None, 100, 1e-3, **how), shrunk),
    }
    with jax.numpy_dtype_promotion("strict"):
        for make, expected in kinds.values():
            solve = jax.jit(tk.argmin(far, make(accelerated=accelerated)))
            got = solve(jax.tree.map(jnp.zeros_like, target), target)
            assert got.info.status == tk.Status.CONVERGED
            for leaf, goal in zip(*map(jax.tree.leaves, (got.value, expected)), strict=True):
                assert leaf.dtype == goal.dtype
                np.testing.assert_allclose(leaf, goal, atol=1e-3)  # the tolerance of the solve


@pytest.mark.parametrize("accelerated", [False, True])
def test_given_gradients_aux_and_nudges(accelerated: bool) -> None:
    solver = dataclasses.replace(SEARCHED, accelerated=accelerated)
    exact = jax.grad(lambda t: outer(jnp.linalg.solve(jnp.asarray(H), t)))(THETA)
    given = lambda y, theta: ((loss(y, theta), {"n": y[0]}), H @ y - theta)
    both = {"has_aux": True, "value_and_grad": True}
    for fun, how, rtol in (
        (given, both, 1e-6),
        (given, {**both, "adjoint": Unroll()}, 1e-6),
        (loss, {"adjoint": Nudged(1e-2)}, 1e-6),
    ):
        solve = tk.argmin(fun, solver, **how)
        composed = lambda theta, solve=solve: outer(solve(Y0, theta).value)
        _close(jax.jit(jax.grad(composed))(THETA), exact, rtol)
    got = tk.argmin(given, solver, **both)(Y0, THETA)
    np.testing.assert_array_equal(got.aux["n"], got.value[0])
    counting, traces = counted(loss)
    jax.jit(tk.argmin(counting, solver))(Y0, THETA)
    assert len(traces) == 1


@pytest.mark.parametrize(
    "solver", [SEARCHED, ProximalGradient(lambda y, t, s: y, None, 400, 1e-12)]
)
def test_steps_by_hand_notice_another_function(solver: Any) -> None:
    init, step = tk.argmin(loss, solver).steps()
    state, step = init(Y0, THETA), jax.jit(step)
    for theta in (THETA, THETA, 3 * THETA, THETA):
        before = state.y
        state, info = step(state, theta)
        np.testing.assert_allclose(info.value, loss(before, theta), rtol=1e-12)
        _close(info.residual, np.linalg.norm(H @ before - theta), 1e-9)


def test_devices_decide_alike_on_an_averaged_loss() -> None:
    mesh = jax.make_mesh((1,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    rows = jnp.asarray(np.linalg.cholesky(H).T)

    def value(rows: Any, theta: Any, accelerated: bool, mean: Callable, rule: Any) -> Any:
        fun = lambda y, t: mean(0.5 * jnp.sum((rows @ y) ** 2)) - y @ t
        solver = dataclasses.replace(SEARCHED, accelerated=accelerated)
        return outer(tk.argmin(fun, solver, adjoint=rule)(Y0, theta).value)

    shared = lambda x: jax.lax.pmean(x, "data")
    specs = (PartitionSpec("data"), PartitionSpec())
    for accelerated, rule in ((False, Unroll()), (True, Implicit())):
        split = jax.shard_map(
            lambda rows, theta, a=accelerated, r=rule: value(rows, theta, a, shared, r),
            mesh=mesh, in_specs=specs, out_specs=PartitionSpec(),
        )  # fmt: skip
        got = jax.jit(jax.grad(split, 1))(rows, THETA)
        alone = lambda t, a=accelerated, r=rule: value(rows, t, a, lambda x: x, r)
        _close(got, jax.jit(jax.grad(alone))(THETA), 1e-9)


def test_refusals_name_the_remedy() -> None:
    slope = lambda solver, rule: jax.grad(
        lambda t: jnp.sum(tk.argmin(loss, solver, adjoint=rule)(Y0, t).value)
    )(THETA)
    for solver, how in (
        (GradientDescent(None, 9), " with step_size=None"),
        (GradientDescent(0.01, 9, accelerated=True), ", accelerated"),
        (GradientDescent(0.01, 9, tol=1e-3), " with a tolerance"),
    ):
        match = rf"without `tol` under Reversible: got GradientDescent{how}; use the adjoint Unroll"
        with pytest.raises(ValueError, match=match):
            slope(solver, Reversible())
    with pytest.raises(ValueError, match=r"got GradientDescent, which compares values"):
        slope(SEARCHED, Nudged(1e-2, "holomorphic"))
    fast = GradientDescent(lambda theta, t: 0.01 * theta[0], 300, tol=1e-6, accelerated=True)
    with pytest.warns(tk.adjoint.ZeroDerivativeWarning, match=r"with respect to theta"):
        slope(fast, Implicit())
    assert np.all(np.isfinite(slope(fast, OneStep())))
