"""Starts, statuses, traces, the example of the docstring, and what is refused."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from tests.bilevel.levels.quadratics import (
    DESCENT,
    EXACT,
    EXACT_GRADIENT,
    EXACT_Y,
    STEP,
    F,
    G,
    H,
    X,
)
from toolkit.adjoint import Implicit, Nudged, OneStep, Reversible, Stopped, Unroll
from toolkit.bilevel import Level, nested, nested_hypergradient
from toolkit.linear import CG

QUICK_DESCENT = tk.solver.GradientDescent(STEP, 200, momentum=0.3, tol=1e-10)


def _pair(**of_z: Any) -> tuple[Level, Level]:
    z = {"solver": QUICK_DESCENT, "start": jnp.zeros(4)} | of_z
    return Level("y", G.at, QUICK_DESCENT, jnp.zeros(3)), Level("z", H.at, **z)


def test_a_warm_start_is_where_every_level_starts() -> None:
    solve = jax.jit(lambda starts, x: nested(*_pair())(starts, x=x))
    cold = solve({"y": jnp.zeros(3), "z": jnp.zeros(4)}, X)
    warm = solve(cold.values, X)
    assert cold.status == warm.status == 0
    assert all(cold.info[name].steps > 10 and warm.info[name].steps == 0 for name in "yz")
    near = solve(cold.values, X + 1e-6)
    assert all(0 < near.info[name].steps < cold.info[name].steps for name in "yz")


def test_every_level_says_how_it_went() -> None:
    levels = _pair(solver=tk.solver.GradientDescent(STEP, 2, tol=1e-10))
    solve = jax.jit(lambda start: nested(*levels)({"z": start}, x=X))
    short, lost = solve(jnp.zeros(4)), solve(jnp.full(4, jnp.nan))
    assert short.info["z"].status == short.status == tk.Status.STEP_LIMIT
    # y follows the derivative at a z that is no solution: a small residual says nothing there.
    assert short.info["y"].residual <= 1e-10 and short.info["y"].status == tk.Status.STEP_LIMIT
    assert lost.status == lost.info["y"].status == tk.Status.NOT_FINITE
    assert np.all(np.isnan(lost.values["y"]))


def test_the_hypergradient_says_which_level_and_which_part_failed() -> None:
    y = Level("y", G.at, tk.solver.GradientDescent(STEP, 3), jnp.zeros(3), OneStep())
    z = Level("z", H.at, DESCENT, jnp.zeros(4), Implicit(CG(1, 1e-12)))
    hg = jax.jit(nested_hypergradient(F.at, y, z))(x=X)
    both = tk.Issue.INNER_NOT_CONVERGED | tk.Issue.LINEAR_NOT_CONVERGED
    assert (
        hg.reports["y"].status == both
    )  # its own steps, and the linear systems of z that they take
    assert hg.reports["z"].status == tk.Issue.LINEAR_NOT_CONVERGED
    assert hg.status == tk.Issue.LINEAR_NOT_CONVERGED | tk.Issue.INNER_NOT_CONVERGED


@pytest.mark.slow
def test_the_hypergradient_is_exact_and_its_reports_are_clean() -> None:
    fun = lambda x, y, z: F.at(x=x["a"], y=y, z=z)
    y = Level("y", lambda x, y, z: G.at(x=x["a"], y=y, z=z), DESCENT, jnp.zeros(3), EXACT)
    z = Level("z", lambda x, y, z: H.at(x=x["a"], y=y, z=z), DESCENT, jnp.zeros(4), EXACT)
    hg = jax.jit(nested_hypergradient(fun, y, z))(x={"a": X, "n": 2})
    np.testing.assert_allclose(hg.gradient["x"]["a"], EXACT_GRADIENT, rtol=1e-9)
    np.testing.assert_allclose(hg.solution.values["y"], EXACT_Y, rtol=1e-9)
    assert hg.gradient["x"]["n"] is None and hg.status == 0
    assert all(report.error_estimate < 1e-9 for report in hg.reports.values())
    assert all(report.linear_steps > 0 for report in hg.reports.values())


def test_what_a_level_closes_over_and_its_start_count_once() -> None:
    """With a rule an edge: lam and the start belong to the level's own rule."""

    def solved(lam: jax.Array, start: jax.Array, x: jax.Array) -> jax.Array:
        fun = lambda x, y: 0.5 * jnp.sum((y - lam * x) ** 2)
        edges = {"x": Implicit()}
        solver = tk.solver.GradientDescent(STEP, 3)
        return jnp.sum(nested(Level("y", fun, solver, start, Unroll(), edges))(x=x).values["y"])

    lam, x = jnp.asarray([2.0, 3.0]), jnp.asarray([0.5, 0.7])
    by_lam, by_start, by_x = jax.jit(jax.grad(solved, (0, 1, 2)))(lam, jnp.zeros(2), x)
    left = (1 - STEP) ** 3  # of the start after three steps
    np.testing.assert_allclose(by_lam, (1 - left) * x, rtol=1e-12)
    np.testing.assert_allclose(by_start, [left, left], rtol=1e-12)
    np.testing.assert_allclose(by_x, lam, rtol=1e-12)


