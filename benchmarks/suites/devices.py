"""The device that is there: P1, P2, gradients of the learning rules and steps of bilevel methods, by wall clock.

python -m benchmarks devices           a few minutes; on JAX's first device, whatever it is
"""

from __future__ import annotations

import argparse
import datetime
import importlib
import platform
import statistics
import time
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from typing import Any

import jax

import toolkit as tk
from benchmarks import bilevel
from benchmarks.contest import Entry, Ready

RACES = ("p1_unrolled", "p1_implicit", "p2_unrolled", "p2_implicit", "credit_gradients")
PEERS = ("jaxopt", "optimistix", "higher", "torchopt", "betty", "fabricpc")  # measured elsewhere
SLOT_SECONDS = 0.2  # that a contestant runs in one turn
STEPS = 100  # of a bilevel method, in one call


def tables(arguments: argparse.Namespace) -> str:
    """Markdown of the races; `--rounds` of two turns each."""
    device = jax.devices()[0]
    where = (
        f"{datetime.date.today().isoformat()}, {jax.default_backend()}: {jax.device_count()} x {device.device_kind}, "
        f"Python {platform.python_version()}, jax {version('jax')}; wall time of a call on the first of them, medians "
        f"of paired turns in one process; of a bilevel method {STEPS} steps."
    )
    parts = [f"## Devices\n\n{where}\n"]
    for title, entries in _races():
        parts.append(f"### {title}\n\n{_table(entries, arguments.rounds)}")
    return "\n".join(parts)


def _races() -> Iterator[tuple[str, Mapping[str, Entry]]]:
    for name in RACES:
        suite = importlib.import_module(f"benchmarks.suites.{name}").SUITE
        own = {n: e for n, e in suite.entries.items() if n.split()[0].rstrip(",") not in PEERS}
        yield suite.title, own
    for title, problem in bilevel.instances().items():
        yield f"Bilevel steps: {title}", _bilevel(problem)


def _bilevel(problem: tk.problems.Instance) -> dict[str, Entry]:
    """Many steps as one call."""
    double = {"inner_steps": bilevel.INNER, "linear_steps": bilevel.PRODUCTS}
    rates = (bilevel.A, bilevel.C, bilevel.BATCH)
    methods = {"SOBA": tk.bilevel.SOBA(*rates), "StocBiO": tk.bilevel.StocBiO(*rates, **double)}
    made = {
        "SOBA by hand": bilevel.handwritten_soba,
        "SOBA": lambda p: bilevel.ours(methods["SOBA"], p),
        "StocBiO by hand": bilevel.handwritten_stocbio,
        "StocBiO": lambda p: bilevel.ours(methods["StocBiO"], p),
    }

    def entry(name: str) -> Entry:
        def build() -> Any:
            state, step = made[name](problem)
            return lambda s: jax.lax.fori_loop(0, STEPS, lambda _, s: step(s), s), (state,)

        return Entry(build, against=f"{name.removesuffix(' by hand')} by hand")

    return {name: entry(name) for name in made}


def _table(entries: Mapping[str, Entry], rounds: int) -> str:
    ready = {name: entry.prepare(entry.build) for name, entry in entries.items()}
    times = _times(ready, rounds)
    head = "| contestant | time / reference | quartiles | ms | temporary MB |\n|---|---:|---:|---:|---:|"
    lines = [head]
    for name, entry in entries.items():
        ratios = [a / b for a, b in zip(times[name], times[entry.against], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        held = ready[name].temporary_bytes
        memory = "" if held is None else f"{held / 1e6:.3g}"
        ms = 1e3 * statistics.median(times[name])
        lines.append(f"| {name} | {middle:.2f} | {low:.2f} to {high:.2f} | {ms:.3g} | {memory} |")
    return "\n".join(lines) + "\n"


def _times(ready: Mapping[str, Ready], rounds: int) -> dict[str, list[float]]:
    """Seconds of a call by turn, in the order A B C C B A."""
    repeats = {name: max(1, round(SLOT_SECONDS / _seconds(one, 1))) for name, one in ready.items()}
    times: dict[str, list[float]] = {name: [] for name in ready}
    forth = list(ready)
    for order in [forth, forth[::-1]] * rounds:
        for name in order:
            times[name].append(_seconds(ready[name], repeats[name]))
    return times


def _seconds(ready: Ready, repeats: int) -> float:
    began = time.perf_counter()
    for _ in range(repeats):
        ready.call()
    return max((time.perf_counter() - began) / repeats, 1e-9)
