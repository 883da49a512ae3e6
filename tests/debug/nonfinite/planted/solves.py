"""Bugs inside solves, linear solves, and several devices."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import lax

import toolkit as tk
from tests.debug.nonfinite.planted.bug import Bug


def inner_objective(y, theta):
    far = jnp.sqrt(y + theta["shift"])  # here: inner objective
    return jnp.sum((y - 1.0) ** 2) + 0 * jnp.sum(far)


def hyper(adjoint):
    solve = tk.argmin(
        inner_objective, tk.solver.GradientDescent(step_size=0.25, num_steps=20), adjoint=adjoint
    )
    return lambda theta: jnp.sum(solve(jnp.zeros(2), theta).value)


def diverging(theta):
    solve = tk.argmin(
        lambda y, theta: jnp.sum(theta["rate"] * y**4),  # here: diverging inner problem
        tk.solver.GradientDescent(step_size=1.0, num_steps=50),
        adjoint=tk.adjoint.Unroll(),
    )
    return jnp.sum(solve(jnp.full(2, 3.0), theta).value)


def quartic(y, theta):
    return jnp.sum(theta["rate"] * y**4)  # here: diverging under the implicit rule


def implicit(tol):
    descent = tk.solver.GradientDescent(step_size=1.0, num_steps=50, tol=tol)
    solve = tk.argmin(quartic, descent, adjoint=tk.adjoint.Implicit())
    return lambda theta: jnp.sum(solve(jnp.full(2, 3.0), theta).value)


def told_by_a_flag(x):
    bad = ~jnp.isfinite(jnp.log(x))  # here: told by a flag
    return lax.cond(bad.any(), lambda x: jnp.full_like(x, jnp.nan), jnp.sin, x)


def linear_solve(b):
    def solve(matvec, b):
        return b / (matvec(b) - b)  # here: custom_linear_solve

    return lax.custom_linear_solve(lambda v: v, b, solve=solve, symmetric=True)


def over_devices(x):
    def local(x):
        return lax.psum(jnp.sum(jnp.log(x)), "device")  # here: shard_map

    mesh = jax.make_mesh((1,), ("device",), axis_types=(jax.sharding.AxisType.Auto,))
    sharded = jax.sharding.PartitionSpec("device")
    whole = jax.sharding.PartitionSpec()
    return jax.shard_map(local, mesh=mesh, in_specs=sharded, out_specs=whole)(x)


def printing(x):
    jax.debug.print("x = {x}", x=x)
    return jnp.log(x)  # here: with a print


BUGS = {
    "inner objective": Bug(
        hyper(tk.adjoint.Unroll()), ({"shift": jnp.array(-0.5)},), "sqrt", iterations=(("scan", 0),)
    ),
    "slope of the inner objective": Bug(
        hyper(tk.adjoint.Unroll()),
        ({"shift": jnp.array(0.0)},),
        "div",
        "derivative",
        (("scan", 0),),
        line="inner objective",
    ),
    "diverging inner problem": Bug(
        diverging, ({"rate": jnp.array(1.0)},), "pow", iterations=(("scan", 5),), says="overflows"
    ),
    # The rest of the solve is our own NaN, written where the residual overflowed.
    "diverging under the implicit rule": Bug(
        implicit(1e-6), ({"rate": jnp.array(1.0)},), "pow", iterations=(("while", 5),)
    ),
    "its gradient": Bug(
        jax.grad(implicit(1e-6)),
        ({"rate": jnp.array(1.0)},),
        "pow",
        iterations=(("while", 5),),
        line="diverging under the implicit rule",
    ),
    "told by a flag": Bug(told_by_a_flag, (-jnp.ones(2),), "log"),
    "custom_linear_solve": Bug(linear_solve, (jnp.ones(2),), "div"),
    "with a print": Bug(printing, (0.0,), "log"),
}
