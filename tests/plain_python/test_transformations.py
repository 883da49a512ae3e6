"""Under jit, grad, vmap, jvp and hessian; each block traced once; no tracer left behind."""

# The cases are written as users write.
# ruff: noqa: B007

from __future__ import annotations

import time
from contextvars import ContextVar
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.plain_python.cases import X
from tests.plain_python.programs import load

# A list would be refused: Python would append to it in each iteration. A context variable is out of sight.
TRACES: ContextVar[int] = ContextVar("traces", default=0)


def traced(x):
    """Not converted: what it does beside its value happens once a trace."""
    TRACES.set(TRACES.get() + 1)
    return x


def relax(x):
    """Plain Python with a break, a condition and a list; real in all of `x`."""
    s, ys = x * 0.5, []
    for i in range(4):
        if s[0] > 0:
            s = jnp.tanh(s * (i + 1) + x)
        else:
            s = s + 0.3 * jnp.sin(x[::-1])
        ys.append(s[1] ** 2)
    for e in x:
        if jnp.sum(s) > 2.5:
            break
        s = s + e * x
    return jnp.sum(s**3) + jnp.sum(jnp.stack(ys))


def until(x):
    """A loop whose number of steps depends on data."""
    n = 0
    while jnp.sum(x) < 20:
        x = x * (1.3 + 0.1 * jnp.sin(x)) + 0.2
        n += 1
    return jnp.sum(x), n


@pytest.mark.parametrize(
    "transform",
    [jax.grad, jax.hessian, jax.jacfwd, jax.jacrev, lambda f: lambda x: jax.jvp(f, (x,), (X,))],
    ids=["grad", "hessian", "jacfwd", "jacrev", "jvp"],
)
def test_derivatives_are_those_of_plain_python(transform: Any) -> None:
    got = jax.jit(transform(tk.control_flow(relax)))(X)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10), got, transform(relax)(X)
    )


def test_gradient_is_that_of_finite_differences() -> None:
    f, direction = jax.jit(tk.control_flow(relax)), jnp.asarray([1.0, -2.0, 0.5])
    central = (f(X + 1e-5 * direction) - f(X - 1e-5 * direction)) / 2e-5
    np.testing.assert_allclose(jax.grad(f)(X) @ direction, central, rtol=1e-6)


def test_every_lane_leaves_its_loops_on_its_own() -> None:
    xs = jnp.stack([X, -X, 3 * X, X - 1])
    for plain in (relax, until):
        got = jax.jit(jax.vmap(tk.control_flow(plain)))(jnp.abs(xs))
        rows = [plain(x) for x in jnp.abs(xs)]
        expected = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, expected)
    assert len({int(row[1]) for row in rows}) > 1


def test_bounds_and_conditions_that_are_batched() -> None:
    def f(x, k):
        s = 0.0
        for i in range(k):
            if x[i % 3] < 0:
                continue
            s = s * 0.5 + x[i % 3]
        return s if k > 1 else -s

    ks = jnp.arange(5)
    got = jax.jit(jax.vmap(tk.control_flow(f), (None, 0)))(X, ks)
    np.testing.assert_allclose(got, [f(X, int(k)) for k in ks], rtol=1e-12)


def test_forward_mode_through_a_loop_on_data() -> None:
    value, tangent = jax.jit(lambda x: jax.jvp(tk.control_flow(until), (x,), (X,)))(X + 1)
    expected = jax.jvp(until, (X + 1,), (X,))
    np.testing.assert_allclose(value[0], expected[0][0], rtol=1e-12)
    np.testing.assert_allclose(tangent[0], expected[1][0], rtol=1e-10)


def test_closed_over_tracers_are_differentiated() -> None:
    def outer(w):
        @tk.control_flow
        def inner(x):
            for _ in range(3):
                x = jnp.sin(w @ x) if x[0] > -5 else w[0]
            return x

        return jnp.sum(inner(X))

    def by_hand(w):
        x = X
        for _ in range(3):
            x = jnp.sin(w @ x)
        return jnp.sum(x)

    w = jnp.asarray(np.random.default_rng(0).normal(size=(3, 3)))
    np.testing.assert_allclose(jax.jit(jax.grad(outer))(w), jax.grad(by_hand)(w), rtol=1e-10)


