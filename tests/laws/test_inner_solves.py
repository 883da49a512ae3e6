"""A solve inside the function of another: where it stops short, the report of the outer one says so.

The solves' own functions are quadratic, so that the outer solve ends with a residual of 0 in either case.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import pytest

import toolkit as tk
from toolkit.adjoint import Implicit, Nudged, OneStep, Stopped, Unroll
from toolkit.derive.marks import SHORT
from toolkit.solver import GradientDescent

ENOUGH, FEW = 300, 3
START, XS = jnp.zeros(()), jnp.asarray([0.3, 0.7])
UNSOLVED, LINEAR = int(tk.Issue.INNER_NOT_CONVERGED), int(tk.Issue.LINEAR_NOT_CONVERGED)


def distance(z: Any, y: Any) -> jax.Array:
    return 0.5 * jnp.sum((z - y) ** 2)


def inner(steps: int, adjoint: Any = None) -> Callable[[Any], jax.Array]:
    """The identity by a solve."""
    solve = tk.argmin(distance, GradientDescent(0.1, steps), adjoint=adjoint)
    return lambda y: solve(START, y).value


@tk.control_flow
def plain_python(y: Any, solve: Any) -> Any:
    total = 0.0 * y
    for k in range(3):
        if y * k < 100:
            total = total + solve(y) / 3
    return total


def jitted_before(steps: int) -> Callable:
    solve = jax.jit(inner(steps))
    jax.grad(solve)(1.0)  # JAX has it in its caches, traced outside of any solve
    return solve


def in_a_rule(steps: int) -> Callable:
    """A solve in the forward half of a custom rule alone."""
    identity = jax.custom_vjp(lambda y: y)
    identity.defvjp(lambda y: (inner(steps)(y), None), lambda _, bar: (bar,))
    return identity


def capped_linear_solver(steps: int) -> Callable:
    curvature = jnp.asarray([1.0, 10.0, 100.0])
    fun = lambda z, y: 0.5 * jnp.sum(curvature * z**2) - jnp.sum(z) * y
    adjoint = Implicit(tk.linear.CG(1 if steps == FEW else 30, 1e-10))
    solve = tk.argmin(fun, tk.solver.Newton(5, 1e-10), adjoint=adjoint)
    return lambda y: jnp.sum(solve(jnp.zeros(3), y).value * jnp.asarray([1.0, 2.0, 3.0]))


def two_deep(steps: int) -> Callable:
    middle = tk.argmin(lambda z, y: 0.5 * (inner(steps)(z) - y) ** 2, GradientDescent(0.5, 80))
    return lambda y: middle(START, y).value


def per_step_inputs(steps: int) -> Callable:
    fun = lambda z, y, x: distance(z, y) + 0 * x
    solve = tk.argmin(fun, GradientDescent(0.1, steps), adjoint=Unroll())
    return lambda y: solve(START, y, jnp.zeros(steps)).value


def hypergradient(steps: int) -> Callable:
    hg = tk.hypergradient(lambda z, y: jnp.sin(z), tk.argmin(distance, GradientDescent(0.1, steps)))
    return lambda y: hg(START, y).gradient


def scanned(solve: Callable) -> Callable:
    return lambda y: jnp.sum(jax.lax.scan(lambda c, x: (c, solve(y * x)), 0.0, XS)[1])


def bounded_while(solve: Callable) -> Callable:
    def looped(y: jax.Array) -> jax.Array:
        body = lambda c: (c[0] + solve(y) / 2, c[1] + 1)
        return tk.while_loop(lambda c: c[1] < 2, body, (jnp.zeros(()), 0), max_steps=5)[0]

    return looped


def in_a_condition(solve: Callable) -> Callable:
    def looped(y: jax.Array) -> jax.Array:
        going = lambda c: (c < 2) & (solve(y) > -5)
        return y + jax.lax.stop_gradient(jax.lax.while_loop(going, lambda c: c + 1, 0.0))

    return looped


def slope(solve: Callable) -> Callable:
    return lambda y: jax.grad(lambda y: solve(y) * 1.0)(y) * y


# How the function of the outer solve reaches the inner one, and the bits that come of it.
PLACES: dict[str, tuple[Callable[[int], Callable], int]] = {
    "call": (inner, UNSOLVED),
    "scan": (lambda n: scanned(inner(n)), UNSOLVED),
    "cond": (lambda n: lambda y: jax.lax.cond(y < 50, inner(n), jnp.sin, y), UNSOLVED),
    "while": (lambda n: bounded_while(inner(n)), UNSOLVED),
    "condition_of_while": (lambda n: in_a_condition(inner(n)), UNSOLVED),
    "vmap": (lambda n: lambda y: jnp.sum(jax.vmap(inner(n))(y * XS)), UNSOLVED),
    "jit": (jitted_before, UNSOLVED),
    "checkpoint": (lambda n: jax.checkpoint(inner(n)), UNSOLVED),
    "custom_rule": (in_a_rule, UNSOLVED),
    "plain_python": (lambda n: lambda y: plain_python(y, inner(n)), UNSOLVED),
    "derivative_alone": (lambda n: slope(inner(n)), UNSOLVED),
    "unrolled_derivative_alone": (lambda n: slope(inner(n, Unroll(forward_mode=True))), SHORT),
    "one_step": (lambda n: inner(n, OneStep()), UNSOLVED),
    "nudged": (lambda n: inner(n, Nudged(0.01)), UNSOLVED),
    "unrolled": (lambda n: inner(n, Unroll()), SHORT),
    "stopped": (lambda n: lambda y: y + inner(n, Stopped())(y), SHORT),
    "per_step_inputs": (per_step_inputs, SHORT),
    "two_deep": (two_deep, UNSOLVED),
    "hypergradient": (hypergradient, UNSOLVED | SHORT),
    "linear_system": (capped_linear_solver, LINEAR),
}


def no_step(fun: Any, y0: Any, theta: Any) -> tk.Solution:
    """A solver after which nothing but the verdict is left to compile."""
    return tk.Solution(y0, tk.SolveInfo(0, 0, 0.0))


@pytest.mark.parametrize("place", PLACES)
def test_wherever_it_stands_it_is_seen(place: str) -> None:
    make, bits = PLACES[place]

    def seen(steps: int) -> int:
        solve = make(steps)
        fun = lambda y, theta: 0.5 * (solve(y) - theta) ** 2 + 0.5 * y**2
        outer = tk.argmin(fun, no_step, adjoint=Stopped())
        return int(outer.reporting(None, jnp.asarray(0.1), jnp.asarray(2.0), None)[1])

    assert (seen(FEW), seen(ENOUGH)) == (bits, 0)


def test_a_branch_that_is_not_taken_is_not_judged() -> None:
    fun = lambda y, theta: jax.lax.cond(y > 50, inner(FEW), lambda y: y**2, y)
    outer = tk.argmin(fun, no_step, adjoint=Stopped())
    assert outer.reporting(None, jnp.asarray(0.1), None, None)[1] == 0


def _found(steps: int, rule: Any = None, outer_steps: int = FEW, **own: Any) -> Any:
    """The hypergradient through `argmin (inner(y) - theta)^2 + y^2`, and what it says."""
    solve = own.get("inner", inner(steps))
    fun = own.get("fun", lambda y, theta: 0.5 * (solve(y) - theta) ** 2 + 0.5 * y**2)
    outer = own.get("outer", lambda y, theta: jnp.sin(y))
    middle = tk.argmin(fun, GradientDescent(0.4, 300, tol=1e-10), adjoint=rule)
    return jax.jit(tk.hypergradient(outer, middle))(jnp.asarray(0.1), jnp.asarray(2.0))


@pytest.mark.parametrize("rule", [Implicit(), Unroll()])
def test_the_report_says_so(rule: Any) -> None:
    hg = _found(FEW, rule)
    assert hg.solution.info.residual < 1e-9
    assert hg.solution.info.status == tk.Status.STEP_LIMIT
    assert hg.report.status == UNSOLVED
    estimate = hg.report.error_estimate
    assert estimate is None if rule == Unroll() else estimate == jnp.inf
    hg = _found(ENOUGH, rule)
    assert (hg.solution.info.status, hg.report.status) == (tk.Status.CONVERGED, 0)


def test_a_solve_inside_the_outer_function() -> None:
    clean = lambda y, theta: 0.5 * (y - theta) ** 2
    for rule in (Implicit(), Unroll()):
        for steps, status in ((FEW, UNSOLVED), (ENOUGH, 0)):
            outer = lambda y, theta, n=steps: jnp.sin(inner(n)(y))
            hg = _found(0, rule, fun=clean, outer=outer)
            assert (hg.solution.info.status, hg.report.status) == (0, status)


def test_an_outer_function_that_looks_at_values_is_still_served() -> None:
    outer = lambda y, theta: jnp.sin(y) if y > 0 else y
    solve = tk.argmin(distance, GradientDescent(0.4, 60))
    assert tk.hypergradient(outer, solve)(jnp.asarray(0.1), jnp.asarray(2.0)).report.status == 0


def test_each_lane_has_its_own_status() -> None:
    solve = tk.argmin(distance, GradientDescent(0.1, 200, tol=1e-8))
    # The inner solve of lane 1 starts where its steps do not reach the solution.
    fun = lambda y, theta: 0.5 * (solve(theta[1], y).value - theta[0]) ** 2
    middle = tk.argmin(fun, GradientDescent(0.4, 100, tol=1e-6))
    run = jax.jit(jax.vmap(lambda far: middle(START, jnp.stack([1.0, far])).info.status))
    assert run(jnp.asarray([0.0, 1e4])).tolist() == [0, 1]


def test_programs_without_solves_inside_hold_no_mark() -> None:
    solve = tk.argmin(distance, GradientDescent(0.1, 5))
    program = jax.make_jaxpr(jax.value_and_grad(lambda theta: solve(START, theta).value))(1.0)
    assert "mark" not in str(program)
