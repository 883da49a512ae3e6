"""Runs suites and prints a table each.

    python -m benchmarks                       every suite, a few minutes each
    python -m benchmarks p1 --against jaxopt   one, with only this peer beside our own contestants
    python -m benchmarks --write               also puts the tables into benchmarks/RESULTS.md

Peers are optional: `pip install -r benchmarks/peers-jax.txt`. One that is missing is listed as such.
"""

from __future__ import annotations

import argparse
import datetime
import os
import platform
import re
from collections.abc import Sequence
from importlib import import_module
from importlib.metadata import version
from pathlib import Path

from benchmarks.contest import Suite
from benchmarks.race import Row, race

FOLDER = Path(__file__).parent
OURS = ("hand", "limit", "toolkit")  # the first word of contestants that are no peer


def main() -> None:
    """The command line."""
    known = sorted(path.stem for path in (FOLDER / "suites").glob("[a-z]*.py"))
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__.split("\n")[0]
    )
    parser.add_argument("suites", nargs="*", metavar="SUITE", help=f"of {', '.join(known)}")
    parser.add_argument("--against", nargs="*", metavar="PEER", help="default: every peer")
    parser.add_argument("--rounds", type=int, default=8, help="two turns each (default: 8)")
    parser.add_argument("--core", type=int, default=max(os.sched_getaffinity(0)))
    parser.add_argument("--write", action="store_true", help="into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    if unknown := set(arguments.suites) - set(known):
        parser.error(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    for name in arguments.suites or known:
        module = import_module(f"benchmarks.suites.{name}")
        if hasattr(module, "tables"):  # it measures something else than contestants of one problem
            text = module.tables(arguments)
        else:
            chosen = _chosen(module.SUITE, arguments.against)
            text = table(name, module.SUITE, chosen, arguments)
        print(text, flush=True)
        if arguments.write:
            _write(name, text)


def table(
    name: str, suite: Suite, entries: dict[str, object], arguments: argparse.Namespace
) -> str:
    """Markdown of one race."""
    rows = race(name, entries, suite.exact, arguments.core, arguments.rounds)
    head = (
        "| contestant | time / reference | quartiles | CPU ms | compile / reference | temporary MB | "
        "bytes / reference | error |\n|---|---:|---:|---:|---:|---:|---:|---:|"
    )
    lines = "\n".join(map(_line, rows))
    return f"## {suite.title}\n\n{suite.says}\n\n{_machine()}\n\n{head}\n{lines}\n"


def _chosen(suite: Suite, against: Sequence[str] | None) -> dict[str, object]:
    return {
        name: entry
        for name, entry in suite.entries.items()
        if name.split()[0] in OURS or against is None or name.split()[0] in against
    }


def _line(row: Row) -> str:
    if row.missing:
        return f"| {row.name} | not measured: {row.missing} | | | | | | |"
    low, high = row.spread
    error = "" if row.error is None else f"{row.error:.0e}"
    return (
        f"| {row.name} | {row.ratio:.2f} | {low:.2f} to {high:.2f} | {1e3 * row.seconds:.3g} | "
        f"{row.compile_ratio:.2f} | {row.temporary_bytes / 1e6:.3g} | {row.bytes_ratio:.3g} | {error} |"
    )


def _machine() -> str:
    today = datetime.date.today().isoformat()
    cpu = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"{today}, one core of {cpu}, Python {platform.python_version()}, jax {version('jax')}; CPU time, medians of "
        "paired turns; reference: the contestant that the row's own is compared with, `hand` unless it says otherwise."
    )


def _write(name: str, text: str) -> None:
    """Replaces the suite's section of RESULTS.md, between its marks, or appends one."""
    path = FOLDER / "RESULTS.md"
    begin, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    section = f"{begin}\n{text}{end}\n"
    old = path.read_text()
    pattern = re.compile(f"{begin}.*?{end}\n", re.DOTALL)
    new = pattern.sub(lambda _: section, old) if begin in old else f"{old.rstrip()}\n\n{section}"
    path.write_text(new)


if __name__ == "__main__":
    main()