@pytest.mark.parametrize(
    "gradient",
    [tk.control.store(), tk.control.checkpoint(), tk.control.checkpoint((2, 3))],
    ids=["store", "sqrt", "levels"],
)
def test_a_policy_changes_no_value_and_no_gradient(gradient: Any) -> None:
    def plain(x):
        s, ys = x, []
        for i in range(6):
            if s[1] > 2:
                break
            s = jnp.tanh(s * 1.5 + x) + i * x[0]
            x = x * 0.9
        for i in range(6):
            s = jnp.sin(s + x)
            ys.append(s[0])
        return jnp.sum(s) + ys[0] + ys[3]

    @tk.control_flow
    def staged(x):
        s, ys = x, []
        for i in tk.control.steps(range(6), gradient=gradient):
            if s[1] > 2:
                break
            s = jnp.tanh(s * 1.5 + x) + i * x[0]
            x = x * 0.9
        for i in tk.control.steps(range(6), gradient=gradient):
            s = jnp.sin(s + x)
            ys.append(s[0])
        return jnp.sum(s) + ys[0] + ys[3]

    value, slope = jax.jit(jax.value_and_grad(staged))(X)
    np.testing.assert_allclose(value, plain(X), rtol=1e-12)
    np.testing.assert_allclose(slope, jax.grad(plain)(X), rtol=1e-10)
    with tk.control.as_python():
        np.testing.assert_allclose(staged(X), plain(X), rtol=1e-12)


def test_a_limit_makes_reverse_mode_possible() -> None:
    @tk.control_flow
    def f(x, k):
        for i in tk.control.steps(range(k), max_steps=4):
            x = jnp.sin(x) * (i + 1)
        return x

    def plain(x, k):
        for i in range(k):
            x = jnp.sin(x) * (i + 1)
        return x

    value_and_grad = jax.jit(jax.value_and_grad(f))
    for k in (0, 3, 4):
        expected = jax.value_and_grad(plain)(0.7, k)
        np.testing.assert_allclose(value_and_grad(0.7, k), expected, rtol=1e-12)
    assert np.isnan(value_and_grad(0.7, 5)[0])  # never what four of five iterations give

    @tk.control_flow
    def count(k):
        n, small = 0, jnp.uint8(0)
        for _ in tk.control.steps(range(k), max_steps=4):
            n, small = n + 1, small + 1
        return n, small

    assert jax.jit(count)(4) == (4, 4)
    n, small = jax.jit(count)(5)
    assert n == jnp.iinfo(n.dtype).min and small == 255 and n.weak_type


def test_a_branch_not_taken_gives_no_nan() -> None:
    @tk.control_flow
    def f(x):
        s = 0.0
        for e in x:
            s = s + (jnp.sqrt(e) if e > 0 else 0.0)
            if e > 0:
                s = s + jnp.log(e)
        return s

    positive = X[jnp.asarray([0, 2])]
    expected = (
        jnp.asarray([1.0, 0.0, 1.0])
        .at[jnp.asarray([0, 2])]
        .set(0.5 / jnp.sqrt(positive) + 1 / positive)
    )
    np.testing.assert_allclose(jax.jit(jax.grad(f))(X), expected, atol=1e-12)


def test_printing_happens_in_every_iteration(capfd: pytest.CaptureFixture[str]) -> None:
    @tk.control_flow
    def f(x):
        for i in range(3):
            if x[i] > 0:
                jax.debug.print("at {}", i)
        return x

    jax.block_until_ready(jax.jit(f)(X))
    jax.effects_barrier()
    assert capfd.readouterr().out == "at 0\nat 2\n"


def test_thirty_early_returns() -> None:
    lines = "".join(f"    if x[0] < {i}:\n        return x * {i}\n" for i in range(30))
    f = load(f"def f(x):\n{lines}    return -x\n", "many returns")
    g = jax.jit(tk.control_flow(f))
    for shift in (0.0, 7.5, 100.0):
        np.testing.assert_allclose(g(X + shift), f(X + shift), rtol=1e-12)


def test_a_policy_forgets_what_it_should() -> None:
    @tk.control_flow
    def f(x, w):
        for _ in tk.control.steps(range(5), gradient=tk.control.truncate(2)):
            x = x * w
        return x

    # d/dw of w² c at the iterate c = w³ x that the last two steps start from, held fixed.
    np.testing.assert_allclose(jax.grad(f, 1)(1.5, 2.0), 2 * 2.0 * (2.0**3 * 1.5), rtol=1e-12)


@tk.control_flow
def six_deep(x):
    for a in range(3):
        for b in range(3):
            if x > a:
                for c in range(3):
                    n = 0
                    while n < 2 + x * 0:
                        n += 1
                        for d in range(3):
                            x = traced(jnp.tanh(x + a * b + c * d + n))
    return x


def test_six_deep_is_traced_once() -> None:
    TRACES.set(0)
    jax.make_jaxpr(lambda x: six_deep(x))(0.5)
    assert TRACES.get() == 1
    start = time.perf_counter()
    for _ in range(5):
        jax.make_jaxpr(lambda x: six_deep(x))(0.5)
    print(f"six deep: {(time.perf_counter() - start) / 5:.3f} s to trace")


def test_compiled_code_is_reused() -> None:
    TRACES.set(0)
    f = jax.jit(lambda x: six_deep(x))
    for x in (0.1, 0.2, 0.3):
        f(x)
    assert TRACES.get() == 1


