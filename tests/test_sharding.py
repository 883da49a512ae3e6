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
import jax, jax.numpy as jnp, numpy as np, optax
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import toolkit as tk
from toolkit.adjoint import *
from toolkit.linear import *
from toolkit.solver import LBFGS, GradientDescent, Newton, Optax, ProximalGradient
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

def exact_value(x, z, t):
    return weight @ jnp.linalg.solve(x.T @ x / len(x) + jnp.diag(jnp.exp(t)), x.T @ z / len(x))

def exact(x, z):
    return jax.grad(lambda t: exact_value(x, z, t))(theta)

expected = jax.vmap(exact)(x, z)
"""
LINEAR_SOLVERS = """
by_solver = [Implicit(), *map(Implicit, (
    Dense(), GMRES(30, 1e-13), BiCGStab(30, 1e-13), Neumann(300), Nystrom(3, 1e-8)))]
for adjoint in (*by_solver, Forward(), Reversible(), Nudged(0.05)):
    def local(theta, x, z):
        return gradient(jax.lax.pcast(theta, "d", to="varying"), x[0], z[0], adjoint)[None]
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"))
    np.testing.assert_allclose(jax.jit(mapped)(theta, x, z), expected, rtol=1e-6, err_msg=str(adjoint))

def second(theta, x, z):  # a derivative of the solve in its system, forwards and backwards
    along = lambda t: jnp.vdot(gradient(t, x, z, Implicit()), weight)
    _, forwards = jax.jvp(lambda t: gradient(t, x, z, Implicit()), (theta,), (weight,))
    return jax.grad(along)(theta), forwards
both = jax.shard_map(
    lambda t, x, z: jax.tree.map(lambda a: a[None], second(jax.lax.pcast(t, "d", to="varying"), x[0], z[0])),
    mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"))
hessian = jax.vmap(lambda x, z: jax.hessian(lambda t: exact_value(x, z, t))(theta))(x, z)
for one in jax.jit(both)(theta, x, z):
    np.testing.assert_allclose(one, hessian @ weight, rtol=1e-6)
"""
SOLVERS = """
values = jax.vmap(lambda x, z: exact_value(x, z, theta))(x, z)
for solver in (LBFGS(50, 1e-9), Newton(10, 1e-10), Optax(optax.adam(0.1), 900, 1e-9)):
    def local(theta, x, z):
        fun = lambda y, t: 0.5 * jnp.mean((x[0] @ y - z[0]) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * y**2)
        return weight @ tk.argmin(fun, solver)(jnp.zeros(3), theta).value[None].T
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"))
    np.testing.assert_allclose(jax.jit(mapped)(theta, x, z), values, rtol=1e-6, err_msg=str(solver))
"""
AVERAGED = """
everything = x.reshape(80, 3), z.reshape(80)
whole = jax.grad(lambda t: exact_value(*everything, t))(theta)
def averaged(x, z):
    return lambda y, t: jax.lax.pmean(0.5 * jnp.mean((x @ y - z) ** 2), "d") + 0.5 * jnp.sum(jnp.exp(t) * y**2)

solver = GradientDescent(0.3, 300, 0.3)
for adjoint in (Implicit(), Implicit(CG(30, 1e-13)), Implicit(BiCGStab(30, 1e-13)), Unroll(),
                Forward(), Reversible(), Nudged(0.05)):
    def local(theta, x, z):
        solve = tk.argmin(averaged(x[0], z[0]), solver, adjoint=adjoint)
        return jax.grad(lambda t: weight @ solve(jnp.zeros(3), t).value)(theta)
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P())
    try:
        found = jax.jit(mapped)(theta, x, z)
    except ValueError as error:  # the one that an older release cannot have
        assert isinstance(adjoint, Reversible) and jax.__version__ < "0.12" and "jax 0.12" in str(error)
        continue
    np.testing.assert_allclose(found, whole, rtol=1e-6, err_msg=str(adjoint))

