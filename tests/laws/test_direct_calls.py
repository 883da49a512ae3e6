"""Linear solvers as functions of their own, called on a system that theta is in."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import toolkit as tk

A = jnp.array([[3.0, 1.0, 0.0], [1.0, 4.0, 1.0], [0.0, 1.0, 5.0]])
B, THETA = jnp.array([1.0, 2.0, 3.0]), jnp.array([0.1, 0.2, 0.3])


def solved(solver):
    return lambda theta: jnp.sum(solver(lambda v: A @ v + theta * v, B)[0] ** 2)


def exact(theta):
    return jnp.sum(jnp.linalg.solve(A + jnp.diag(theta), B) ** 2)


@pytest.mark.parametrize(
    "solver", [tk.linear.Dense(), tk.linear.Neumann(80)], ids=["dense", "neumann"]
)
def test_both_modes(solver):
    found = jax.jit(jax.grad(solved(solver)))(THETA)
    np.testing.assert_allclose(found, jax.grad(exact)(THETA), rtol=1e-6)


@pytest.mark.parametrize("name", ["CG", "GMRES", "BiCGStab"])
def test_a_loop_by_the_residual_has_forward_mode_alone(name):
    value = solved(getattr(tk.linear, name)(10, 1e-12))
    found = jax.jit(lambda t: jax.jvp(value, (t,), (B,))[1])(THETA)
    np.testing.assert_allclose(found, jax.grad(exact)(THETA) @ B, rtol=1e-6)
    with pytest.raises(TypeError, match=rf"tk.linear.{name} has no reverse mode .*tk.linear.Dense"):
        jax.grad(value)(THETA)


def test_a_solver_in_a_loop_of_plain_python():
    """Its counters are no integers of the user's: nothing is refused on their account."""

    @tk.control_flow
    def total(thetas):
        sum_ = 0.0
        for theta in thetas:
            sum_ = sum_ + solved(tk.linear.CG(10, 1e-12))(theta)
        return sum_

    np.testing.assert_allclose(jax.jit(total)(THETA[None]), exact(THETA), rtol=1e-9)


def test_hoag_says_that_it_has_no_reverse_mode():
    loss = lambda y, theta, _: jnp.sum((A @ y - B) ** 2) + jnp.sum(jnp.exp(theta) * y**2)
    init, step = tk.bilevel.HOAG(0.01, 0.1)(tk.bilevel.Problem(loss, loss, A, A))
    after = lambda theta: jnp.sum(step(init(jax.random.key(0), B, theta))[0].theta)
    with pytest.raises(TypeError, match="HOAG has no reverse mode"):
        jax.grad(after)(THETA)
