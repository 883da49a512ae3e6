"""Contestants run in turn, A B C C B A, each in its own process on one core; ratios are paired by turn."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

SLOT_SECONDS = 0.4  # of CPU, about, that a contestant runs in one turn
WRONG = 0.01  # relative error of a gradient that is another one: rounding makes less, here


class Row(NamedTuple):
    """What is known of a contestant after a race; None: not known, or no such thing."""

    name: str
    missing: str = ""  # why its time is not told
    seconds: float = 0.0  # CPU, of a call, median
    ratio: float = 0.0  # to the contestant it is compared with, median over turns
    spread: tuple[float, float] = (0.0, 0.0)  # quartiles of that ratio
    compile_ratio: float | None = None
    temporary_bytes: int | None = None
    bytes_ratio: float | None = None
    error: float | None = None  # relative, of the gradient, to float64


class Process:
    """A contestant that waits to be timed; `ready` is what it said of itself."""

    def __init__(self, suite: str, name: str, core: int, *flags: str):
        words = [sys.executable, "-m", "benchmarks.contestant", suite, name, str(core), *flags]
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        self.ready = self._answer()

    def seconds(self, repeats: int) -> float:
        """CPU seconds of a call, over so many of them."""
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
        """Lets the process go."""
        self._process.communicate()


def race(suite: str, entries: Mapping[str, Any], exact: str, core: int, rounds: int) -> list[Row]:
    """A row a contestant, in their order. Preparing is sequential: compiling is measured, too."""
    truth = None
    if exact:
        process = Process(suite, exact, core, "--exact")
        truth = process.ready.get("gradient")
        process.end()
    processes = {name: Process(suite, name, core) for name in entries}
    ready = {name: process.ready for name, process in processes.items()}
    reasons = {name: _why_not(answer, truth) for name, answer in ready.items()}
    running = [name for name in entries if not reasons[name]]
    times = times_in_turn({name: processes[name] for name in running}, rounds)
    for process in processes.values():
        process.end()
    return [
        _row(name, entries[name].against, ready, times, truth)
        if name in times
        else Row(name, reasons[name])
        for name in entries
    ]


def times_in_turn(processes: Mapping[str, Process], rounds: int) -> dict[str, list[float]]:
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
    ratio = lambda field: _ratio(own[field], other[field])
    ratios = [a / b for a, b in zip(times[name], times[against], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return Row(
        name,
        "",
        statistics.median(times[name]),
        statistics.median(ratios),
        (low, high),
        ratio("compile_seconds"),
        own["temporary_bytes"],
        ratio("temporary_bytes"),
        _relative_error(own["gradient"], truth),
    )


def _ratio(own: float | None, other: float | None) -> float | None:
    return own / other if own is not None and other else None


def _why_not(ready: Mapping[str, Any], truth: Sequence[float] | None) -> str:
    """The time of another gradient would be no comparison."""
    if "missing" in ready:
        return ready["missing"]
    error = _relative_error(ready["gradient"], truth)
    wrong = error is not None and not error < WRONG  # so is NaN
    return f"its gradient is {error:.0%} wrong" if wrong else ""


def _relative_error(found: Sequence[float], truth: Sequence[float] | None) -> float | None:
    if truth is None or len(found) != len(truth):  # the solve alone has no gradient
        return None
    square = lambda values: sum(value * value for value in values) ** 0.5
    return square([a - b for a, b in zip(found, truth, strict=True)]) / square(truth)
