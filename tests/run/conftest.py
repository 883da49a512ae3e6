"""A small experiment in a working directory of its own, and ways to run the command line on it."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from toolkit.commands import cli
from toolkit.run.drive.signals import HANDLED
from toolkit.run.experiment import load, plain_yaml
from toolkit.run.report import claims
from toolkit.run.store import arrays, directory, environment

ROOT = Path(__file__).parents[2]

EXPERIMENT = '''"""A toy: noisy descent to a vector of ones."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp

import toolkit as tk
from toolkit import run

LIMIT = 100.0


class Config(run.Settings):
    rate: float = 0.1
    width: int = 4
    adjoint: tk.adjoint.Adjoint = tk.adjoint.Implicit()
    solver: tk.solver.Solver | None = None
    sizes: tuple[int, ...] = (1, 2)
    label: str = "plain"
    nan_at: int = -1
    broken: bool = False


class State(NamedTuple):
    key: jax.Array
    w: jax.Array
    half: jax.Array
    count: jax.Array


def build(config):
    def init(key):
        key, start = jax.random.split(key)
        w = jax.random.normal(start, (config.width,))
        return State(key, w, jnp.zeros((2,), jnp.bfloat16), 0)

    def step(state):
        key, noise = jax.random.split(state.key)
        gradient = 2 * (state.w - 1) + 0.1 * jax.random.normal(noise, state.w.shape)
        w = state.w - config.rate * gradient
        loss = jnp.where(state.count + 1 == config.nan_at, jnp.nan, jnp.sum((w - 1) ** 2))
        return State(key, w, state.half + 1, state.count + 1), {"loss": loss, "norm": jnp.linalg.norm(w)}

    def finish(state):
        params = {"dense": {"w": state.w, "half": state.half}, "key": state.key}
        return run.Final(params, {"error": jnp.sum((state.w - 1) ** 2), "count": state.count}, (("error", "small"),))

    return run.Program(init, step, finish)


def figures(config, params, metrics, rows):
    def draw(figure):
        axes = figure.subplots()
        axes.bar(range(config.width), params["dense"]["w"])
        axes.set_title("<img src=x>")

    def broken(figure):
        raise ValueError("no <b>data</b>")

    whole = run.Figure("<script>alert(1)</script>", "a & b", draw, wide=True)
    return (whole, run.Figure("Broken", "", broken)) if config.broken else (whole,)
'''

CONFIG = """\
# a comment
experiment: toy
steps: 20
log_every: 2
checkpoint_every: 5
adjoint:
  kind: implicit
  damping: 1e-3
"""


@pytest.fixture(scope="session", autouse=True)
def signals_reach_children():
    """Signals that this process ignores, as one in the background or under `nohup` does, end the runs that it starts.

    A child inherits that a signal is ignored. It does not inherit a handler, so one that does nothing is as good here.
    """
    for number in HANDLED:
        if signal.getsignal(number) == signal.SIG_IGN:
            signal.signal(number, lambda *_: None)


@pytest.fixture
def work(tmp_path, monkeypatch):
    """A working directory with experiments/toy.py and toy.yaml, made the current one."""
    monkeypatch.chdir(tmp_path)
    for name in ("NPROC", "OPENBLAS_NUM_THREADS"):
        monkeypatch.setenv(
            name, "1"
        )  # `run` sets them where they are not set; a test leaves no trace
    (tmp_path / "experiments").mkdir()
    (tmp_path / "experiments/toy.py").write_text(EXPERIMENT)
    (tmp_path / "toy.yaml").write_text(CONFIG)
    return tmp_path


@pytest.fixture
def toolkit(work, capsys):
    """Runs a command in this process: words -> (exit code, lines of stdout, lines of stderr)."""

    def command(*words):
        capsys.readouterr()
        code = cli.main(list(map(str, words)))
        out, err = capsys.readouterr()
        return code, out.splitlines(), err.splitlines()

    return command


def spawn(*words, **options):
    """Starts a command in a process of its own."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "MPLBACKEND": "svg"}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    command = [sys.executable, "-m", "toolkit", *map(str, words)]
    return subprocess.Popen(command, env=environment, **pipes, **options)


def rows(folder):
    """The rows of metrics.jsonl without their times."""
    lines = (Path(folder) / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def outcome(folder):
    """What two equal runs have in common."""
    folder = Path(folder)
    metrics = json.loads((folder / "final/metrics.json").read_text())
    metrics.pop("seconds")
    kept = sorted(
        entry.name for entry in (folder / "checkpoints").iterdir() if entry.name.isdigit()
    )
    states = [(folder / "checkpoints" / name / "state.safetensors").read_bytes() for name in kept]
    return rows(folder), metrics, (folder / "final/params.safetensors").read_bytes(), kept, states


def pretend(words, metrics=None):
    """What `toolkit run` leaves on disk that others look at, in 20 ms: (exit code, last line); fails at `nan_at=4`."""
    given, out = words[1:-2], Path(words[-1])
    loaded = load.load(Path(given[0]), given[1:])
    code = environment.sources(loaded.experiment)
    record = {"status": "running", "environment": code, "command": shlex.join(["toolkit", *words])}
    if not directory.is_run(out):
        (out / "checkpoints").mkdir(parents=True)
        (out / "metrics.jsonl").touch()
        (out / "config.yaml").write_text(plain_yaml.dump(loaded.resolved))
        (out / "run.json").write_text(json.dumps(record))
    if loaded.resolved["nan_at"] == 4:
        return 6, f"error: {out}: step 4: loss not finite, got nan, expected finite metrics"
    metrics = metrics or {"error": loaded.resolved["rate"], "count": loaded.resolved["steps"]}
    metrics = {"seconds": 0.1, **metrics}
    params, _ = arrays.encode({"dense": {"w": np.ones(4, np.float32)}})
    (out / "final").mkdir(exist_ok=True)
    (out / "final/params.safetensors").write_bytes(params)
    (out / "final/metrics.json").write_text(json.dumps(metrics))
    (out / "run.json").write_text(json.dumps({**record, "status": "finished"}))
    missed = any(not v.holds for v in claims.judge(loaded.settings.claims, metrics))
    return 8 if missed else 0, ""
