"""Runs suites and prints a table each.

    python -m benchmarks                       every suite, a few minutes each
    python -m benchmarks p1 --against jaxopt higher   suites p1_*, with these peers only
    python -m benchmarks --write               also puts the tables into benchmarks/RESULTS.md
    python -m benchmarks transforms [--check]  which function works under which transformation: docs/transforms.md
    python -m benchmarks moving [--json FILE]  programs of users of jaxopt and optimistix, with ours and with theirs

Peers are optional: benchmarks/peers-jax.txt, benchmarks/peers-torch.txt. One that is missing is listed as such.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from pathlib import Path

from benchmarks import results
from benchmarks.contest import Suite
from benchmarks.moving import __main__ as moving
from benchmarks.race import Row, race
from benchmarks.transforms import __main__ as transforms

FOLDER = Path(__file__).parent
OURS = {"hand", "limit", "toolkit"}  # the first word of contestants that are no peer


def main() -> None:
    """The command line."""
    if sys.argv[1:2] == ["moving"]:  # pairs of programs, not contestants of one problem
        sys.exit(moving.start(sys.argv[2:]))
    if sys.argv[1:2] == ["transforms"]:  # no suite of races: a table of what works
        sys.exit(transforms.start(sys.argv[2:]))
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
    for word in arguments.suites:
        if not any(map(_named(word), known)):
            parser.error(f"no suite {word}; there are {', '.join(known)}")
    words = arguments.suites or known
    modules = {
        name: import_module(f"benchmarks.suites.{name}")
        for name in known
        if any(_named(word)(name) for word in words)
    }
    # The others measure something else than contestants of one problem.
    suites = {
        name: module.SUITE for name, module in modules.items() if not hasattr(module, "tables")
    }
    peers = {peer for suite in suites.values() for peer in map(_first_word, suite.entries)} - OURS
    if unknown := set(arguments.against or ()) - peers:
        parser.error(
            f"no {', '.join(sorted(unknown))} in these suites; there are {', '.join(sorted(peers))}"
        )
    for name, module in modules.items():
        if name in suites:
            chosen = _chosen(suites[name], arguments.against)
            text = table(name, suites[name], chosen, arguments)
        else:
            text = module.tables(arguments)
        print(text, flush=True)
        if arguments.write:
            results.write(name, text)


def _named(word: str) -> Callable[[str], bool]:
    """Whether a suite is meant by a word: p1 means each whose name begins so."""
    return lambda name: name == word or name.startswith(f"{word}_")


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
    return f"## {suite.title}\n\n{suite.says}\n\n{results.machine()}\n\n{head}\n{lines}\n"


def _chosen(suite: Suite, against: Sequence[str] | None) -> dict[str, object]:
    return {
        name: entry
        for name, entry in suite.entries.items()
        if against is None or _first_word(name) in OURS.union(against)
    }


def _first_word(name: str) -> str:
    return name.split()[0].rstrip(",")


def _line(row: Row) -> str:
    if row.missing:
        return f"| {row.name} | not measured: {row.missing} | | | | | | |"
    low, high = row.spread
    megabytes = None if row.temporary_bytes is None else row.temporary_bytes / 1e6
    cells = (
        row.name,
        f"{row.ratio:.2f}",
        f"{low:.2f} to {high:.2f}",
        f"{1e3 * row.seconds:.3g}",
        _cell(row.compile_ratio, ".2f"),
        _cell(megabytes, ".3g"),
        _cell(row.bytes_ratio, ".3g"),
        _cell(row.error, ".0e"),
    )
    return f"| {' | '.join(cells)} |"


def _cell(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)


if __name__ == "__main__":
    main()
