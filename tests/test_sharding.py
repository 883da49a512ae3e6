"""Solves on several devices: a process of its own, since their number is fixed before jax starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=4"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import toolkit as tk
from toolkit.adjoint import *
from toolkit.linear import CG
jax.config.update("jax_enable_x64", True)

mesh = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Auto,))
x, z = jax.random.normal(jax.random.key(0), (4, 20, 3)), jax.random.normal(jax.random.key(1), (4, 20))
theta, weight = jnp.array([0.1, 0.2, 0.3]), jnp.arange(1.0, 4.0)

def gradient(theta, x, z, adjoint, tol=None):
    def value(theta):
        fun = lambda y, t: 0.5 * jnp.mean((x @ y - z) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * y**2)
        solver = tk.solver.GradientDescent(0.3, 300, 0.3, tol)
        # The start is the same on all devices, the data is not.
        return weight @ tk.argmin(fun, solver, adjoint=adjoint)(jnp.zeros(3), theta).value
    return jax.grad(value)(theta)

def exact(x, z):
    def value(t):
        return weight @ jnp.linalg.solve(x.T @ x / 20 + jnp.diag(jnp.exp(t)), x.T @ z / 20)
    return jax.grad(value)(theta)

expected = jax.vmap(exact)(x, z)
"""
EACH_ITS_OWN = """
for adjoint in (Implicit(CG(30, 1e-13)), Unroll(), Unroll("sqrt"), Unroll(forward_mode=True), Truncated(200)):
    for tol in (None, 1e-13):
        def local(theta, x, z):
            theta = jax.lax.pcast(theta, "d", to="varying")  # else JAX sums over the devices
            return gradient(theta, x[0], z[0], adjoint, tol)[None]
        mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"))
        np.testing.assert_allclose(jax.jit(mapped)(theta, x, z), expected, rtol=1e-6, err_msg=str(adjoint))
"""
UNCHECKED_AND_PMAP = """
for adjoint in (Implicit(), Unroll()):
    local = lambda theta, x, z: gradient(theta, x[0], z[0], adjoint)[None]
    mapped = jax.shard_map(
        local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"), check_vma=False
    )
    np.testing.assert_allclose(jax.jit(mapped)(theta, x, z), expected, rtol=1e-6)
    by_pmap = jax.pmap(lambda x, z: gradient(theta, x, z, adjoint))(x, z)
    np.testing.assert_allclose(by_pmap, expected, rtol=1e-6)
"""
SHARDED_DATA = """
rows = NamedSharding(mesh, P("d"))
xs, zs = jax.device_put(x.reshape(80, 3), rows), jax.device_put(z.reshape(80), rows)
for adjoint in (Implicit(CG(30, 1e-13)), Unroll()):
    one = gradient(theta, x.reshape(80, 3), z.reshape(80), adjoint)
    many = jax.jit(lambda t, x, z: gradient(t, x, z, adjoint))(theta, xs, zs)
    np.testing.assert_allclose(many, one, rtol=1e-9)
"""
BOUNDED_LOOPS = """
def looped(x, w, policy):
    body = lambda c: (jnp.sin(c[0]) * w + 0.1 * c[0] ** 2, c[1] + 1)
    return tk.while_loop(lambda c: (c[0] > 0.2) & (c[1] < 5), body, (x, 0), 5, policy)[0]

def scanned(x, w, policy):
    body = lambda c: (jnp.sin(c[0]) * w + 0.1 * c[0] ** 2, c[1] + 1)
    step = lambda c, _: (jax.lax.cond(c[0] > 0.2, body, lambda c: c, c), None)
    return jax.lax.scan(step, (x, 0), None, 5)[0][0]

def total(run, w, policy):
    # The devices make different numbers of steps.
    one = lambda x, w: run(x[0], jax.lax.pcast(w, "d", to="varying"), policy)[None]
    mapped = jax.shard_map(one, mesh=mesh, in_specs=(P("d"), P()), out_specs=P("d"))
    return jnp.sum(mapped(jnp.array([0.1, 0.4, 0.8, 1.2]), w) ** 2)

for policy in (tk.control.store(), tk.control.checkpoint(2), tk.control.forward()):
    both = [jax.jit(jax.grad(lambda w: total(run, w, policy)))(0.8) for run in (looped, scanned)]
    np.testing.assert_allclose(*both, rtol=1e-9, err_msg=str(policy))
for mode in (jax.jacfwd, jax.grad):
    both = [jax.jit(mode(jax.grad(lambda w: total(run, w, tk.control.store()))))(0.8) for run in (looped, scanned)]
    np.testing.assert_allclose(*both, rtol=1e-9, err_msg=str(mode))
"""
PARTS = {
    "each_its_own": EACH_ITS_OWN,
    "unchecked_and_pmap": UNCHECKED_AND_PMAP,
    "sharded_data": SHARDED_DATA,
    "bounded_loops": BOUNDED_LOOPS,
}


@pytest.mark.parametrize("part", PARTS.values(), ids=PARTS)
def test_on_four_devices(part: str) -> None:
    command = [sys.executable, "-c", PROGRAM + part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
