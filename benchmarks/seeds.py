"""Sixteen seeds of an experiment together, as `seeds: 16` runs them, against the same steps of sixteen single runs.

A process each, and they take turns. Steps only: what a run is besides (import, compiling, rows and files) would
come once instead of sixteen times, and flatter the ratio. Wall time, because cores are what is gained; so the machine
must be idle. CPU time stands beside it: where it is more than wall time, other cores have worked.
"""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run.store import environment

SEEDS = 16
SECONDS = 1.0  # of a turn, about
EXPERIMENT = '''"""A perceptron with one hidden layer, momentum, all of the data in every step."""

import jax
import jax.numpy as jnp
import optax

from toolkit import run


class Config(run.Settings):
    examples: int
    width: int


def build(config):
    images, labels = jax.random.split(jax.random.key(0))
    X = jax.random.normal(images, (config.examples, 64))
    Y = jax.random.randint(labels, (config.examples,), 0, 10)
    optimizer = optax.sgd(0.05, momentum=0.9)

    def init(key):
        first, second = jax.random.split(key)
        w1 = jax.random.normal(first, (64, config.width)) / 8
        w2 = jax.random.normal(second, (config.width, 10)) / config.width**0.5
        return {"w": (w1, w2), "optimizer": optimizer.init((w1, w2))}

    def loss(w):
        logits = jnp.tanh(X @ w[0]) @ w[1]
        return jnp.mean(optax.softmax_cross_entropy_with_integer_labels(logits, Y))

    def step(state):
        value, gradient = jax.value_and_grad(loss)(state["w"])
        updates, optimizer_state = optimizer.update(gradient, state["optimizer"])
        w = optax.apply_updates(state["w"], updates)
        return {"w": w, "optimizer": optimizer_state}, {"loss": value}

    return run.Program(init, step, lambda state: run.Final({"w": state["w"]}, {}))
'''
COMMON = "steps: 1000\nlog_every: 100\ncheckpoint_every: 1000\n"
SMALL = f"experiment: perceptron\nexamples: 32\nwidth: 16\n{COMMON}"
MIDDLE = f"experiment: perceptron\nexamples: 1000\nwidth: 128\n{COMMON}"
TINY = (Path(__file__).parents[1] / "configs/tiny.yaml").read_text()
CASES = {
    "perceptron 64-16-10, 32 examples": SMALL,
    "perceptron 64-128-10, 1,000 examples": MIDDLE,
    "hyper-cleaning (configs/tiny.yaml)": TINY,
}


HOWS = ("one by one", "one by one on one core", "together", "vmap")


class Turn(NamedTuple):
    """What some steps took, a step of a seed."""

    wall: float
    cpu: float


def table(turns: int) -> str:
    """Markdown: a row a case and way. Wall time decides, so the machine must be idle."""
    lines = [
        f"| {SEEDS} seeds | how | ms a step of a seed | speed-up | quartiles | CPU ms |",
        "|---|---|---:|---:|---:|---:|",
    ]
    for case in CASES:
        took = race(case, turns)
        for how in HOWS:
            ratios = [a.wall / b.wall for a, b in zip(took[HOWS[0]], took[how], strict=True)]
            low, middle, high = statistics.quantiles(ratios, n=4, method="inclusive")
            wall, cpu = (1e3 * statistics.median(t[i] for t in took[how]) for i in (0, 1))
            ratio = f"{middle:.2f} | {low:.2f} to {high:.2f}"
            lines.append(f"| {case} | {how} | {wall:.3g} | {ratio} | {cpu:.3g} |")
    return "\n".join(lines)


def race(case: str, turns: int) -> dict[str, list[Turn]]:
    """By way, turn by turn: forth and back."""
    words = [sys.executable, "-m", "benchmarks.seeds", case]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    processes = {how: subprocess.Popen([*words, how], text=True, **pipes) for how in HOWS}  # type: ignore[call-overload]
    for process in processes.values():
        process.stdout.readline()  # it is ready
    took: dict[str, list[Turn]] = {how: [] for how in HOWS}
    for turn in range(turns):
        for how in HOWS if turn % 2 == 0 else HOWS[::-1]:
            print(file=processes[how].stdin, flush=True)
            took[how].append(Turn(*json.loads(processes[how].stdout.readline())))
    for process in processes.values():
        process.communicate()
    return took


def contestant(case: str, how: str) -> None:
    """A line of times for each line of stdin."""
    from toolkit.run.program import seeds as together

    if how == "vmap":
        together.on_cores = lambda: False
    alone = how in HOWS[:2]
    if how == HOWS[1]:
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    with _place():
        compiled = _compiled(CASES[case], 1 if alone else SEEDS)
        state = compiled.init()
    repeats = SEEDS if alone else 1
    began = time.perf_counter()
    state = _steps(compiled, state, 10)
    count = max(1, round(10 * SECONDS / repeats / (time.perf_counter() - began)))
    print("ready", flush=True)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(repeats):
            state = _steps(compiled, state, count)
        took = Turn(time.perf_counter() - wall, time.process_time() - cpu)
        print(json.dumps([seconds / SEEDS / count for seconds in took]), flush=True)


@contextlib.contextmanager
def _place() -> Iterator[None]:
    """A working directory that has the experiments."""
    environment.pin_threads()
    digits = Path(__file__).parents[1] / "experiments/hyperclean_digits.py"
    with tempfile.TemporaryDirectory() as name, contextlib.chdir(name):
        os.mkdir("experiments")
        Path("experiments/perceptron.py").write_text(EXPERIMENT)
        Path("experiments/hyperclean_digits.py").write_text(digits.read_text())
        yield


def _compiled(case: str, seeds: int) -> Any:
    from toolkit.run.drive import prepare
    from toolkit.run.experiment import load
    from toolkit.run.program.seeds_on_cores import compile_program

    Path("case.yaml").write_text(case)
    prepared = prepare.prepare(load.load(Path("case.yaml"), [f"seeds={seeds}"]))
    return compile_program(prepared.traced, prepared.loaded.experiment)


def _steps(compiled: Any, state: Any, count: int) -> Any:
    import jax
    import numpy as np

    while count:
        every = min(count, compiled.most or count)
        state, values, *_ = compiled.advance(state, np.int32(1), np.int32(every))
        count -= every
        jax.block_until_ready(values)
    return jax.block_until_ready(state)


if __name__ == "__main__":
    contestant(*sys.argv[1:])
