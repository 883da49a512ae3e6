"""What the runner adds to a step: rows, checkpoints, signals and the watch for NaN, against the bare jitted loop.

    python benchmarks/runner.py            about a minute

A program of about a millisecond a step. Both loops call the same executable and wait for each step; they take turns,
and the ratio is the median over turns.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from toolkit.run import environment

STEPS, TURNS = 1000, 9
EXPERIMENT = '''"""About a millisecond a step."""

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    width: int = 180
    products: int = 4


def build(config):
    def init(key):
        return {"w": jax.random.normal(key, (config.width, config.width)) / config.width**0.5, "count": 0}

    def step(state):
        w = state["w"]
        for _ in range(config.products):
            w = jnp.tanh(w @ state["w"])
        return {"w": w, "count": state["count"] + 1}, {"loss": jnp.sum(w**2), "largest": jnp.max(w)}

    return run.Program(init, step, lambda state: run.Final({"w": state["w"]}, {"count": state["count"]}))
'''
CONFIG = "experiment: bench\nsteps: {steps}\nlog_every: {log_every}\ncheckpoint_every: 500\n"


def bare(compiled: Any, state: Any) -> float:
    """Seconds of the loop that everybody writes."""
    import jax

    began = time.perf_counter()
    for _ in range(STEPS):
        state, values, _ = compiled.step(state)
        jax.block_until_ready(values)
    return time.perf_counter() - began


def driven(folder: Path, log_every: int) -> tuple[Any, Any]:
    """A function that drives a whole run of a new directory, and the program that it drives."""
    from toolkit.run import config, directory, drive, finite, prepare, starting
    from toolkit.run.compiled import compile_program
    from toolkit.run.metrics import EMPTY
    from toolkit.run.pace import Pace
    from toolkit.run.signals import StopRequest

    path = folder / f"bench-{log_every}.yaml"
    path.write_text(CONFIG.format(steps=STEPS, log_every=log_every))
    prepared = prepare.prepare(config.load(path, []))
    compiled = compile_program(prepared.traced, prepared.loaded.experiment)
    numbers = iter(range(1000))

    def run() -> float:
        where = folder / f"run-{log_every}-{next(numbers)}"
        place = starting.create(where, path.read_text(), {})
        state = compiled.init()
        watch = finite.watch(state, finite.held(state))
        began = time.perf_counter()
        job = drive.Job(
            prepared.settings, place, compiled, watch, prepared.loaded.experiment, "", False,
            StopRequest(), Pace(STEPS, None, began), lambda *_: None,
        )  # fmt: skip
        with directory.held(place):
            drive.drive(job, drive.Position(0, state, 0.0, EMPTY))
        return time.perf_counter() - began

    return run, compiled


def main() -> None:
    """Prints a row a logging interval."""
    environment.pin_threads()
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.mkdir("experiments")
        Path("experiments/bench.py").write_text(EXPERIMENT)
        for log_every in (100, 10, 1):
            run, compiled = driven(Path(name), log_every)
            pairs = [(bare(compiled, compiled.init()), run()) for _ in range(TURNS)]
            step = 1e3 * statistics.median(a for a, _ in pairs) / STEPS
            ratio = statistics.median(b / a for a, b in pairs)
            print(f"log_every {log_every:4}  bare step {step:.3f} ms  runner / bare {ratio:.3f}")


if __name__ == "__main__":
    main()
