"""What the runner adds to steps: rows, checkpoints, signals and the watch for NaN, against one bare `lax.scan`.

    python -m benchmarks.runner            about a minute

Both make the same steps and report the same metrics; they take turns, and the ratio is the median over turns.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from toolkit.run.store import environment

TURNS = 5
EVERY = (100, 10, 1)  # steps a row
SIZES = ((32, 4, 50_000), (88, 4, 8_000), (180, 4, 1_000))  # width, products, steps
EXPERIMENT = '''"""Products of small matrices."""

import jax
import jax.numpy as jnp

from toolkit import run


class Config(run.Settings):
    width: int
    products: int


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
CONFIG = """\
experiment: bench
width: {width}
products: {products}
steps: {steps}
log_every: {log_every}
checkpoint_every: {half}
"""
Clock = Callable[[], float]


class Measured(NamedTuple):
    """A kind of step, with a row each `log_every`."""

    log_every: int
    step: float  # seconds of a bare one
    ratio: float  # of a run to the bare scan of its steps
    spread: tuple[float, float]  # quartiles


def measured(clock: Clock) -> list[Measured]:
    """Every size and logging interval. Changes the working directory for the time."""
    found = []
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.mkdir("experiments")
        Path("experiments/bench.py").write_text(EXPERIMENT)
        for (width, products, steps), log_every in itertools.product(SIZES, EVERY):
            words = {"width": width, "products": products, "steps": steps, "half": steps // 2}
            Path("bench.yaml").write_text(CONFIG.format(log_every=log_every, **words))
            bare, driven = programs(Path(name), steps, clock)
            pairs = [(bare(), driven()) for _ in range(TURNS)]
            ratios = [run / scan for scan, run in pairs]
            low, middle, high = statistics.quantiles(ratios, n=4)
            step = statistics.median(scan for scan, _ in pairs) / steps
            found.append(Measured(log_every, step, middle, (low, high)))
    return found


def programs(folder: Path, steps: int, clock: Clock) -> tuple[Clock, Clock]:
    """Functions that make all steps and tell how long it took: in a bare scan, and in a run of a new directory."""
    import jax

    from toolkit.run.drive import prepare, run_loop
    from toolkit.run.drive.signals import StopRequest
    from toolkit.run.experiment import load
    from toolkit.run.program import finite
    from toolkit.run.program.budget import Pace
    from toolkit.run.program.seeds_on_cores import compile_program
    from toolkit.run.store import birth, directory
    from toolkit.run.store.metrics import EMPTY

    prepared = prepare.prepare(load.load(Path("bench.yaml"), []))
    compiled = compile_program(prepared.traced, prepared.loaded.experiment)
    program = prepared.traced.program
    step = lambda state: program.step(state, program.data)
    scan = jax.jit(
        lambda state: jax.lax.scan(lambda state, _: step(state), state, length=steps),
        donate_argnums=0,
    )
    jax.block_until_ready(scan(compiled.init()))

    def bare() -> float:
        state = jax.block_until_ready(compiled.init())
        began = clock()
        jax.block_until_ready(scan(state))
        return clock() - began

    def driven() -> float:
        place = birth.create(folder / f"run-{time.monotonic_ns()}", "", {})
        state = compiled.init()
        job = run_loop.Job(
            prepared.settings, place, compiled, finite.watch(state, finite.held(state)),
            prepared.loaded.experiment, "", False, StopRequest(),
            Pace(steps, None, time.perf_counter()), lambda *_: None,
        )  # fmt: skip
        with directory.held(place):
            began = clock()
            run_loop.drive(job, run_loop.RunPosition(0, state, 0.0, EMPTY))
            return clock() - began

    driven()  # warm, too
    return bare, driven


def main(core: str = "") -> None:
    """Prints a row a size and logging interval, as JSON: CPU time of one core, or by the clock on all."""
    if core:
        os.sched_setaffinity(0, {int(core)})
    environment.pin_threads()
    for row in measured(time.process_time if core else time.perf_counter):
        print(json.dumps(row._asdict()), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
