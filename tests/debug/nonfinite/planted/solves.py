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
    "custom_linear_solve": Bug(linear_solve, (jnp.ones(2),), "div"),
    "with a print": Bug(printing, (0.0,), "log"),
}
