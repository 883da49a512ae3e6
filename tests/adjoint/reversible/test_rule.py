"""Exact reversal of momentum gradient descent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from benchmarks.suites import p4_scaling
from toolkit.adjoint import Reversible, Unroll
from toolkit.solver import GradientDescent

Y0 = jnp.asarray([0.3, -0.4])
THETA = {"w": jnp.asarray([1.0, 2.0]), "shift": jnp.asarray(0.7)}


def curved(y: jax.Array, theta: dict) -> jax.Array:
    return jnp.sum(theta["w"] * jnp.cosh(y - theta["shift"])) + 0.1 * jnp.sum(y**4)


def outer(y: Any, theta: Any) -> jax.Array:
    return jnp.sum(jnp.sin(y)) + 0.1 * theta["shift"] ** 2


def _hypergradient(adjoint: Any, solver: Any, fun: Callable = curved) -> Callable:
    return jax.jit(tk.hypergradient(outer, tk.argmin(fun, solver, adjoint=adjoint)))


def _close(got: Any, expected: Any, rtol: float = 1e-6, atol: float = 1e-9) -> None:
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=rtol, atol=atol), got, expected)


@pytest.mark.parametrize(
    ("momentum", "steps"), [(0.0, 1500), (0.5, 1500), (0.9, 1500), (0.98, 1500), (0.9, 0), (0.9, 1)]
)
def test_agrees_with_unroll(momentum: float, steps: int) -> None:
    solver = GradientDescent(0.01, steps, momentum)
    got, expected = (_hypergradient(rule, solver)(Y0, THETA) for rule in (Reversible(), Unroll()))
    assert got.report.status == 0
    assert got.report.gradient_evals == 2 * steps + 1
    # A momentum of 0 is 2^-16.
    _close(got.solution.value, expected.solution.value, 1e-5 if momentum == 0 else 1e-8)
    _close(got.gradient, expected.gradient, 1e-5 if momentum == 0 else 1e-6)


def _of_settings(adjoint: Any, mean: float | None = None) -> Callable:
    def value(settings: dict, y0: jax.Array) -> jax.Array:
        solver = GradientDescent(settings["step_size"], 20, settings["momentum"])
        return jnp.sum(jnp.sin(tk.argmin(curved, solver, adjoint=adjoint)(y0, THETA).value))

    return value


SETTINGS = {"step_size": jnp.linspace(0.05, 0.1, 20), "momentum": jnp.linspace(0.3, 0.95, 20)}


def test_schedules_and_start_are_hyperparameters() -> None:
    value = _of_settings(Reversible())
    got = jax.jit(jax.grad(value, (0, 1)))(SETTINGS, Y0)
    _close(got, jax.grad(_of_settings(Unroll()), (0, 1))(SETTINGS, Y0))
    # Differences see the rounding of the grid: 4 digits of them.
    for name, at in (("step_size", 3), ("momentum", 11)):
        h = 1e-3
        moved = [SETTINGS | {name: SETTINGS[name].at[at].add(sign * h)} for sign in (1, -1)]
        quotient = (value(moved[0], Y0) - value(moved[1], Y0)) / (2 * h)
        np.testing.assert_allclose(got[0][name][at], quotient, rtol=1e-4, atol=1e-6)


def test_schedules_computed_from_theta() -> None:
    def solver() -> GradientDescent:
        step_size = lambda theta, t: 0.05 * theta["shift"] / (1 + t)
        return GradientDescent(
            step_size, 30, lambda theta, t: jax.nn.sigmoid(theta["w"][0] + 0.1 * t)
        )

    got, expected = (_hypergradient(a, solver())(Y0, THETA) for a in (Reversible(), Unroll()))
    assert got.report.status == 0
    _close(got.gradient, expected.gradient)


def test_closed_form_of_three_steps() -> None:
    def by_hand(s: jax.Array, m: jax.Array, y: jax.Array) -> jax.Array:
        v = jnp.zeros_like(y)
        for t in range(3):
            v = m[t] * v - y
            y = y + s * v
        return jnp.sum(y**2)

    def value(s: jax.Array, m: jax.Array, y: jax.Array) -> jax.Array:
        solve = tk.argmin(
            lambda y, _: 0.5 * jnp.sum(y**2), GradientDescent(s, 3, m), adjoint=Reversible()
        )
        return jnp.sum(solve(y).value ** 2)

    args = (jnp.asarray(0.3), jnp.asarray([0.9, 0.75, 0.5]), Y0)
    _close(jax.jit(jax.grad(value, (0, 1, 2)))(*args), jax.grad(by_hand, (0, 1, 2))(*args), 1e-8)


def test_without_64_bit_integers() -> None:
    with jax.enable_x64(False):
        y0 = jnp.asarray([0.3, -0.4], jnp.float32)
        theta = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), THETA)
        solver = GradientDescent(0.01, 1000, 0.9)
        got, expected = (
            _hypergradient(rule, solver)(y0, theta) for rule in (Reversible(), Unroll())
        )
        assert got.report.status == 0
        assert got.solution.value.dtype == jnp.float32
        _close(got.solution.value, expected.solution.value, 1e-5)
        _close(got.gradient, expected.gradient, 1e-4)


def test_vmap_over_everything() -> None:
    shifts = jnp.asarray([0.0, 0.1, 0.2])
    settings = jax.tree.map(lambda leaf: leaf * (1 - 0.5 * shifts[:, None]), SETTINGS)
    starts = Y0 + shifts[:, None]
    gradients = [
        jax.jit(jax.vmap(jax.grad(_of_settings(rule), (0, 1))))(settings, starts)
        for rule in (Reversible(), Unroll())
    ]
    _close(*gradients)
    solve = tk.hypergradient(
        outer, tk.argmin(curved, GradientDescent(0.01, 300, 0.9), adjoint=Reversible())
    )
    hg = jax.jit(jax.vmap(solve, (0, None)))(starts, THETA)
    assert not hg.report.status.any()


def test_minibatches_and_their_weights() -> None:
    key = jax.random.key(0)
    data = jax.random.normal(key, (40, 2))
    batches = jax.random.randint(key, (25, 8), 0, 40)

    def value(adjoint: Any, weights: jax.Array, scale: jax.Array) -> jax.Array:
        def fun(y: jax.Array, w: jax.Array, x: tuple) -> jax.Array:
            index, scale = x
            return scale * jnp.mean(w[index, None] * jnp.cosh(y - data[index]))

        solve = tk.argmin(fun, GradientDescent(0.1, 25, 0.9), adjoint=adjoint)
        return jnp.sum(jnp.sin(solve(Y0, weights, (batches, scale)).value))

    args = (jnp.linspace(0.5, 1.5, 40), jnp.linspace(1.0, 2.0, 25))
    got, expected = (
        jax.jit(jax.grad(lambda *a, rule=rule: value(rule, *a), (0, 1)))(*args)
        for rule in (Reversible(), Unroll())
    )
    _close(got, expected)


def test_trees_of_mixed_leaves() -> None:
    """Complex, half precision, empty and integer leaves."""
    y0 = {
        "z": jnp.asarray([0.3 + 0.2j]),
        "half": jnp.ones(2, jnp.float16),
        "none": None,
        "empty": jnp.zeros((0, 3)),
        "index": jnp.asarray(1),
    }

    def value(adjoint: Any, scale: jax.Array) -> jax.Array:
        def fun(y: dict, t: jax.Array) -> jax.Array:
            distance = jnp.sum(jnp.abs(y["z"] - t * 1j) ** 2)
            return distance + t * jnp.sum(jnp.cosh(y["half"].astype(jnp.float64) - y["index"]))

        solved = tk.argmin(fun, GradientDescent(0.1, 15, 0.5), adjoint=adjoint)(y0, scale).value
        assert solved["half"].dtype == jnp.float16
        return jnp.sum(jnp.abs(solved["z"]) ** 2 + solved["z"].real) + jnp.sum(solved["half"])

    got, expected = (
        jax.jit(jax.value_and_grad(lambda s, rule=rule: value(rule, s)))(jnp.asarray(1.3))
        for rule in (Reversible(), Unroll())
    )
    _close(got, expected, 2e-3)  # Unroll's iterates are rounded to half precision at each step


def test_random_masks_under_checkpoint() -> None:
    """Keys are among what a gradient leaves for its derivative."""
    keys = jax.random.split(jax.random.key(0), 20)

    @jax.checkpoint
    def masked(y: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        return jnp.sum(jnp.tanh(y * t) * jax.random.bernoulli(key, 0.5, y.shape))

    def fun(y: jax.Array, t: jax.Array, key: jax.Array) -> jax.Array:
        first, second = jax.random.split(key)
        return masked(y, t, first) + masked(2 * y, t, second) + 0.1 * jnp.sum(y**2)

    def value(adjoint: Any, t: jax.Array) -> jax.Array:
        solve = tk.argmin(fun, GradientDescent(0.1, 20, 0.9), adjoint=adjoint)
        return jnp.sum(jnp.sin(solve(Y0, t, keys).value))

    got, expected = (
        jax.jit(jax.grad(lambda t, rule=rule: value(rule, t)))(jnp.asarray(1.3))
        for rule in (Reversible(), Unroll())
    )
    _close(got, expected)


def test_inside_shard_map() -> None:
    mesh = jax.make_mesh((1,), ("i",), axis_types=(jax.sharding.AxisType.Auto,))
    spec = jax.sharding.PartitionSpec("i")

    def value(adjoint: Any, shift: jax.Array) -> jax.Array:
        def one(shift: jax.Array) -> jax.Array:
            solver = GradientDescent(0.1, 10, 0.8 + 0.1 * shift[0])
            fun = lambda y, t: jnp.sum(jnp.cosh(y - t))
            return tk.argmin(fun, solver, adjoint=adjoint)(Y0, shift[0]).value[None]

        solved = jax.shard_map(one, mesh=mesh, in_specs=spec, out_specs=spec)(shift)
        return jnp.sum(jnp.sin(solved))

    got, expected = (
        jax.jit(jax.grad(lambda s, rule=rule: value(rule, s)))(jnp.asarray([0.7]))
        for rule in (Reversible(), Unroll())
    )
    _close(got, expected)


def test_a_gradient_that_does_not_repeat_gives_nan_and_says_so() -> None:
    calls = iter(range(10**6))

    def noise(y: jax.Array) -> jax.Array:
        shape = jax.ShapeDtypeStruct((), jnp.float64)
        sample = lambda _: np.float64(next(calls) * 1e-6)
        return jax.pure_callback(sample, shape, jax.lax.stop_gradient(y))

    fun = lambda y, theta: curved(y, theta) + noise(y) * jnp.sum(y)
    hg = _hypergradient(Reversible(), GradientDescent(0.01, 10, 0.9), fun)(Y0, THETA)
    assert jnp.isfinite(hg.value)
    assert all(jnp.isnan(leaf).all() for leaf in jax.tree.leaves(hg.gradient))
    assert hg.report.status == tk.Issue.NOT_REVERSED | tk.Issue.NOT_FINITE


def test_out_of_range_is_nan_with_a_status() -> None:
    hg = _hypergradient(Reversible(), GradientDescent(10.0, 100, 0.9))(Y0, THETA)
    assert jnp.isnan(hg.solution.value).all()
    assert hg.solution.info.status == tk.Status.NOT_FINITE
    assert hg.report.status == tk.Issue.NOT_FINITE
    far = jnp.asarray([1e8, 0.0])
    solve = tk.argmin(
        lambda y, t: jnp.sum(t * y), GradientDescent(0.1, 3, 0.9), adjoint=Reversible()
    )
    assert solve(far, 1.0).info.status == tk.Status.NOT_FINITE


@pytest.mark.parametrize("momentum", [-0.1, 1.1])
def test_momenta_outside_the_unit_interval_are_nan(momentum: float) -> None:
    settings = SETTINGS | {"momentum": SETTINGS["momentum"].at[4].set(momentum)}
    assert jnp.isnan(jax.jit(_of_settings(Reversible()))(settings, Y0))


def test_memory_that_is_too_small_is_reported() -> None:
    momentum = lambda theta, t: 0.5 + 0 * theta["shift"]
    solver = GradientDescent(0.01, 200, momentum)
    enough = _hypergradient(Reversible(mean_momentum=0.5), solver)(Y0, THETA)
    expected = _hypergradient(Unroll(), solver)(Y0, THETA)
    assert enough.report.status == 0
    _close(enough.gradient, expected.gradient)
    short = _hypergradient(Reversible(mean_momentum=0.9), solver)(Y0, THETA)
    assert short.report.status & tk.Issue.NOT_REVERSED
    assert jnp.isnan(short.gradient["shift"])
    _close(short.value, expected.value)


def test_memory_is_that_of_one_state_and_the_discarded_bits() -> None:
    def temporary_bytes(adjoint: Any, steps: int) -> int:
        y0 = jnp.zeros(5000)
        solve = tk.argmin(
            lambda y, t: jnp.sum(jnp.cosh(y - t)), GradientDescent(0.1, steps, 0.9), adjoint=adjoint
        )
        gradient = jax.jit(jax.grad(lambda t: jnp.sum(solve(y0, t).value ** 2)))
        return gradient.lower(1.0).compile().memory_analysis().temp_size_in_bytes

    few, many = (temporary_bytes(Reversible(), steps) for steps in (100, 1000))
    assert many - few <= 1.1 * 5000 * 900 * 0.152 / 8 + 100 * 900
    assert many < temporary_bytes(Unroll(), 1000) / 20


@pytest.mark.parametrize(
    ("solver", "got"),
    [
        (GradientDescent(0.1, 5, 0.9, tol=1e-3), "GradientDescent with a tolerance"),
        (tk.solver.LBFGS(5, 1e-3), "LBFGS"),
        (lambda fun, y0, theta: None, "<lambda>"),
    ],
)
def test_other_solvers_are_refused(solver: Any, got: str) -> None:
    with pytest.raises(ValueError, match=f"got {got}; use the adjoint Unroll"):
        tk.argmin(curved, solver, adjoint=Reversible())(Y0, THETA)


def test_step_sizes_per_entry_are_refused() -> None:
    solver = GradientDescent(lambda theta, t: jnp.asarray([0.1, 0.2]), 5, 0.9)
    with pytest.raises(
        ValueError, match=r"`step_size` must be a scalar.*\(2,\); use the adjoint Un"
    ):
        tk.argmin(curved, solver, adjoint=Reversible())(Y0, THETA)


@pytest.mark.parametrize("mean", [0.0, 1.5, "0.9"])
def test_mean_momentum_is_checked(mean: Any) -> None:
    with pytest.raises(ValueError, match=r"`mean_momentum` must be a number in \(0, 1\]: got"):
        Reversible(mean_momentum=mean)


def test_other_derivatives_are_refused_by_name() -> None:
    value = lambda settings: _of_settings(Reversible())(settings, Y0)
    with pytest.raises(TypeError, match=r"no forward mode.*Unroll\(forward_mode=True\).*Implicit"):
        jax.jit(lambda s: jax.jvp(value, (s,), (s,)))(SETTINGS)
    for second in (jax.hessian(value), jax.jacrev(jax.grad(value)), jax.jit(jax.hessian(value))):
        with pytest.raises(TypeError, match="first derivatives only"):
            second(SETTINGS)


def test_a_thousand_steps_of_an_mlp_on_digits() -> None:
    """The benchmark's figures, its times apart."""
    with jax.enable_x64(False):
        problem, got, temporary = p4_scaling.problem(1000, 133), {}, {}
        for name in ("hand", "Unroll()", "Reversible()"):
            gradient = jax.jit(p4_scaling.WAYS[name](problem))
            compiled = gradient.lower(problem.theta).compile()
            temporary[name] = compiled.memory_analysis().temp_size_in_bytes
            got[name] = compiled(problem.theta) if name != "hand" else None
    assert temporary["hand"] >= 550 * temporary["Reversible()"]
    assert temporary["Unroll()"] >= 20 * temporary["Reversible()"]
    # A gradient that is not NaN is one whose y0 and velocity came back to the bit.
    _close(got["Reversible()"], got["Unroll()"], rtol=1e-4)
