"""`python -m benchmarks moving`: every program with ours and with theirs, in turn, and a JSON list of what it took."""

from __future__ import annotations

import argparse
import json
import os
import statistics
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.moving.programs import OURS, PEERS, PROGRAMS, WHAT
from benchmarks.race import Process, times_in_turn

FIGURES = (
    "seconds", "peer_seconds", "ratio", "ratio_low", "ratio_high", "compile_ratio", "difference",
)  # fmt: skip


def start(words: Sequence[str]) -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks moving")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the list is written")
    parser.add_argument("--rounds", type=int, default=8, help="two turns each (default: 8)")
    parser.add_argument("--programs", nargs="*", metavar="NAME", help="these alone; default: all")
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    arguments = parser.parse_args(words)
    if arguments.rounds < 1:
        parser.error(f"--rounds must be at least 1: got {arguments.rounds}")
    chosen = list(PROGRAMS) if arguments.programs is None else arguments.programs
    if unknown := set(chosen) - set(PROGRAMS):
        parser.error(f"no {', '.join(sorted(unknown))}; there are {', '.join(PROGRAMS)}")
    found = []
    for program in chosen:
        for what in WHAT:
            rows = compared(program, what, arguments.core, arguments.rounds)
            print(*map(_line, rows), sep="\n", flush=True)
            found += rows
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    if arguments.write:
        results.write("moving", table(found))
    return 0


def table(rows: Sequence[dict[str, Any]]) -> str:
    """Markdown of what was measured."""
    head = (
        "| program | | peer | time / peer | quartiles | ms | compile / peer | difference |\n"
        "|---|---|---|---:|---:|---:|---:|---:|"
    )
    lines = "\n".join(map(_cells, rows))
    says = "Programs of jaxopt's and optimistix's users, in float32: the solution, and the gradient of its squared norm"
    reference = "the peer of the row"
    return f"## Moving here\n\n{says}\n\n{results.machine(reference)}\n\n{head}\n{lines}\n"


def _cells(row: dict[str, Any]) -> str:
    head = f"| {row['program']} | {row['what']} | {row['peer']} |"
    if row["reason"] is not None:
        return f"{head} {row['reason']} | | | | |"
    return (
        f"{head} {row['ratio']:.2f} | {row['ratio_low']:.2f} to {row['ratio_high']:.2f} | "
        f"{1e3 * row['seconds']:.3g} | {row['compile_ratio']:.2f} | {row['difference']:.0e} |"
    )


def compared(program: str, what: str, core: int, rounds: int) -> list[dict[str, Any]]:
    """A row a peer; its figures are None where there is a reason."""
    # One after the other: compiling is measured, too.
    processes = {name: Process(f"moving:{program}-{what}", name, core) for name in (OURS, *PEERS)}
    ready = {name: process.ready for name, process in processes.items()}
    there = {name: process for name, process in processes.items() if "missing" not in ready[name]}
    times = times_in_turn(there, rounds) if OURS in there and len(there) > 1 else {}
    for process in processes.values():
        process.end()
    return [_row(program, what, peer, ready, times) for peer in PEERS]


def _row(
    program: str, what: str, peer: str, ready: dict[str, Any], times: dict[str, list[float]]
) -> dict[str, Any]:
    row = {"program": program, "what": what, "peer": peer, "peer_version": _version(peer)}
    if peer not in times:
        reason = ready[OURS].get("missing") or ready[peer]["missing"]
        return row | dict.fromkeys(FIGURES) | {"reason": reason}
    ours, theirs = ready[OURS], ready[peer]
    ratios = [a / b for a, b in zip(times[OURS], times[peer], strict=True)]
    low, _, high = statistics.quantiles(ratios, n=4)
    return row | {
        "seconds": statistics.median(times[OURS]),
        "peer_seconds": statistics.median(times[peer]),
        "ratio": statistics.median(ratios),
        "ratio_low": low,
        "ratio_high": high,
        "compile_ratio": ours["compile_seconds"] / theirs["compile_seconds"],
        "difference": difference(ours["gradient"], theirs["gradient"]),
        "reason": None,
    }


def difference(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """2-norm of the difference, relative to theirs."""
    norm = lambda values: sum(value * value for value in values) ** 0.5
    return norm([a - b for a, b in zip(ours, theirs, strict=True)]) / norm(theirs)


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _line(row: dict[str, Any]) -> str:
    head = f"{row['program']:14}{row['what']:10}{row['peer']:12}"
    if row["reason"] is not None:
        return f"{head}{row['reason']}"
    return (
        f"{head}time {row['ratio']:.2f} ({row['ratio_low']:.2f} to {row['ratio_high']:.2f}) of {row['peer']}'s "
        f"{1e3 * row['peer_seconds']:.3g} ms, compile {row['compile_ratio']:.2f}, differs by {row['difference']:.0e}"
    )