def test_a_chain_is_solved_through_levels_that_are_not_named() -> None:
    """Level y takes z, whose function takes w; and each function is traced a known number of times."""
    traces = dict.fromkeys("yzw", 0)

    def counted(name: str, value: jax.Array) -> jax.Array:
        traces[name] += 1
        return value

    fun_y = lambda x, y, z: counted("y", jnp.sum((y - x) ** 2) + jnp.sum((z - 1) ** 2))
    fun_z = lambda y, z, w: counted("z", jnp.sum((z - y) ** 2) + jnp.sum(w**2))
    fun_w = lambda z, w: counted("w", jnp.sum((w - z) ** 2))
    solver = tk.solver.GradientDescent(0.2, 60)
    levels = [
        Level(n, f, solver, jnp.zeros(2), EXACT)
        for n, f in zip("yzw", (fun_y, fun_z, fun_w), strict=True)
    ]
    solve = jax.jit(nested(*levels))
    # w = z;  min (z - y)^2 + z^2: z = y / 2;  min (y - x)^2 + (y / 2 - 1)^2: y = (2 x + 1) / 2.5
    y = (2 * X + 1) / 2.5
    for _ in range(2):
        values = solve(x=X).values
    for name, expected in {"y": y, "z": y / 2, "w": y / 2}.items():
        np.testing.assert_allclose(values[name], expected, rtol=1e-9, atol=1e-12)
    assert traces == {"y": 1, "z": 2, "w": 3}


def test_the_example_runs_and_its_gradient_is_the_difference_quotient(capsys: Any) -> None:
    module = sys.modules[nested.__module__]
    example = textwrap.dedent(module.__doc__.split("\n\n", 1)[1])
    scope: dict = {}
    exec(compile(example, module.__file__, "exec"), scope)
    printed = [float(word) for word in capsys.readouterr().out.strip(" []\n").split()]
    value = jax.jit(lambda x: scope["f"](**scope["solve"](x=x).values))
    h = 1e-4 * np.eye(3)
    quotient = [(value(1 + e) - value(1 - e)) / 2e-4 for e in h]
    np.testing.assert_allclose(printed, quotient, rtol=1e-6)


FUN = lambda x, y: jnp.sum((y - x) ** 2)
ZERO = jnp.zeros(2)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Level("1y", FUN, DESCENT, ZERO), ValueError, "`name` .* '1y'"),
        (lambda: Level("y", 3, DESCENT, ZERO), TypeError, "`fun` must be callable: got int"),
        (lambda: Level("y", FUN, 3, ZERO), TypeError, "`solver` must be"),
        (lambda: Level("y", FUN, DESCENT, ZERO, Implicit), TypeError, "`adjoint` must be"),
        (
            lambda: Level("y", FUN, DESCENT, ZERO, edges=Stopped()),
            TypeError,
            "`edges` of level `y`",
        ),
        (lambda: Level("y", FUN, DESCENT, ZERO, edges={"x": 1}), TypeError, "`adjoint` must be"),
        (lambda: Level("z", FUN, DESCENT, ZERO), ValueError, "must take `z` .*got .*x, y"),
        (lambda: Level("y", FUN, DESCENT, [1, None]), ValueError, "`start` of level `y`"),
        (lambda: nested(), ValueError, "at least one"),
        (lambda: nested(FUN), TypeError, "tk.bilevel.Level"),
        (lambda: nested(*[Level("y", FUN, DESCENT, ZERO)] * 2), ValueError, r"got \(y, y\)"),
        (lambda: nested_hypergradient(3, *_pair()), TypeError, "`outer` must be callable"),
    ],
)
def test_bad_levels_are_refused(make: Callable, error: type, message: str) -> None:
    with pytest.raises(error, match=message):
        make()


def _solve(level: Level, *args: Any, **tops: Any) -> Callable:
    return lambda: nested(level)(*args, **tops)


PLAIN = Level("y", FUN, DESCENT, ZERO)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (_solve(PLAIN), "`fun` of level `y` .* parameter `x`"),
        (_solve(PLAIN, x=X, t=X), "got `t`, which none takes"),
        (_solve(PLAIN, x=X, y=X), "got `y`, which is a level"),
        (_solve(PLAIN, X, x=X), "`starts` must map"),
        (_solve(PLAIN, {"x": X}, x=X), "`starts` must map"),
        (_solve(PLAIN, {"y": jnp.zeros(3)}, x=X), r"`starts\['y'\]` .*float64\[3\].*float64\[2\]"),
        (
            _solve(Level("y", FUN, DESCENT, ZERO, edges={"u": OneStep()}), x=X),
            "above it .x.: got `u`",
        ),
        (_solve(Level("y", lambda x, y: y - x, DESCENT, ZERO), x=X), r"level `y` .*float64\[2\]"),
        (lambda: nested(*_pair(edges={"z": OneStep()}))(x=X), r"above it \(x, y\): got `z`"),
        (lambda: nested(*_pair(edges={"y": Unroll()}))(x=X), "along `y` must have forward mode"),
        (lambda: nested(*_pair(adjoint=Nudged(0.1), edges={"x": OneStep()}))(x=X), "along `y`"),
        (lambda: nested_hypergradient(lambda u: u, PLAIN)(x=X), "`outer` .* parameter `u`"),
        (lambda: nested_hypergradient(FUN, PLAIN)(x=3), "a top variable must have"),
        (
            lambda: nested_hypergradient(lambda y: y, PLAIN)(x=X),
            "`outer` must return a real scalar",
        ),
    ],
)
def test_bad_calls_are_refused(call: Callable, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_reversible_above_edges_of_different_rules_is_refused() -> None:
    y = Level("y", lambda x, y, w: jnp.sum(x * y * w), DESCENT, ZERO, Reversible())
    z = Level("z", lambda y, z: jnp.sum(y * z), DESCENT, ZERO)
    w = Level("w", lambda y, z, w: jnp.sum(y * z * w), DESCENT, ZERO, edges={"y": OneStep()})
    with pytest.raises(ValueError, match="`adjoint` of level `y` must not be Reversible"):
        nested(y, z, w)(x=X)
