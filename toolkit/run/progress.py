"""What a person sees while a run goes on: a bar in a terminal, at most twenty lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator

LINES = 20  # of a whole run, in a log
SHOWN = 4  # metrics in a line

Show = Callable[[int, dict[str, float]], None]  # (step, metrics)


@contextlib.contextmanager
def progress(start: int, steps: int) -> Iterator[Show]:
    """Gives the function to call with each logged row."""
    if sys.stdout.isatty():
        with _bar(start, steps) as show:
            yield show
    else:
        yield _lines(start, steps)


def duration(seconds: float) -> str:
    """`3.2 s`, `4 min 10 s`, `2 h 5 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def number(value: float) -> str:
    """Four significant digits; whole numbers whole."""
    return str(value) if isinstance(value, int) else f"{value:.4g}"


def table(rows: tuple[tuple[str, str], ...]) -> str:
    """Rows (name, value) in two aligned columns."""
    width = max((len(name) for name, _ in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {value}" for name, value in rows)


def _lines(start: int, steps: int) -> Show:
    began = time.perf_counter()
    each = max(1, -(-(steps - start) // LINES))
    printed = start

    def show(step: int, metrics: dict[str, float]) -> None:
        nonlocal printed
        if (step - start) // each == (printed - start) // each and step < steps:
            return
        printed = step
        spent = time.perf_counter() - began
        left = spent / (step - start) * (steps - step)
        print(
            f"step {step}/{steps}  {_values(metrics)}  {duration(spent)}, {duration(left)} left",
            flush=True,
        )

    return show


@contextlib.contextmanager
def _bar(start: int, steps: int) -> Iterator[Show]:
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeRemainingColumn,
    )

    columns = (
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.description}"),
    )
    with Progress(*columns) as display:
        task = display.add_task("compiling", total=steps, completed=start)
        yield lambda step, metrics: display.update(
            task, completed=step, description=_values(metrics)
        )


def _values(metrics: dict[str, float]) -> str:
    """The first few metrics, losses first; all of them are in metrics.jsonl."""
    names = sorted(metrics, key=lambda name: "loss" not in name)[:SHOWN]
    return "  ".join(f"{name} {number(metrics[name])}" for name in names)
