"""What a person sees while a run goes on: a bar in a terminal or a notebook, at most twenty lines in a log."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from html import escape
from typing import TYPE_CHECKING

from toolkit.run.experiment.output import say
from toolkit.run.experiment.words import duration, number

if TYPE_CHECKING:
    from toolkit.run.program.budget import Pace
    from toolkit.run.store.directory import RunDirectory
    from toolkit.run.store.observed import Observed

LINES = 20  # of a whole run, in a log
SHOWN = 4  # metrics in a line
SETTLED = 0.2  # seconds after the first row before a forecast; the first calls are slower
REDRAWN = 0.05  # at least so many seconds between two states of the bar
REDRAWN_BY_BROWSER = 0.2  # likewise in a notebook, to which each state is sent

Show = Callable[[int, dict[str, float], float], None]  # (step, metrics, the row's seconds)


@contextlib.contextmanager
def progress(start: int, steps: int) -> Iterator[Show]:
    """Gives the function to call with each logged row."""
    if in_notebook():
        with _notebook_bar(start, steps) as show:
            yield show
    elif sys.stdout is not None and sys.stdout.isatty():
        with _bar(start, steps) as show:
            yield show
    else:
        yield _lines(start, steps)


def in_notebook() -> bool:
    """Whether a notebook shows what this process prints."""
    shell = getattr(sys.modules.get("IPython"), "get_ipython", lambda: None)()
    return hasattr(shell, "kernel")  # a shell in a terminal has none


def forecast(place: RunDirectory | Observed, pace: Pace, start: int, show: Show) -> Show:
    """`show`, which also tells once, `SETTLED` seconds after the first row, how long the run will take."""
    first: tuple[int, float] | None = None
    told = False

    def telling(step: int, metrics: dict[str, float], seconds: float) -> None:
        nonlocal first, told
        show(step, metrics, seconds)
        if first is None:
            first = step, seconds
        elif not told and seconds - first[1] >= SETTLED:
            told = True
            _tell(place, pace, first, (step, seconds))

    return telling


def _tell(
    place: RunDirectory | Observed, pace: Pace, first: tuple[int, float], second: tuple[int, float]
) -> None:
    (a, before), (b, now) = first, second
    # Counted from the first row, because the time before it also went into compiling.
    each = (now - before) / (b - a)
    total = now + each * (pace.steps - b) + pace.reserve
    text = f"forecast: {pace.steps} steps in about {duration(total)}"
    fields = {"steps": pace.steps, "seconds": round(total, 1)}
    if pace.budget is not None and total > pace.budget:
        reached = b + int(max(pace.budget - pace.reserve - now, 0.0) / each)
        text += f", the budget of {duration(pace.budget)} at about step {reached}"
        fields["budget_ends_at"] = reached
    say(text)
    place.event("forecast", **fields)


def _lines(start: int, steps: int) -> Show:
    began = time.perf_counter()
    each = max(1, -(-(steps - start) // LINES))
    printed = start

    def show(step: int, metrics: dict[str, float], _seconds: float) -> None:
        nonlocal printed
        if (step - start) // each == (printed - start) // each and step < steps:
            return
        printed = step
        spent = time.perf_counter() - began
        left = spent / (step - start) * (steps - step)
        say(f"step {step}/{steps}  {_values(metrics)}  {duration(spent)}, {duration(left)} left")

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

        drawn = 0.0

        def show(step: int, metrics: dict[str, float], _seconds: float) -> None:
            nonlocal drawn
            now = time.perf_counter()
            if now - drawn < REDRAWN and step < steps:
                return
            drawn = now
            with contextlib.suppress(OSError):  # the terminal is gone
                display.update(task, completed=step, description=_values(metrics))

        yield show


@contextlib.contextmanager
def _notebook_bar(start: int, steps: int) -> Iterator[Show]:
    from IPython.display import display

    began, drawn = time.perf_counter(), 0.0
    last: tuple[int, str] = (start, "compiling")

    def bundle() -> dict[str, str]:
        step, said = last
        words = f"{step}/{steps}  {said}"
        bar = f'<progress value="{step}" max="{steps}" style="width: 16em"></progress>'
        return {"text/plain": words, "text/html": f"<div>{bar} {escape(words)}</div>"}

    handle = display(bundle(), raw=True, display_id=True)

    def show(step: int, metrics: dict[str, float], _seconds: float) -> None:
        nonlocal drawn, last
        now = time.perf_counter()
        spent = now - began
        left = spent / (step - start) * (steps - step)
        last = step, f"{_values(metrics)}  {duration(spent)}, {duration(left)} left"
        if now - drawn >= REDRAWN_BY_BROWSER:
            drawn = now
            handle.update(bundle(), raw=True)

    try:
        yield show
    finally:
        handle.update(bundle(), raw=True)


def _values(metrics: dict[str, float]) -> str:
    """The first few metrics, losses first; all of them are in metrics.jsonl."""
    names = sorted(metrics, key=lambda name: "loss" not in name)[:SHOWN]
    return "  ".join(f"{name} {number(metrics[name])}" for name in names)