def everything(x, k, seen):
    """One of each construct; what its variables hold at the end can be seen through a closure."""
    best, s, ys, d = None, 0, [], {"a": x}
    seen["variables"] = lambda: (best, s, d, ys, i, e, j)
    for i in range(3):
        best = x[i] if best is None or x[i] > best else best
        s = s + x
        ys.append(s[0])
        d["a"] = d["a"] * 2
    j = 0
    for e in x:
        s = s * e
        if s[0] > 1:
            break
    for j in range(k):
        s = s + j
    while s[0] < 9:
        s = s * 2 + 1
    return (s if x[0] > 0 and s[0] > 0 else x) + best


def test_no_tracer_is_kept() -> None:
    f = tk.control_flow(everything)
    with jax.checking_leaks():
        jax.block_until_ready(jax.jit(lambda x, k: f(x, k, {}))(X, 2))


def test_closures_see_no_tracer_of_a_block() -> None:
    f = tk.control_flow(everything)

    def run(f: Any, x: jax.Array, k: Any) -> Any:
        seen: dict[str, Any] = {}
        return f(x, k, seen), seen["variables"]()

    got, expected = jax.jit(lambda x, k: run(f, x, k))(X, 2), run(everything, X, 2)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), got, expected)


def test_state_of_a_loop_is_clean_between_iterations_of_python() -> None:
    """An exception inside a block leaves the variables outside as they were."""

    @tk.control_flow
    def f(x):
        s, caught = x, 0
        try:
            for i in range(3):
                s = s + i
                if s.shape == (3,):
                    raise KeyError("inside")
        except KeyError:
            caught = 1
        return s, caught

    try:
        s, caught = jax.jit(f)(X)
    except tk.control.ControlFlowError:
        return  # refused is as good
    assert caught == 1
    np.testing.assert_allclose(s, X, rtol=1e-15)


def test_inside_scan_cond_checkpoint_and_custom_rules() -> None:
    f = tk.control_flow(relax)
    checkpointed = jax.jit(jax.grad(jax.checkpoint(f)))(X)
    np.testing.assert_allclose(checkpointed, jax.grad(relax)(X), rtol=1e-10)
    _, ys = jax.jit(lambda x: jax.lax.scan(lambda c, e: (c * 0.9, f(c + e)), x, x))(X)
    expected = [relax(X * 0.9**i + X[i]) for i in range(3)]
    np.testing.assert_allclose(ys, expected, rtol=1e-10)
    chosen = jax.jit(lambda x: jax.lax.cond(x[0] > 0, f, lambda x: x[0], x))(X)
    np.testing.assert_allclose(chosen, relax(X), rtol=1e-12)


def test_argmin_differentiates_an_objective_written_in_loops() -> None:
    @tk.control_flow
    def inner(y, theta):
        s = 0.0
        for i in range(3):
            s = s + (y[i] - theta[i]) ** 2 if theta[i] > 0 else s + y[i] ** 2
        return s

    solve = tk.argmin(inner, tk.solver.GradientDescent(0.5, 3))
    slope = jax.jit(jax.jacrev(lambda theta: solve(jnp.zeros(3), theta).value))(X)
    np.testing.assert_allclose(slope, np.diag([1.0, 0.0, 1.0]), atol=1e-12)


@pytest.mark.slow
def test_compiling_a_thousand_steps() -> None:
    """Within 1.3 of a hand-written scan, and 20 times below the unrolled loop (issue 6)."""
    w = jnp.asarray(np.random.default_rng(0).normal(size=8))

    @tk.control_flow
    def plain(x, w, steps=1000):
        for i in range(steps):
            x = x + 0.05 * (jnp.tanh(x * w) - x)
        return jnp.sum(x)

    def by_hand(x, w):
        step = lambda x, _: (x + 0.05 * (jnp.tanh(x * w) - x), None)
        return jnp.sum(jax.lax.scan(step, x, None, length=1000)[0])

    def seconds(f: Any) -> float:
        start = time.perf_counter()
        jax.jit(jax.grad(lambda x, w: f(x, w), argnums=1)).lower(jnp.ones(8), w).compile()
        return time.perf_counter() - start

    # In turn, so that what else runs on the machine meets both.
    turns = [(seconds(plain), seconds(by_hand)) for _ in range(10)]
    ours, scan = map(min, zip(*turns, strict=True))
    with tk.control.as_python():
        tenth = seconds(lambda x, w: plain(x, w, 100))  # XLA takes minutes for all of them
    print(f"ours {ours:.3f} s, scan {scan:.3f} s, a tenth of the steps unrolled {tenth:.2f} s")
    assert ours < 1.3 * scan
    assert 20 * ours < 10 * tenth