def newton(theta, x, z):
    return tk.argmin(averaged(x[0], z[0]), Newton(10, 1e-10))(jnp.zeros(3), theta).value @ weight
mapped = jax.shard_map(newton, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P())
np.testing.assert_allclose(jax.jit(mapped)(theta, x, z), exact_value(*everything, theta), rtol=1e-6)

def refused(fun, name, rule=Implicit(), **checks):
    local = lambda t, x, z: tk.argmin(fun(x[0], z[0]), solver, adjoint=rule)(jnp.zeros(3), t).value[None]
    mapped = jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P("d"), **checks)
    try:
        jax.jit(mapped)(theta, x, z)
    except ValueError as error:
        assert name in str(error), error
    else:
        raise AssertionError("not refused")

def by_gmres(theta, x, z):
    solve = tk.argmin(averaged(x[0], z[0]), solver, adjoint=Implicit(GMRES(30, 1e-13)))
    return jax.grad(lambda t: weight @ solve(jnp.zeros(3), t).value)(theta)
try:
    jax.jit(jax.shard_map(by_gmres, mesh=mesh, in_specs=(P(), P("d"), P("d")), out_specs=P()))(theta, x, z)
except ValueError as error:
    assert "BiCGStab" in str(error), error
else:
    raise AssertionError("not refused")
refused(averaged, "check_vma", check_vma=False)
# The penalty differs between devices, and y with it; the gradient of the mean is no longer y's own.
own = lambda x, z: lambda y, t: averaged(x, z)(y, t) + 1e-3 * jnp.sum(x) * jnp.sum(y**2)
refused(own, "the same on all devices")
try:
    jax.pmap(lambda x, z: tk.argmin(averaged(x, z), solver)(jnp.zeros(3), theta).value, axis_name="d")(x, z)
except ValueError as error:
    assert "check_vma" in str(error)
else:
    raise AssertionError("not refused")
"""
HYPERGRADIENT = """
held_out = jax.random.normal(jax.random.key(2), (4, 5, 3))
def outer(v, y, t):
    return 0.5 * jnp.mean((v @ y - 1) ** 2) + 0.1 * jnp.sum(t**2)

def solution(x, z, t):
    return jnp.linalg.solve(x.T @ x / len(x) + jnp.diag(jnp.exp(t)), x.T @ z / len(x))

def alone(t):
    return jnp.mean(jax.vmap(lambda x, z, v: outer(v, solution(x, z, t), t))(x, z, held_out))

def together(t):
    return outer(held_out.reshape(20, 3), solution(x.reshape(80, 3), z.reshape(80), t), t)

def own(x, z):
    return lambda y, t: 0.5 * jnp.mean((x @ y - z) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * y**2)

def averaged(x, z):
    return lambda y, t: jax.lax.pmean(own(x, z)(y, t), "d")

solver = GradientDescent(0.3, 300, 0.3)
for adjoint in (Implicit(), Unroll(), Nudged(0.05)):
    for inner, exact_mean in ((own, alone), (averaged, together)):
        def local(theta, x, z, v):
            solve = tk.argmin(inner(x[0], z[0]), solver, adjoint=adjoint)
            hg = tk.hypergradient(lambda y, t: outer(v[0], y, t), solve)(jnp.zeros(3), theta)
            number = jax.lax.axis_index("d")  # the status may be the same on all devices, or not
            return jax.lax.pmean((hg.value, hg.gradient), "d"), (hg.report.status + 0 * number)[None]
        mapped = jax.shard_map(
            local, mesh=mesh, in_specs=(P(), P("d"), P("d"), P("d")), out_specs=(P(), P("d")))
        got, status = jax.jit(mapped)(theta, x, z, held_out)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), got, jax.value_and_grad(exact_mean)(theta))
        assert not np.any(status), (adjoint, status)
