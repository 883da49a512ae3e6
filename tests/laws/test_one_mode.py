"""Functions with a backward pass alone (`jax.custom_vjp`, a compiled kernel) inside a solve.

They get the derivative that their mode admits, or a refusal that names them and what to use.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk
from toolkit.adjoint import Forward, Implicit, OneStep, Unroll
from toolkit.linear import GMRES, BiCGStab

A, ONES = jnp.array([[0.4, 0.2], [-0.2, 0.3]]), jnp.ones(2)
PICARD = tk.solver.FixedPointIteration(200, 1e-12)


@jax.custom_vjp
def fused(x):
    return jnp.tanh(x)


fused.defvjp(lambda x: (jnp.tanh(x), jnp.tanh(x)), lambda out, bar: (bar * (1 - out**2),))


@jax.custom_vjp
def again(x):
    return jnp.tanh(x)


again.defvjp(lambda x: (again(x), x), lambda x, bar: (bar * (1 - again(x) ** 2),))


def _compiled(function: Callable) -> Callable:
    """A function of NumPy that JAX can call and neither differentiate nor transpose."""

    def call(*args):
        shape = jax.ShapeDtypeStruct(args[0].shape, args[0].dtype)
        host = lambda *args: np.asarray(function(*map(np.asarray, args)))
        return jax.pure_callback(host, shape, *args, vmap_method="sequential")

    return call


_tanh, _tanh_back = _compiled(np.tanh), _compiled(lambda bar, out: bar * (1 - out**2))


@jax.custom_vjp
def kernel(x):
    return _tanh(x)


kernel.defvjp(lambda x: (_tanh(x), _tanh(x)), lambda out, bar: (_tanh_back(bar, out),))


@jax.custom_vjp
def clipped(x):
    return jnp.tanh(x)


clipped.defvjp(lambda x: (jnp.tanh(x), None), lambda _, bar: (jnp.clip(bar, -0.5, 0.5),))


def _composed(operation: Callable, adjoint: Any) -> Callable:
    solve = tk.fixed_point(lambda y, t: 0.5 * operation(A @ y) + t, PICARD, adjoint=adjoint)
    return lambda theta: jnp.sum(jnp.sin(solve(jnp.zeros(2), theta).value))


@pytest.mark.parametrize("linear", [None, BiCGStab(20, 1e-12)])
@pytest.mark.parametrize("operation", [fused, again, kernel])
def test_implicit_has_reverse_mode(operation: Callable, linear: Any) -> None:
    expected = jax.jit(jax.grad(_composed(jnp.tanh, Implicit())))(ONES)
    composed = _composed(operation, Implicit(linear))
    np.testing.assert_allclose(jax.grad(composed)(ONES), expected, rtol=1e-9)
    solve = tk.fixed_point(
        lambda y, t: 0.5 * operation(A @ y) + t, PICARD, adjoint=Implicit(linear)
    )
    hg = tk.hypergradient(lambda y, t: jnp.sum(jnp.sin(y)), solve)(jnp.zeros(2), ONES)
    assert hg.report.status == 0 and np.isfinite(hg.report.error_estimate)
    np.testing.assert_allclose(hg.gradient, expected, rtol=1e-9)


@pytest.mark.parametrize("operation", [fused, again])
def test_a_backward_pass_that_can_be_transposed_gives_forward_mode(operation: Callable) -> None:
    composed, plain = _composed(operation, Implicit()), _composed(jnp.tanh, Implicit())
    forward = jax.jit(jax.jacfwd(composed))(ONES)
    np.testing.assert_allclose(forward, jax.jit(jax.grad(plain))(ONES), rtol=1e-9)
    root = tk.root(lambda y, t: y - 0.5 * operation(A @ y) - t, tk.solver.Newton(10, 1e-12))
    y = root(jnp.zeros(2), ONES).value
    np.testing.assert_allclose(y, 0.5 * jnp.tanh(A @ y) + ONES, rtol=1e-12)


@pytest.mark.parametrize("adjoint", [Forward(), OneStep(), Unroll(forward_mode=True), Implicit()])
def test_forward_mode_is_refused_with_the_name_of_the_function(adjoint: Any) -> None:
    with pytest.raises(TypeError, match=r"no forward mode.*`kernel` \(.*test_one_mode.py:\d+\)"):
        jax.jacfwd(_composed(kernel, adjoint))(ONES)


def test_a_tangent_that_never_meets_the_function_passes() -> None:
    def value(theta, other):
        fun = lambda y, t: 0.5 * jnp.sum((y - t[0] - fused(t[1])) ** 2)
        solve = tk.argmin(fun, tk.solver.GradientDescent(0.5, 60), adjoint=Forward())
        return jnp.sum(solve(jnp.zeros(2), (theta, other)).value)

    np.testing.assert_allclose(jax.jacfwd(value)(ONES, ONES), ONES, rtol=1e-9)
    with pytest.raises(TypeError, match=r"no forward mode.*`fused`"):
        jax.grad(value, 1)(ONES, ONES)


def test_newton_is_refused_by_name() -> None:
    root = tk.root(lambda y, t: y - 0.5 * kernel(A @ y) - t, tk.solver.Newton(10, 1e-12))
    with pytest.raises(TypeError, match=r"no forward mode.*`kernel`.*FixedPointIteration"):
        root(jnp.zeros(2), ONES)


def test_a_backward_pass_that_is_not_linear_gives_no_number() -> None:
    """A clipped cotangent: a system `F_y' v = q` is not solved by what a linear solver finds."""
    assert np.isnan(jax.grad(_composed(clipped, Implicit()))(3 * ONES)).all()
    with pytest.raises(TypeError, match=r"GMRES does; use tk.linear.BiCGStab or Dense"):
        jax.grad(_composed(clipped, Implicit(GMRES(5, 1e-9))))(ONES)


@pytest.mark.parametrize("rule", [Implicit(), OneStep(), Forward(), Unroll(forward_mode=True)])
def test_a_solve_inside_that_has_first_derivatives_alone_leaves_the_value(rule: Any) -> None:
    """The value needs the first derivative of the inner solve; only the outer derivative is refused."""

    def outer(adjoint: Any) -> tk.SolutionMap:
        inner = tk.argmin(
            lambda z, y: 0.5 * jnp.sum((z - jnp.tanh(y)) ** 2),
            tk.solver.GradientDescent(0.5, 60),
            adjoint=adjoint,
        )
        fun = lambda y, t: 0.5 * jnp.sum((inner(jnp.zeros(2), y).value - t) ** 2 + y**2)
        return tk.argmin(fun, tk.solver.GradientDescent(0.3, 60), adjoint=rule)

    value = outer(tk.adjoint.Nudged(1e-3))(jnp.zeros(2), ONES).value
    expected = outer(Implicit())(jnp.zeros(2), ONES).value
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    solve = outer(tk.adjoint.Nudged(1e-3))
    with pytest.raises(TypeError, match=r"Nudged\(\) has first derivatives only"):
        jax.grad(lambda t: jnp.sum(solve(jnp.zeros(2), t).value))(ONES)
