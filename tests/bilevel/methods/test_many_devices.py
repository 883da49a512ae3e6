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