"""
EXPLICIT_AXES = """
explicit = jax.make_mesh((4,), ("d",), axis_types=(AxisType.Explicit,))
with jax.set_mesh(explicit):
    put = lambda a: jax.device_put(a, NamedSharding(explicit, P("d")))
    h, target, y0 = put(jnp.arange(1.0, 9.0) / 4), put(jnp.arange(1.0, 9.0)), put(jnp.zeros(8))
    fun = lambda y, t: jnp.sum(0.5 * h * (y["a"] - t) ** 2) + jnp.sum((y["b"] - 1) ** 2)
    start = {"a": y0, "b": jax.device_put(jnp.zeros(3), NamedSharding(explicit, P()))}
    descent, cg = GradientDescent(0.5, 100), Implicit(CG(30, 1e-13))
    pairs = [(descent, Implicit(s)) for s in (
        None, CG(30, 1e-13), GMRES(30, 1e-13), BiCGStab(30, 1e-13), Neumann(200), Nystrom(11, 1e-7))]
    pairs += [(LBFGS(60, 1e-10), cg), (Newton(6, 1e-10), cg), (descent, Unroll()), (descent, Forward()),
              (descent, Nudged(0.05)), (GradientDescent(0.5, 200, 0.1), Reversible())]
    for solver, adjoint in pairs:
        hg = tk.hypergradient(lambda y, t: jnp.sum(y["a"] ** 2), tk.argmin(fun, solver, adjoint=adjoint))
        got = jax.jit(hg)(start, target).gradient
        np.testing.assert_allclose(got, 2 * np.arange(1.0, 9.0), rtol=1e-5, err_msg=f"{solver} {adjoint}")
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
CREDIT_RULES = """
from tests.laws import test_credit_rules as laws
setting = laws.DENSE
rows = len(setting.batch[0]) // 4 * 4
batch = jax.tree.map(lambda leaf: leaf[:rows], setting.batch)
for name, row in laws.RULES.items():
    if not row.by_example:
        continue
    init, gradients = row.rule(setting.model, laws.half_squares)
    state = init(laws.KEY, setting.params, batch)
    wanted = jax.jit(gradients)(setting.params, state, batch, laws.KEY)[0]
    def local(params, batch):
        gradient, _, info = gradients(params, state, batch, laws.KEY)
        return jax.lax.pmean((gradient, info.loss), "d")
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=(P(), P("d")), out_specs=P()))
    laws.assert_close(mapped(setting.params, batch)[0], wanted, 1e-9)

# Training, one network a device, in a loop: the state keeps its type.
init, step = tk.credit.train(setting.model, laws.half_squares, tk.credit.DualPropagation(), optax.adam(1e-3))
def trained(batch):
    state = init(laws.KEY, setting.params, batch)
    state, info = jax.lax.scan(lambda s, _: step(s, batch, laws.KEY), state, length=3)
    return info.loss[None]
losses = jax.jit(jax.shard_map(trained, mesh=mesh, in_specs=P("d"), out_specs=P("d")))(batch)
assert losses.shape == (4, 3) and np.all(losses[:, 2] < losses[:, 0])
"""
BILEVEL = """
from tests.bilevel.methods import quadratic as q
B, two = tk.bilevel, jnp.stack
everything = jax.tree.map(lambda a: jnp.concatenate([a, 2 * a, 3 * a, 4 * a]), (q.INNER, q.OUTER))

def run(settings, inner, outer, data):
    init, step = settings(B.Problem(inner, outer, *data))
    state = init(jax.random.key(0), q.Y0, q.X0)
    return jax.lax.scan(lambda s, _: (step(s)[0], None), state, length=4)[0].theta

def averaged(loss):
    return lambda y, theta, batch: jax.lax.pmean(loss(y, theta, batch), "d")

for settings in (B.SOBA(0.1, 0.1), B.AmIGO(0.1, 0.1), B.StocBiO(0.1, 0.1)):
    expected = jax.jit(lambda data: run(settings, q.inner, q.outer, data))(everything)
    local = lambda data: run(settings, averaged(q.inner), averaged(q.outer), data)
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P()))
    np.testing.assert_allclose(mapped(everything), expected, rtol=1e-9, err_msg=str(settings))
for losses, checks, said in (
    ((averaged(q.inner), q.outer), {}, "the same on all devices"),
    ((averaged(q.inner), averaged(q.outer)), {"check_vma": False}, "check_vma"),
):
    local = lambda data: run(B.SOBA(0.1, 0.1), *losses, data)[None]
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d"), **checks))
    try:
        mapped(everything)
    except ValueError as error:
        assert said in str(error), error
    else:
        raise AssertionError("not refused")
"""
CLOSED_OVER = """
# Concrete arrays that `fun` closes over are constants of its program.
held, along = jnp.asarray(x[0]), np.asarray(z[0])
thetas = theta + 0.1 * jnp.arange(4.0)[:, None]
fun = lambda y, t: 0.5 * jnp.mean((held @ y - along) ** 2) + 0.5 * jnp.sum(jnp.exp(t) * y**2)
smooth = lambda y, t: 0.5 * jnp.mean((held @ y - along) ** 2)
ridge = lambda z, t, s: z / (1 + s * jnp.exp(t))  # here the penalty alone differs between devices
by = (tk.argmin(fun, GradientDescent(0.3, 300, 0.3)), tk.argmin(smooth, ProximalGradient(ridge, 0.3, 400, 1e-12)))
wanted = jax.vmap(jax.grad(lambda t: exact_value(held, along, t)))(thetas)
each = jax.vmap(jax.grad(lambda t: weight @ jnp.linalg.solve(jnp.eye(3) + jnp.diag(jnp.exp(t)), jnp.ones(3))))(thetas)
for solve in by:
    value = lambda t: weight @ solve(jnp.zeros(3), t).value
    local = jax.shard_map(lambda t: jax.grad(value)(t[0])[None], mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    np.testing.assert_allclose(jax.jit(local)(thetas), wanted, rtol=1e-6)
np.testing.assert_allclose(jax.pmap(jax.grad(lambda t: weight @ by[0](jnp.zeros(3), t).value))(thetas), wanted, rtol=1e-6)
for solver in (CG(9, 1e-13), GMRES(3, 1e-13), BiCGStab(9, 1e-13), Neumann(300), Nystrom(3, 1e-9), Dense()):
    own = lambda t: weight @ solver(lambda v: v + jnp.exp(t) * v, jnp.ones(3))[0]
    local = jax.shard_map(lambda t: jax.jacfwd(own)(t[0])[None], mesh=mesh, in_specs=P("d"), out_specs=P("d"))
    np.testing.assert_allclose(jax.jit(local)(thetas), each, rtol=1e-5, err_msg=str(solver))
"""
PARTS = {
    "closed_over": CLOSED_OVER,
    "each_its_own": EACH_ITS_OWN,
    "linear_solvers": LINEAR_SOLVERS,
    "solvers": SOLVERS,
    "averaged": AVERAGED,
    "hypergradient": HYPERGRADIENT,
    "explicit_axes": EXPLICIT_AXES,
    "bilevel": BILEVEL,
    "credit_rules": CREDIT_RULES,
    "unchecked_and_pmap": UNCHECKED_AND_PMAP,
    "sharded_data": SHARDED_DATA,
    "bounded_loops": BOUNDED_LOOPS,
}


LONG = ("explicit_axes", "solvers", "credit_rules", "hypergradient")


@pytest.mark.parametrize(
    "part",
    [
        pytest.param(part, id=name, marks=pytest.mark.slow if name in LONG else ())
        for name, part in PARTS.items()
    ],
)
def test_on_four_devices(part: str) -> None:
    command = [sys.executable, "-c", PROGRAM + part]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
