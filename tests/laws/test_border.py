"""What real programs hand over: every rule under JAX's strict settings, and with the types of NumPy and Python.

The rows are those of the rooms (`test_rooms.py`): a rule that is added to a room is looked at here, too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import toolkit as tk
from tests.bilevel.methods import quadratic, test_methods
from tests.laws import test_estimators, test_solve_rules
from tests.linear import test_linear_solvers, test_nystrom
from tests.solver import test_argmin_solvers, test_equation_solvers
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
from toolkit.linear import CG, GMRES, BiCGStab
from toolkit.solver import (
    LBFGS,
    FixedPointIteration,
    GradientDescent,
    Newton,
    Optax,
    ProximalGradient,
)

H = jnp.asarray([[3.0, 1.0], [1.0, 2.0]])
Y0, THETA = jnp.zeros(2), jnp.asarray([1.0, -2.0])
DESCENT = GradientDescent(0.2, 6, 0.1)
# bfloat16 has 8 bits, so that two neighbours differ by up to 8e-3; float16 has 11.
NARROW = 1e-2


def _energy(y: jax.Array, theta: jax.Array) -> jax.Array:
    return 0.5 * y @ H.astype(y.dtype) @ y - y @ theta.astype(y.dtype)


def _by_argmin(solver: Any, adjoint: Any) -> Callable:
    return tk.hypergradient(
        lambda y, t: jnp.sum(y * y), tk.argmin(_energy, solver, adjoint=adjoint)
    )


def _by_map(solver: Any) -> Callable:
    fun = lambda y, theta: y - 0.2 * (H @ y - theta)
    return tk.hypergradient(lambda y, t: jnp.sum(y * y), tk.fixed_point(fun, solver))


def _by_method(settings: Any) -> Callable:
    init, step = settings(quadratic.problem())

    def one(y0: Any, theta: Any) -> Any:
        return step(init(jax.random.key(0), quadratic.Y0, quadratic.X0))

    return one


def _by_estimator(name: str) -> Callable:
    def one(y0: Any, theta: Any) -> Any:
        estimate = test_estimators.estimator_of(name, lambda t: jnp.sum((t - y0) ** 2))
        return estimate(theta, jax.random.key(0))

    return one


def _by_loop(policy: Any) -> Callable:
    def one(y0: Any, theta: Any) -> Any:
        body = lambda y, _: (y + theta, jnp.sum(y))
        last = lambda y0: jnp.sum(tk.loop(body, y0, length=4, gradient=policy)[0])
        return jax.grad(last)(y0)

    return one


ADJOINTS = {name: rule.adjoint for name, rule in test_solve_rules.RULES.items()}
ADJOINTS |= test_solve_rules.VALUE_RULES
PROGRAMS = {f"adjoint {name}": _by_argmin(DESCENT, rule) for name, rule in ADJOINTS.items()}
PROGRAMS |= {
    f"solver {name}": _by_argmin(solver, Implicit())
    for name, solver in test_argmin_solvers.SOLVERS.items()
}
PROGRAMS |= {
    f"solver {name}": _by_map(solver) for name, solver in test_equation_solvers.FIXED_POINT.items()
}
PROGRAMS |= {
    f"linear {name}": _by_argmin(DESCENT, Implicit(solver))
    for name, solver in (test_linear_solvers.SYMMETRIC | test_nystrom.LOW_RANK).items()
}
PROGRAMS |= {f"method {name}": _by_method(row.make()) for name, row in test_methods.METHODS.items()}
PROGRAMS |= {f"estimator {name}": _by_estimator(name) for name in test_estimators.RULES}
PROGRAMS |= {
    f"loop {type(policy).__name__}": _by_loop(policy)
    for policy in (
        tk.control.store(),
        tk.control.checkpoint(),
        tk.control.truncate(2),
        tk.control.forward(),
        tk.control.reversible(lambda y, _: y - THETA),
    )
}
# Rows whose code others run too: they are left to the slow tests.
SLOW = {f"adjoint {name}" for name in test_solve_rules.SAME_CODE}
SLOW |= {f"method {name}" for name in test_methods.COMPILE_LONG}
SLOW |= {"solver descent_tol", "solver optax_tol", "solver damped", "linear neumann_step"}
every = pytest.mark.parametrize(
    "name",
    [pytest.param(n, marks=[pytest.mark.slow] if n in SLOW else []) for n in PROGRAMS],
)


@every
def test_no_types_or_ranks_are_mixed_and_no_tracer_leaks(name: str) -> None:
    """As `jax_numpy_dtype_promotion`, `jax_numpy_rank_promotion` and `jax_check_tracer_leaks` find it."""
    with (
        jax.numpy_dtype_promotion("strict"),
        jax.numpy_rank_promotion("raise"),
        jax.checking_leaks(),
    ):
        jax.eval_shape(PROGRAMS[name], Y0, THETA)


@pytest.mark.parametrize("name", ["implicit", "unroll", "forward", "reversible", "nudged"])
def test_no_tracer_leaks_that_a_function_or_a_setting_closes_over(name: str) -> None:
    def value(theta: jax.Array, size: jax.Array) -> jax.Array:
        fun = lambda y, _: _energy(y, theta) + (0 if name == "nudged" else size * jnp.sum(y))
        solver = GradientDescent(0.2 if name == "nudged" else size, 3, 0.1)
        return jnp.sum(tk.argmin(fun, solver, adjoint=ADJOINTS[name])(Y0).value)

    with jax.checking_leaks():
        jax.eval_shape(jax.grad(value, (0, 1)), THETA, jnp.asarray(0.1))


RULES = [Implicit(), Implicit(CG(9, 1e-9)), Unroll(), Unroll("sqrt"), Unroll(forward_mode=True)]
RULES += [Forward(), Truncated(3), Reversible(), Nudged(0.1), OneStep(), Stopped()]
rules = pytest.mark.parametrize("adjoint", RULES, ids=str)


@rules
def test_no_number_of_ours_is_taken_for_a_mistake(adjoint: Any) -> None:
    """Under `jax_debug_nans` and `jax_debug_infs`, at a solution too, where residuals are 0; eagerly too."""
    run = _by_argmin(GradientDescent(0.2, 90, 0.1), adjoint)
    compiled = jax.jit(run)
    with jax.debug_nans(True), jax.debug_infs(True):
        compiled(Y0, THETA)
        compiled(Y0, jnp.zeros(2))
    if isinstance(adjoint, Implicit):
        with jax.debug_nans(True):
            run(Y0, jnp.zeros(2))


@pytest.mark.parametrize("tol", [None, 1e-6])
@pytest.mark.parametrize("adjoint", [Unroll(), Truncated(3), Forward(), Stopped()], ids=str)
def test_inputs_of_each_step_may_be_numpy_arrays(adjoint: Any, tol: float | None) -> None:
    fun = lambda y, t, x: 0.5 * jnp.sum((y - t * x["a"]) ** 2)
    solve = tk.argmin(fun, GradientDescent(0.3, 6, 0.1, tol), adjoint=adjoint)
    value = jax.jit(jax.grad(lambda t, xs: jnp.sum(solve(jnp.zeros(2), t, xs).value)))
    xs = {"a": np.linspace(0.5, 1.5, 6), "none": None}
    eager = jax.grad(lambda t: jnp.sum(solve(jnp.zeros(2), t, xs).value))(2.0)
    np.testing.assert_allclose(eager, value(2.0, jax.tree.map(jnp.asarray, xs)), rtol=1e-12)


@pytest.mark.parametrize("x0", [None, [1e-30, 0.0]])
@pytest.mark.parametrize("solver", [CG(9, 1e-5), BiCGStab(9, 1e-5), GMRES(9, 1e-5)], ids=str)
def test_a_right_side_whose_squares_underflow_is_solved(solver: Any, x0: Any) -> None:
    b = jnp.asarray([1e-30, 2e-30], jnp.float32)
    start = None if x0 is None else jnp.asarray(x0, jnp.float32)
    x, info = jax.jit(lambda b: solver(lambda v: H.astype(v.dtype) @ v, b, start))(b)
    assert info.status == tk.Status.CONVERGED
    np.testing.assert_allclose(np.asarray(x, float) / 1e-30, [0, 1], atol=1e-5)


def test_a_solver_under_disable_jit_and_debug_nans() -> None:
    with jax.disable_jit(), jax.debug_nans(True):
        x, _ = CG(9, 1e-9)(lambda v: H @ v, THETA)
    np.testing.assert_allclose(H @ x, THETA, rtol=1e-8)


@pytest.mark.parametrize("adjoint", [Implicit(), Unroll(), Reversible()], ids=str)
def test_nothing_moves_to_the_device_by_itself(adjoint: Any) -> None:
    run = jax.jit(_by_argmin(DESCENT, adjoint))
    with jax.transfer_guard("disallow"):
        run(Y0, THETA)


class TestNarrowTypes:
    """float16 and bfloat16 beside Python numbers, wider losses and norms that they cannot hold."""

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
    def test_a_python_number_takes_the_type_of_y(self, dtype: str) -> None:
        y0 = jnp.zeros((), dtype)
        for got in (
            tk.fixed_point(lambda y, t: t * jnp.cos(y), FixedPointIteration(60, 1e-2))(y0, 0.5),
            tk.root(lambda y, t: t * jnp.cos(y) - y, Newton(20, 1e-2))(y0, 0.5),
        ):
            assert got.value.dtype == dtype
            np.testing.assert_allclose(float(got.value), 0.45018, atol=5e-3)

    @pytest.mark.parametrize(
        "solver",
        [LBFGS(20, 1e-2), Optax(optax.lbfgs(), 20, 1e-2), GradientDescent(0.25, 30, tol=1e-2)],
        ids=lambda solver: type(solver).__name__,
    )
    @pytest.mark.parametrize(
        ("of_y", "of_value"),
        [("float32", "float64"), ("float16", "float32"), ("bfloat16", "float32")],
    )
    def test_a_loss_may_be_wider_than_y(self, solver: Any, of_y: str, of_value: str) -> None:
        fun = lambda y, t: jnp.sum((y.astype(of_value) - t.astype(of_value)) ** 2)
        theta = jnp.arange(3, dtype=of_y)
        got = jax.jit(tk.argmin(fun, solver))(jnp.ones(3, of_y), theta)
        assert (got.value.dtype, int(got.info.status)) == (of_y, tk.Status.CONVERGED)
        np.testing.assert_allclose(np.asarray(got.value, float), [0, 1, 2], atol=NARROW)

    def test_a_loss_beyond_float16_is_followed_by_its_line_search(self) -> None:
        fun = lambda y, t: jnp.sum(300.0 * (y.astype(jnp.float32) - t.astype(jnp.float32)) ** 2)
        theta = jnp.full(20, 10.0, jnp.float16)  # 600,000 at the start
        got = tk.argmin(fun, LBFGS(20, 1.0))(jnp.zeros(20, jnp.float16), theta)
        np.testing.assert_allclose(np.asarray(got.value, float), 10, rtol=NARROW)

    @pytest.mark.parametrize(
        "solver",
        [
            GradientDescent(5e-4, 60, tol=1.0),
            Newton(5, 1.0, CG(20, 1e-2)),
            ProximalGradient(lambda y, t, s: y, 5e-4, 60, 1.0),
        ],
        ids=lambda solver: type(solver).__name__,
    )
    def test_the_norm_of_a_float16_gradient_may_be_too_large_for_it(self, solver: Any) -> None:
        fun = lambda y, t: 0.5 * jnp.sum(1000 * (y - t).astype(jnp.float32) ** 2)
        y0, theta = jnp.zeros(400, jnp.float16), jnp.full(400, 5.0, jnp.float16)
        got = jax.jit(tk.argmin(fun, solver, adjoint=Stopped()))(y0, theta)
        np.testing.assert_allclose(np.asarray(got.value, float), 5, rtol=NARROW)

    @pytest.mark.parametrize("solver", [CG(9, 1e-2), BiCGStab(9, 1e-2), GMRES(9, 1e-2)], ids=str)
    def test_inner_products_of_many_float16_numbers(self, solver: Any) -> None:
        x, info = solver(lambda v: 2 * v, jnp.ones(100_000, jnp.float16))
        assert info.status == tk.Status.CONVERGED
        np.testing.assert_allclose(np.asarray(x, float), 0.5, rtol=NARROW)


@flax.struct.dataclass
class Checked:
    """Weights that compare and convert their fields, as `jax.grad` and `jax.jit` allow."""

    w: jax.Array
    b: jax.Array

    def __post_init__(self) -> None:
        if self.w.shape != self.b.shape or not jnp.issubdtype(self.w.dtype, jnp.floating):
            raise ValueError("`w` and `b` must be floating arrays of one shape")


def _distance(y: Checked, theta: Checked) -> jax.Array:
    return 0.5 * jnp.sum((y.w - theta.w) ** 2 + (y.b - theta.b) ** 2)


class TestClassesThatCheckThemselves:
    Y0, THETA = Checked(jnp.zeros(2), jnp.zeros(2)), Checked(jnp.ones(2), jnp.full(2, 3.0))

    @rules
    def test_solved_and_differentiated(self, adjoint: Any) -> None:
        solve = tk.argmin(_distance, GradientDescent(0.5, 40, 0.01), adjoint=adjoint)
        hg = jax.jit(tk.hypergradient(lambda y, t: jnp.sum(y.w * y.b), solve))(self.Y0, self.THETA)
        assert isinstance(hg.gradient, Checked)
        assert isinstance(hg.solution.value, Checked)
        np.testing.assert_allclose(hg.solution.value.b, 3, rtol=1e-5)
        # Three steps with momentum 0.01 leave 1/8 of the derivative out, one step a half: to two digits, since
        # the momentum moves both by about its own size. What is judged is the container, not the digits.
        part = {Stopped: 0, OneStep: 0.5, Truncated: 0.88}.get(type(adjoint), 1)
        np.testing.assert_allclose(hg.gradient.w, part * 3, rtol=2e-2)

    @pytest.mark.parametrize(
        "solver",
        [Newton(5, 1e-6), LBFGS(20, 1e-6), Optax(optax.sgd(0.5), 40)]
        + [ProximalGradient(lambda y, t, s: y, 0.5, 60, 1e-6)],
        ids=lambda solver: type(solver).__name__,
    )
    def test_by_every_kind_of_solver(self, solver: Any) -> None:
        got = tk.argmin(_distance, solver)(self.Y0, self.THETA)
        np.testing.assert_allclose(got.value.b, 3, rtol=1e-5)

    def test_in_loops_and_as_inputs_of_each_step(self) -> None:
        body = lambda c, x: (Checked(c.w + x.w, c.b), c.w)
        xs = Checked(np.ones((3, 2)), np.ones((3, 2)))
        start = lambda s: Checked(s * jnp.ones(2), jnp.zeros(2))
        for policy in (tk.control.store(), tk.control.checkpoint(), tk.control.forward()):
            last = lambda s, policy=policy: tk.loop(body, start(s), xs, gradient=policy)[0]
            assert jax.grad(lambda s, last=last: jnp.sum(last(s).w))(1.0) == 2
        grow = lambda c: Checked(2 * c.w, c.b)
        looped = lambda s: tk.while_loop(
            lambda c: jnp.sum(c.w) < 20, grow, Checked(s * jnp.ones(2), jnp.zeros(2)), max_steps=9
        )
        assert jax.grad(lambda s: jnp.sum(looped(s).w))(1.0) == 32

    @pytest.mark.parametrize("name", ["SOBA", "AID", "HOAG"])
    def test_in_bilevel_methods(self, name: str) -> None:
        inner = lambda y, t, batch: _distance(y, t)
        problem = tk.bilevel.Problem(inner, lambda y, t, batch: jnp.sum(y.w**2))
        init, step = getattr(tk.bilevel, name)(0.1, 0.1)(problem)
        state = init(jax.random.key(0), self.Y0, self.THETA)
        state = jax.jit(lambda s: jax.lax.scan(lambda s, _: (step(s)[0], None), s, length=3)[0])(
            state
        )
        assert isinstance(state.theta, Checked)
        assert jnp.all(state.theta.w < 1)

    def test_a_gradient_that_its_class_refuses_is_refused_by_name(self) -> None:
        @flax.struct.dataclass
        class Counted:
            w: jax.Array
            n: jax.Array

            def __post_init__(self) -> None:
                self.n.dtype  # noqa: B018

        fun = lambda y, t: jnp.sum((y - t.w) ** 2 * t.n)
        with pytest.raises(TypeError, match=r"must take None .* at \.n: .*keep integers outside"):
            tk.hypergradient(lambda y, t: jnp.sum(y), tk.argmin(fun, DESCENT))(
                jnp.zeros(2), Counted(jnp.ones(2), jnp.asarray(1))
            )


@pytest.mark.parametrize("adjoint", [Implicit(), Unroll(), Truncated(3)], ids=str)
def test_a_function_is_traced_as_often_for_a_python_number_as_for_an_array(adjoint: Any) -> None:
    counts = []
    for theta in (0.5, jnp.asarray(0.5), np.float64(0.5), jnp.float64(0.5)):
        fun, traces = counted(lambda y, t: 0.5 * jnp.sum((y - t) ** 2))
        tk.hypergradient(lambda y, t: jnp.sum(y), tk.argmin(fun, DESCENT, adjoint=adjoint))(
            Y0, theta
        )
        counts.append(len(traces))
    assert counts == [1] * 4


def test_reverse_mode_through_a_line_search_is_refused_by_name() -> None:
    solve = tk.argmin(_energy, LBFGS(5, 1e-6), adjoint=Unroll(forward_mode=True))
    value = lambda t: jnp.sum(solve(Y0, t).value)
    with pytest.raises(TypeError, match=r"Unroll\(forward_mode=True\).*LBFGS.*use Implicit\(\)"):
        jax.grad(value)(THETA)
    assert jnp.isfinite(jax.jvp(value, (THETA,), (THETA,))[1])


def test_a_schedule_of_the_step_alone_is_refused_by_name() -> None:
    schedule = optax.cosine_decay_schedule(0.1, 6)
    for solver in (
        GradientDescent(schedule, 6),
        ProximalGradient(tk.prox.lasso, schedule, 6, 1e-3),
    ):
        with pytest.raises(TypeError, match=r"`step_size` must take \(theta, step\); of an optax"):
            tk.argmin(_energy, solver)(Y0, THETA)


def test_the_aux_of_a_callable_solver_is_refused() -> None:
    info = tk.SolveInfo(jnp.int32(0), jnp.int32(7), jnp.zeros(()))
    solver = lambda fun, y0, theta: tk.Solution(theta + 0.0, info, {"trace": jnp.arange(3)})
    with pytest.raises(ValueError, match=r"without aux: <lambda> returned .*has_aux=True"):
        tk.argmin(_energy, solver)(Y0, THETA)


def test_numbers_of_numpy_are_numbers_of_python_in_settings() -> None:
    plain = GradientDescent(0.5, 50, 0.25, tol=0.125)
    for real in (np.float32, np.float16, np.float64, np.asarray):
        for whole in (np.int64, np.uint8, np.asarray):
            given = GradientDescent(real(0.5), whole(50), real(0.25), tol=real(0.125))
            assert repr(given) == repr(plain)
            assert hash(given) == hash(plain)
    with pytest.raises(ValueError, match=r"`num_steps` must be an int of at least 0: got 50\.0"):
        GradientDescent(0.1, np.float64(50))
    for policy in (tk.control.checkpoint, tk.control.truncate, tk.control.store):
        got = tk.loop(
            lambda c, x: (c + 1.0, None), 0.0, length=np.int64(6), gradient=policy(np.int64(2))
        )
        assert got[0] == 6
