"""A fast experiment whose rows tell the data's order, and ways to start, aim at and compare its runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.run.conftest import ROOT

STREAM = '''"""Least squares on shuffled batches: the metrics betray the order in which the data came."""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    rate: float = 0.05
    batch: int = 4
    pad: int = 0  # makes the state as large as a test needs


class State(NamedTuple):
    key: jax.Array
    w: jax.Array
    order: jax.Array
    position: jax.Array
    pad: jax.Array


def build(config):
    x = jax.random.normal(jax.random.key(1), (32, 8))
    y = x @ jnp.arange(8.0)

    def init(key):
        key, start, shuffle = jax.random.split(key, 3)
        return State(key, jax.random.normal(start, (8,)), jax.random.permutation(shuffle, 32), 0, jnp.zeros(config.pad))

    def step(state):
        key, shuffle = jax.random.split(state.key)
        wrapped = state.position + config.batch > 32
        order = jnp.where(wrapped, jax.random.permutation(shuffle, 32), state.order)
        position = jnp.where(wrapped, 0, state.position)
        batch = jax.lax.dynamic_slice(order, (position,), (config.batch,))
        loss, gradient = jax.value_and_grad(lambda w: jnp.mean((x[batch] @ w - y[batch]) ** 2))(state.w)
        metrics = {"loss": loss, "batch": jnp.sum(batch * 32 ** jnp.arange(config.batch))}
        return State(key, state.w - config.rate * gradient, order, position + config.batch, state.pad + 1), metrics

    def finish(state):
        return run.Final({"w": state.w, "order": state.order}, {"w0": state.w[0]})

    return run.Program(init, step, finish)
'''

RUNNER = """\
steps: 300
log_every: 1
checkpoint_every: 10
"""
CONFIG = f"experiment: stream\n{RUNNER}"
EVERY = 10


def full(size):
    """A size that takes minutes, run with `-m slow` only; a tuple is of several arguments."""
    values = size if isinstance(size, tuple) else (size,)
    return pytest.param(*values, marks=pytest.mark.slow)


def lay_out(folder):
    """experiments/stream.py and stream.yaml in `folder`."""
    (folder / "experiments").mkdir()
    (folder / "experiments/stream.py").write_text(STREAM)
    (folder / "stream.yaml").write_text(CONFIG)


def start(*words, **options):
    """A command in a process of its own, its output in pipes."""
    variables = options.pop("env", {})
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "svg", **variables}
    command = [*options.pop("before", ()), sys.executable, "-m", "toolkit", *map(str, words)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen(command, env=environment, **{**pipes, **options})


def finish(*words, seconds=300, **options):
    """(exit code, stdout, stderr) of a command in a process of its own; one that hangs fails the test."""
    process = start(*words, **options)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
    assert "Traceback" not in (err or ""), err
    return process.returncode, out, err


def wait_until(met, process, seconds=300.0):
    """Waits, without a pause that a save could slip through, until `met()` or the process has ended."""
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        for _ in range(50):
            if met():
                return True
    return False


def steps_logged(folder):
    """The last step in metrics.jsonl, 0 before the first row."""
    try:
        lines = (Path(folder) / "metrics.jsonl").read_bytes().split(b"\n")[:-1]
    except OSError:
        return 0
    return json.loads(lines[-1])["step"] if lines else 0


def lines(path):
    """The objects in a file of JSON lines."""
    return [json.loads(line) for line in Path(path).read_text().splitlines()]


def log(folder):
    """metrics.jsonl, each row without its time, as text: equal runs have equal texts."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    rows = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return "\n".join(map(json.dumps, rows))


def result(folder):
    """What two equal runs have in common, byte for byte."""
    folder = Path(folder)
    metrics = json.loads((folder / "final/metrics.json").read_text())
    metrics.pop("seconds")
    states = {
        entry.name: (entry / "state.safetensors").read_bytes()
        for entry in (folder / "checkpoints").iterdir()
        if entry.name.isdigit() and (entry / "state.safetensors").is_file()
    }
    return log(folder), metrics, (folder / "final/params.safetensors").read_bytes(), states


def temporaries(folder):
    return sorted(str(path) for path in Path(folder).rglob("*.tmp-*"))
