"""What a person sees of a sweep: a line a finished run with the time left, and a table at the end."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from toolkit.run.experiment.errors import printable
from toolkit.run.experiment.words import duration, number
from toolkit.run.sweep.launch.command_line import Outcome
from toolkit.run.sweep.status import RunStatus

COLUMNS = 4  # metrics in the table; all of them are on the page of `toolkit report`
STATUS_LIMIT = 60  # characters of a status in the table; sweep.json and logs/ have the rest

Show = Callable[[Outcome, RunStatus], None]


def announce(target: Path, statuses: Mapping[str, RunStatus], missing: int, engine: str) -> None:
    """The first line: how much there is to do; and a warning where old results are of other code."""
    done = len(statuses) - missing
    finished = f", {done} of them finished before" if done else ""
    print(f"{len(statuses)} runs in {target}{finished}, by {engine}", flush=True)
    others = sum(status.other_code for status in statuses.values())
    if others:
        text = f"{target}: {others} finished runs were made by another version of the code, and are kept"
        print(f"warning: {text}; another --out repeats them", file=sys.stderr, flush=True)


@contextlib.contextmanager
def progress(count: int) -> Iterator[Show]:
    """Gives the function to call with each run that has ended."""
    began, done = time.monotonic(), 0

    def line(outcome: Outcome, status: RunStatus) -> str:
        nonlocal done
        done += 1
        left = (time.monotonic() - began) / done * (count - done)
        words = [
            f"[{done}/{count}]",
            outcome.name,
            status.words,
            _values(status),
            duration(outcome.seconds),
        ]
        rest = f", {duration(left)} left" if done < count else ""
        return printable("  ".join(filter(None, words)) + rest)

    if sys.stdout.isatty():
        with _bar(count) as show:
            yield lambda outcome, status: show(line(outcome, status))
    else:
        yield lambda outcome, status: print(line(outcome, status), flush=True)


@contextlib.contextmanager
def _bar(count: int) -> Iterator[Callable[[str], None]]:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    with Progress(
        BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), transient=True
    ) as display:
        task = display.add_task("", total=count)

        def show(text: str) -> None:
            display.console.print(text, markup=False, highlight=False, soft_wrap=True)
            display.advance(task)

        yield show


def table(statuses: Mapping[str, RunStatus]) -> str:
    """Runs, statuses and the metrics that matter, claimed ones first."""
    names = _shown_metrics(list(statuses.values()))
    rows = [["run", "status", *names]]
    for name, status in statuses.items():
        words = (
            status.words
            if len(status.words) <= STATUS_LIMIT
            else status.words[: STATUS_LIMIT - 1] + "…"
        )
        values = [_number(status.metrics.get(metric)) for metric in names]
        rows.append([name, printable(words), *values])
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        left = [cell.ljust(width) for cell, width in zip(row[:2], widths[:2], strict=True)]
        right = [cell.rjust(width) for cell, width in zip(row[2:], widths[2:], strict=True)]
        lines.append("  ".join(left + right).rstrip())
    return "\n".join(lines)


def _shown_metrics(statuses: Sequence[RunStatus]) -> list[str]:
    claimed = dict.fromkeys(name for status in statuses for name in status.claimed)
    others = dict.fromkeys(name for status in statuses for name in status.metrics)
    known = [name for name in {**claimed, **others} if name in others]
    return known[: max(COLUMNS, len(claimed))]


def _values(status: RunStatus) -> str:
    return "  ".join(
        f"{name} {_number(status.metrics.get(name))}" for name in _shown_metrics([status])[:2]
    )


def _number(value: float | None) -> str:
    return "-" if value is None else number(value)
