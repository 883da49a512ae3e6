"""P5: what is paid beside the mathematics: imports, the start of a command, a run's first step, and each step."""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

from benchmarks import runner

ROOT = Path(__file__).parents[2]
_EACH_NAME = "import toolkit; [getattr(toolkit, name) for name in toolkit.__all__]"
_COMMANDS = {  # name -> words for Python
    "`import jax`": ("-c", "import jax"),
    "`import jax, toolkit`": ("-c", "import jax, toolkit"),
    "`import jax`, then `toolkit.argmin`": ("-c", "import jax, toolkit; toolkit.argmin"),
    "`import jax`, then every public name": ("-c", f"import jax; {_EACH_NAME}"),
    "`toolkit --help`": ("-m", "toolkit", "--help"),
    "`toolkit list`": ("-m", "toolkit", "list"),
    "`toolkit run`, an error in the config": ("-m", "toolkit", "run", "configs/tiny.yaml", "step=1"),
}  # fmt: skip
# The parts of a start, each a program that does what the one before does, and more.
_START = """
import sys
from pathlib import Path
from toolkit.run.drive import prepare
from toolkit.run.experiment import load
from toolkit.run.store import environment
environment.pin_threads()
loaded = load.load(Path("configs/tiny.yaml"), [])
import jax, optax, toolkit.run.program.seeds_on_cores, toolkit.run.drive.run_loop
if sys.argv[1] == "imports": sys.exit()
prepared = prepare.prepare(loaded)
if sys.argv[1] == "trace": sys.exit()
compiled = toolkit.run.program.seeds_on_cores.compile_program(prepared.traced, loaded.experiment)
if sys.argv[1] == "compile": sys.exit()
import numpy
jax.block_until_ready(compiled.advance(compiled.init(), numpy.int32(1), numpy.int32(1)))
"""
_PARTS = ("imports", "trace", "compile", "step")
_SAYS = {
    "imports": "imports and the config",
    "trace": "building and tracing `init` and `step`",
    "compile": "compiling them",
    "step": "`init` and the first step",
}


def tables(arguments: argparse.Namespace) -> str:
    """Markdown: CPU seconds of commands, and ratios of runs to bare scans."""
    starts = {part: ("-c", _START, part) for part in _PARTS}
    found = _seconds({**_COMMANDS, **starts}, arguments.core, arguments.rounds)
    base = found["`import jax`"]
    commands = "\n".join(
        f"| {name} | {statistics.median(found[name]):.3f} | {_difference(found[name], base)} |"
        for name in _COMMANDS
    )
    before, parts = [0.0] * len(base), []
    for part in _PARTS:
        parts.append(f"| {_SAYS[part]} | {_difference(found[part], before)} |")
        before = found[part]
    parts.append(f"| together | {statistics.median(before):.2f} |")
    lines = "\n".join(parts)
    return f"""## P5 overheads: imports, commands, the first step, and each step of a run

CPU seconds of whole processes on one core, medians over {len(base)} turns; differences are paired by turn.

| process | CPU s | more than `import jax` |
|---|---:|---:|
{commands}

From the start of a process to the first step of `configs/tiny.yaml` (100 inner steps and CG in each), in CPU seconds:

| part | CPU s |
|---|---:|
{lines}

A logged, checkpointed run over one bare `jax.lax.scan` of the same steps; a row is checked for NaN and written, and a
checkpoint is made in the middle and at the end. Medians over {runner.TURNS} paired turns, quartiles in brackets.

| step | row every | CPU time, one core | clock, all cores |
|---:|---:|---:|---:|
{_steps(arguments.core)}
"""


def _seconds(
    commands: dict[str, tuple[str, ...]], core: int, rounds: int
) -> dict[str, list[float]]:
    """CPU seconds of each, by turn; a turn more is for the caches."""
    found: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name in list(commands) if turn % 2 else reversed(commands):
            found[name].append(_cpu(commands[name], core))
    return {name: times[1:] for name, times in found.items()}


def _cpu(words: tuple[str, ...], core: int) -> float:
    process = subprocess.Popen(
        ("taskset", "-c", str(core), sys.executable, *words), cwd=ROOT,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    _, _, usage = os.wait4(process.pid, 0)
    process.returncode = 0  # waited for above
    return usage.ru_utime + usage.ru_stime


def _difference(times: list[float], base: list[float]) -> str:
    return f"{statistics.median(a - b for a, b in zip(times, base, strict=True)):+.3f}"


def _steps(core: int) -> str:
    pinned, free = _runner(str(core)), _runner()
    return "\n".join(
        f"| {1e6 * one['step']:.0f} us | {one['log_every']} | {_ratio(one)} | {_ratio(all_)} |"
        for one, all_ in zip(pinned, free, strict=True)
    )


def _runner(*core: str) -> list[dict[str, float]]:
    words = [sys.executable, "-m", "benchmarks.runner", *core]
    done = subprocess.run(words, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def _ratio(row: dict) -> str:
    low, high = row["spread"]
    return f"{row['ratio']:.2f} ({low:.2f} to {high:.2f})"
