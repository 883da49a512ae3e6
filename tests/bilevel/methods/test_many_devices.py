"""Seeds and data spread over devices: a process of its own, since their number is fixed before jax starts."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
PROGRAM = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import toolkit as tk
from tests.bilevel.methods import quadratic as q
jax.config.update("jax_enable_x64", True)
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
seeds = jnp.arange(2)

def run(settings, seed, problem):
    init, step = settings(problem)
    state = init(jax.random.key(seed), q.Y0, q.X0)
    return jax.lax.scan(lambda s, _: (step(s)[0], None), state, length=4)[0].theta

B = tk.bilevel
METHODS = (B.SOBA(0.1, 0.1, 2), B.SABA(0.1, 0.1, 2), B.SRBA(0.1, 0.1, 1), B.SUSTAIN(0.1, 0.1, 1))
for settings in METHODS:
    expected = [jax.jit(lambda seed: run(settings, seed, q.problem()))(seed) for seed in seeds]
    # by sharding the seeds of a vmap
    many = jax.jit(jax.vmap(lambda seed: run(settings, seed, q.problem())))
    spread = jax.device_put(seeds, NamedSharding(mesh, P("d")))
    np.testing.assert_allclose(many(spread), expected, rtol=1e-9)
    # by hand: each device has its seed, all start from the same y0 and theta0
    local = lambda seed: run(settings, seed[0], q.problem())[None]
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    np.testing.assert_allclose(mapped(seeds), expected, rtol=1e-9)

# each device has data of its own, and one seed
data = {name: jnp.stack([a, 2 * a]) for name, a in q.INNER.items()}
for settings in METHODS:
    expected = [
        jax.jit(lambda d: run(settings, 0, q.problem(d)))({n: a[i] for n, a in data.items()})
        for i in range(2)
    ]
    local = lambda d: run(settings, 0, q.problem({n: a[0] for n, a in d.items()}))[None]
    mapped = jax.jit(jax.shard_map(local, mesh=mesh, in_specs=P("d"), out_specs=P("d")))
    np.testing.assert_allclose(mapped(data), expected, rtol=1e-9)
print("done")
"""


@pytest.mark.slow
def test_seeds_and_data_spread_over_devices() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "done", done.stderr


# Of data that the problem holds each device has all; of given ones its share, and the devices add up.
GIVEN = """
import os
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
import toolkit as tk
mesh = jax.make_mesh((2,), ("d",), axis_types=(AxisType.Auto,))
x = np.random.default_rng(0).normal(size=(4096, 8)).astype("float32")
spread = jax.device_put(x, NamedSharding(mesh, P("d")))
inner = lambda y, t, batch: jnp.mean((batch @ y - 1) ** 2) + jnp.exp(t) * jnp.sum(y**2)
outer = lambda y, t, batch: jnp.mean((batch @ y - 1) ** 2)
start = jax.random.key(0), jnp.zeros(8), jnp.zeros(())

def after(problem, *data):
    init, step = tk.bilevel.SOBA(0.1, 0.1)(problem)
    state = jax.jit(init)(*start, *data)
    state, _ = tk.bilevel.iterate(step, state, 3, data=data[0] if data else None)
    return state.theta, jax.jit(step).lower(state, *data).compile().as_text()

expected, _ = after(tk.bilevel.Problem(inner, outer, x, x))
_, held = after(tk.bilevel.Problem(inner, outer, spread, spread))
theta, text = after(tk.bilevel.Problem(inner, outer), (spread, spread))
np.testing.assert_allclose(theta, expected, rtol=1e-4)
assert "f32[4096,8]" in held and "all-reduce(" not in held
assert "f32[2048,8]" in text and "f32[4096,8]" not in text and "all-reduce(" in text
print("done")
"""


def test_given_data_are_shared_out() -> None:
    done = subprocess.run(
        [sys.executable, "-c", GIVEN], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "done", done.stderr
