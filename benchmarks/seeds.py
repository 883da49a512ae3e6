"""Sixteen seeds of an experiment together, as `seeds: 16` runs them, against the same steps of sixteen single runs.

One process has both, and they take turns. Steps only: what a run is besides (import, compiling, rows and files) would
come once instead of sixteen times, and flatter the ratio. Wall time, because cores are what is gained; so the machine
must be idle. CPU time stands beside it: where it is more than wall time, other cores have worked.
"""

from __future__ import annotations

import contextlib
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run import environment

SEEDS = 16
SECONDS = 1.0  # of sequential steps in a turn, about
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


class Turn(NamedTuple):
    """What some steps took."""

    wall: float
    cpu: float


def measured(case: str, turns: int) -> tuple[list[Turn], list[Turn], int]:
    """(sequential, together, steps of a seed in a turn), turn by turn."""
    single, many = _compiled(case, 1), _compiled(case, SEEDS)
    first, all_ = single.init(), many.init()
    count = max(1, round(SECONDS / SEEDS / max(_timed(_steps, single, first, 3).wall / 3, 1e-6)))
    _steps(many, all_, 1)

    def sequential() -> None:
        for _ in range(SEEDS):
            _steps(single, first, count)

    pairs = []
    for turn in range(turns):
        both = [(0, sequential), (1, lambda: _steps(many, all_, count))]
        took = {i: _timed(run) for i, run in (both if turn % 2 == 0 else both[::-1])}
        pairs.append((took[0], took[1]))
    return [a for a, _ in pairs], [b for _, b in pairs], count


def table(turns: int) -> str:
    """Markdown: a row a case."""
    lines = [
        "| 16 seeds | one by one, ms a step | together | speed-up | quartiles | CPU one by one | CPU together |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    with _place():
        for name, case in CASES.items():
            alone, together, count = measured(case, turns)
            ratios = [a.wall / b.wall for a, b in zip(alone, together, strict=True)]
            low, _, high = statistics.quantiles(ratios, n=4, method="inclusive")
            times = [
                [getattr(t, kind) for t in side]
                for kind in ("wall", "cpu")
                for side in (alone, together)
            ]
            ms = [f"{1e3 * statistics.median(values) / count / SEEDS:.3g}" for values in times]
            ratio = f"{statistics.median(ratios):.2f} | {low:.2f} to {high:.2f}"
            lines.append(f"| {name} | {ms[0]} | {ms[1]} | {ratio} | {ms[2]} | {ms[3]} |")
    return "\n".join(lines)


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
    from toolkit.run import config, prepare
    from toolkit.run.compiled import compile_program

    Path("case.yaml").write_text(case)
    prepared = prepare.prepare(config.load(Path("case.yaml"), [f"seeds={seeds}"]))
    return compile_program(prepared.traced, prepared.loaded.experiment)


def _steps(compiled: Any, state: Any, count: int) -> None:
    import jax

    for _ in range(count):
        state, values, _ = compiled.step(state)
        jax.block_until_ready(values)
    jax.block_until_ready(state)


def _timed(run: Callable[..., None], *arguments: Any) -> Turn:
    wall, cpu = time.perf_counter(), time.process_time()
    run(*arguments)
    return Turn(time.perf_counter() - wall, time.process_time() - cpu)
