"""Every derivative rule of a solve, around a function whose own rule is no derivative.

What a solver then follows is the gradient of no function, and its derivative is not symmetric. The rules
that follow the steps must still give the derivative of the iterate that was computed, here by central
differences; `Implicit` that of the exact solution, here by the transposed system.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, Reversible, Truncated, Unroll
from toolkit.linear import GMRES

H, W = jnp.array([[2.0, 0.9], [0.9, 1.0]]), jnp.array([[1.0, 0.4], [-0.3, 1.2]])
FEEDBACK = jnp.array([[0.9, 0.1], [0.5, 1.1]])  # in place of W where a gradient comes back
Y0, THETA, OUTER = jnp.array([0.9, -2.0]), jnp.array([0.8, -1.0]), jnp.array([1.0, -2.0])
RATE, STEPS = 0.2, 6


@jax.custom_vjp
def clipped(x):
    return x


clipped.defvjp(lambda x: (x, None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))


# The forward pass calls the function again, as in JAX's own tutorial: the second derivative meets its rule.
@jax.custom_vjp
def clipped_again(x):
    return x


clipped_again.defvjp(lambda x: (clipped_again(x), None), lambda _, g: (jnp.clip(g, -0.5, 0.5),))


@jax.custom_vjp
def rounded(x):
    return jnp.round(4 * x) / 4


rounded.defvjp(lambda x: (jnp.round(4 * x) / 4, None), lambda _, g: (g,))


@jax.custom_vjp
def feedback(x):
    return W @ x


feedback.defvjp(lambda x: (W @ x, None), lambda _, g: (FEEDBACK.T @ g,))


@jax.custom_jvp
def pushed(x):
    return jnp.sin(x)


# The slope of this rule is cos(x) plus a number that has no place there.
@pushed.defjvp
def _pushed_jvp(primals, dots):
    (x,), (dot,) = primals, dots
    return jnp.sin(x), jnp.cos(x) * dot + 0.4 * x * dot[::-1]


@jax.custom_jvp
def sine(x):
    return jnp.sin(x)


sine.defjvp(lambda primals, dots: (sine(*primals), jnp.cos(primals[0]) * dots[0]))


# A function of JAX with another rule than JAX's: its value is not differentiated.
constant_slope = jax.custom_jvp(jax.nn.softplus)
constant_slope.defjvps(lambda dot, out, x: 0.7 * dot)


OPERATIONS = {
    "plain": jnp.sin,
    "rule_of_jax": jax.nn.softplus,
    "clipped": clipped,
    "rounded": rounded,
    "feedback": feedback,
    "custom_jvp": pushed,
    "true_custom_jvp": sine,
    "other_rule_of_jax": constant_slope,
}
# Here the second derivative meets the rule again, so that it is not that of the computed iterate, by any
# rule or by `jax.grad` of a plain loop. All of these must agree.
AGAIN = {"clipped_again": clipped_again, "other_rule_of_jax": constant_slope}
FOLLOW = {
    "unroll": Unroll(),
    "unroll_sqrt": Unroll("sqrt"),
    "unroll_written_out": Unroll(written_out=True),
    "unroll_forward": Unroll(forward_mode=True),
    "truncated": Truncated(STEPS),
    "forward": Forward(),
    "reversible": Reversible(),
}
SAME_CODE = {"unroll_sqrt", "unroll_written_out", "truncated"}  # as `unroll`, in a step
RTOL = {
    "reversible": 1e-4
}  # its state is on a grid of 2^-40, and its momentum is 2^-16 instead of 0


def _fun(operation: Callable) -> Callable:
    def fun(y, theta):
        z = operation(y * jnp.array([1.0, 1.3]))
        return 0.5 * z @ H @ z - z @ theta + 0.2 * jnp.sum((y - theta**2) ** 2)

    return fun


def _outer(y, theta):
    return OUTER @ jnp.sin(y) + 0.1 * jnp.sum(theta**2)


def _differences(value: Callable, theta: Any) -> np.ndarray:
    h = 1e-5  # the error is of the order of h^2 = 1e-10
    value = jax.jit(value)
    return np.array([(value(theta + h * e) - value(theta - h * e)) / (2 * h) for e in jnp.eye(2)])


@functools.cache
def _of_the_iterate(name: str) -> np.ndarray:
    fun = _fun(OPERATIONS.get(name) or AGAIN[name])

    def plain(theta):
        step = lambda y, _: (y - RATE * jax.grad(fun)(y, theta), None)
        return _outer(jax.lax.scan(step, Y0, None, STEPS)[0], theta)

    return jax.jit(jax.grad(plain))(THETA) if name in AGAIN else _differences(plain, THETA)


def _pairs() -> list:
    return [
        pytest.param(rule, name, marks=[pytest.mark.slow] * (rule in SAME_CODE and name != "clipped"))
        for rule in FOLLOW
        for name in {**OPERATIONS, **AGAIN}
        # What calls itself in its forward pass has no forward mode of the second derivative.
        if not (rule in ("unroll_forward", "forward") and name == "clipped_again")
    ]  # fmt: skip


@pytest.mark.parametrize(("rule", "name"), _pairs())
def test_the_derivative_is_that_of_the_computed_iterate(rule: str, name: str) -> None:
    fun = _fun(OPERATIONS.get(name) or AGAIN[name])
    solve = tk.argmin(fun, tk.solver.GradientDescent(RATE, STEPS), adjoint=FOLLOW[rule])
    hg = jax.jit(tk.hypergradient(_outer, solve))(Y0, THETA)
    assert hg.report.status == 0
    rtol = RTOL.get(rule, 1e-6)
    np.testing.assert_allclose(hg.gradient, _of_the_iterate(name), rtol=rtol, atol=1e-9)


ASYMMETRIC = {"clipped", "feedback", "custom_jvp"}
IMPLICIT = [
    pytest.param(name, marks=[pytest.mark.slow] * (name not in {*ASYMMETRIC, "plain"}))
    for name in OPERATIONS
    if name != "rounded"  # that one ends in a cycle
]
SOLVERS = [None, pytest.param(GMRES(20, 1e-13), marks=pytest.mark.slow)]


@pytest.mark.parametrize("linear", SOLVERS)
@pytest.mark.parametrize("name", IMPLICIT)
def test_implicit_solves_the_transposed_system(name: str, linear: Any) -> None:
    fun = _fun(OPERATIONS[name])
    solve = tk.argmin(fun, tk.solver.GradientDescent(RATE, 400), adjoint=Implicit(linear))
    composed = lambda theta: _outer(solve(Y0, theta).value, theta)

    @jax.jit
    def everything(theta):
        hg = tk.hypergradient(_outer, solve)(Y0, theta)
        jacobians = jax.jacrev(jax.grad(fun), (0, 1))(hg.solution.value, theta)
        slopes = jax.grad(_outer, (0, 1))(hg.solution.value, theta)
        return hg, jax.grad(composed)(theta), jax.jacfwd(composed)(theta), jacobians, slopes

    hg, reverse, forward, (F_y, F_theta), (q, direct) = everything(THETA)
    # F_y' v = q, written out.
    expected = direct - F_theta.T @ np.linalg.solve(np.asarray(F_y).T, q)
    assert (np.abs(F_y - F_y.T).max() > 0.1) == (name in ASYMMETRIC)
    assert hg.report.status == 0
    for got in (hg.gradient, reverse, forward):
        np.testing.assert_allclose(got, expected, rtol=1e-6)


@pytest.mark.parametrize("name", ["feedback", "custom_jvp"])
@pytest.mark.parametrize("adjoint", [Unroll(), Implicit()], ids=["unroll", "implicit"])
def test_a_second_derivative_is_that_of_a_plain_loop(adjoint: Any, name: str) -> None:
    """The rule acts on theta. A first derivative uses it up; the second is that of what it computed."""
    operation, steps = OPERATIONS[name], 4 if isinstance(adjoint, Unroll) else 150
    fun = lambda y, theta: 0.5 * jnp.sum((y - operation(theta)) ** 2) + 0.1 * jnp.sum(y**4)

    def plain(theta):
        step = lambda y, _: (y - RATE * jax.grad(fun)(y, theta), None)
        return _outer(jax.lax.scan(step, Y0, None, steps)[0], theta)

    solve = tk.argmin(fun, tk.solver.GradientDescent(RATE, steps), adjoint=adjoint)
    composed = lambda theta: _outer(solve(Y0, theta).value, theta)
    got, expected = (jax.jit(jax.hessian(f))(THETA) for f in (composed, plain))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-9)
