"""Two processes over loopback, two devices each: every process hands in the whole tree, and has the whole result."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, sys
os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
import jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[1]}", 2, int(sys.argv[2]), initialization_timeout=120)
jax.config.update("jax_enable_x64", True)
import jax.numpy as jnp, numpy as np
import toolkit as tk

mesh = tk.devices.mesh()
assert mesh.shape["data"] == 4 and jax.local_device_count() == 2
x, keys = np.random.default_rng(0).normal(size=(7, 3)), jax.random.split(jax.random.key(0), 7)
theta = jax.device_put(jnp.ones(3), jax.local_devices()[1])  # kept on a device of this process

def values(theta, x, keys):
    return jnp.tanh(x @ theta) + jax.vmap(jax.random.normal)(keys)

rows = tk.devices.split({"x": x, "z": jnp.asarray(x), "keys": keys}, mesh)
gradient = jax.grad(lambda theta, rows: rows.mean(values(theta, rows.tree["x"], rows.tree["keys"]) ** 2))
many = tk.devices.data_parallel(gradient, mesh)(theta, rows)
one = jax.grad(lambda theta: jnp.mean(values(theta, x, keys) ** 2))(theta)
np.testing.assert_allclose(np.asarray(many), np.asarray(one), rtol=1e-12)
state = tk.devices.replicated({"theta": theta, "step": 3, "key": keys[0]}, mesh)
assert all(leaf.sharding.is_fully_replicated for leaf in state.values())
mean = tk.devices.data_parallel(lambda theta, x: theta + x.mean(), mesh)(state["theta"], np.ones((8, 3)))
assert np.asarray(mean).tolist() == [2, 2, 2]
assert np.asarray(rows.unpad(rows.tree["z"])).tolist() == x.tolist()
print("done")
"""


def test_two_processes_have_the_numbers_of_one() -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        port = str(held.getsockname()[1])
    both = [
        subprocess.Popen(
            [sys.executable, "-c", PROGRAM, port, str(process)],
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    try:
        for one in both:
            out, error = one.communicate(timeout=300)
            assert one.returncode == 0 and out.endswith("done\n"), error[-2000:]
    finally:
        for one in both:
            one.kill()
