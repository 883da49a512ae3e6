"""Contestants run in turn, A B C C B A, each in its own process on one core; ratios are paired by turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SLOT_SECONDS = 0.4  # of CPU, about, that a contestant runs in one turn


class Row(NamedTuple):
    """What is known of a contestant after a race."""

    name: str
    missing: str = ""  # why it did not run
    seconds: float = 0.0  # CPU, of a call, median
    ratio: float = 0.0  # to the contestant it is compared with, median over turns
    spread: tuple[float, float] = (0.0, 0.0)  # quartiles of that ratio
    compile_ratio: float = 0.0
    temporary_bytes: int = 0
    bytes_ratio: float = 0.0
    error: float | None = None  # relative, of the gradient, to float64


class _Process:
    def __init__(self, suite: str, name: str, core: int, *flags: str):
        words = [sys.executable, "-m", "benchmarks.contestant", suite, name, str(core), *flags]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.ready = self._answer()

    def seconds(self, repeats: int) -> float:
        assert self._process.stdin is not None
        print(repeats, file=self._process.stdin, flush=True)
        return self._answer()["seconds"]

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        _, trace = self._process.communicate()
        return {"missing": (trace.strip().splitlines() or ["ended without a word"])[-1]}

    def end(self) -> None:
        self._process.communicate()


def race(suite: str, entries: Mapping[str, Any], exact: str, core: int, rounds: int) -> list[Row]:
    """A row a contestant, in their order. Preparing is sequential: compiling is measured, too."""
    truth = None
    if exact:
        process = _Process(suite, exact, core, "--exact")
        truth = process.ready.get("gradient")
        process.end()
    processes = {name: _Process(suite, name, core) for name in entries}
    ready = {name: process.ready for name, process in processes.items()}
    running = [name for name in entries if "missing" not in ready[name]]
    times = _times({name: processes[name] for name in running}, rounds)
    for process in processes.values():
        process.end()
    return [
        _row(name, entries[name].against, ready, times, truth)
        if name in times
        else Row(name, ready[name]["missing"])
        for name in entries
    ]


def _times(processes: Mapping[str, _Process], rounds: int) -> dict[str, list[float]]:
    """CPU seconds of a call by turn; there are two turns a round, forth and back."""
    repeats = {
        name: max(1, round(SLOT_SECONDS / max(process.seconds(1), 1e-6)))
        for name, process in processes.items()
    }
    times: dict[str, list[float]] = {name: [] for name in processes}
    forth = list(processes)
    for order in [forth, forth[::-1]] * rounds:
        for name in order:
            times[name].append(processes[name].seconds(repeats[name]))
    return times


def _row(
    name: str,
    against: str,
    ready: Mapping[str, dict[str, Any]],
    times: Mapping[str, Sequence[float]],
    truth: Sequence[float] | None,
) -> Row:
    own, other = ready[name], ready[against]
    ratios = [a / b for a, b in zip(times[name], times[against], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(
        name,
        "",
        statistics.median(times[name]),
        statistics.median(ratios),
        (low, high),
        own["compile_seconds"] / other["compile_seconds"],
        own["temporary_bytes"],
        own["temporary_bytes"] / max(other["temporary_bytes"], 1),
        None if truth is None else _relative_error(own["gradient"], truth),
    )


def _relative_error(found: Sequence[float], truth: Sequence[float]) -> float | None:
    if len(found) != len(truth):  # the solve alone has no gradient
        return None
    square = lambda values: sum(value * value for value in values) ** 0.5
    return square([a - b for a, b in zip(found, truth, strict=True)]) / square(truth)
