"""`report.html` and `README.md`, drawn from a run directory's files alone, so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit, RunError, fail
from toolkit.run.experiment.output import warn
from toolkit.run.report import seeds
from toolkit.run.report.story import Story, changed, figures, read
from toolkit.run.store import directory, files, sweeps


def command(paths: Sequence[Path], out: Path | None) -> int:
    """`toolkit report`: redraws one run's page and card, or draws several, or a sweep, side by side.

    Raises: RunError: exit 8 where the runs miss a claim over several seeds.
    """
    runs = list(dict.fromkeys(run for path in paths for run in runs_in(path)))
    if len(paths) > 1 or runs != list(paths):
        stories = _readable(runs)
        target = _several(stories, paths, out)
        _print([text for story in stories for text in changed(story)])
    elif out is not None:
        stories, target = [read(paths[0])], out
        files.write_file(target, _page(stories[0]).encode())
    else:
        stories, target = [read(paths[0])], paths[0] / directory.REPORT
        _print(write(paths[0]))
    print(target)
    seeds.tell(stories)
    return Exit.DONE


def runs_in(path: Path) -> list[Path]:
    """The run in a directory, or those of a sweep. Raises: RunError (exit 2) for anything else."""
    if not (path / sweeps.RECORD).is_file():
        return [directory.existing(path)]
    runs = sweeps.run_paths(path)
    if not runs:
        raise fail(
            Exit.CONFIG, path, "nothing to report", "a sweep without runs", "at least one run"
        )
    return runs


def _readable(runs: Sequence[Path]) -> list[Story]:
    """The stories of the runs; a damaged one is left out with a warning. Raises: RunError if all are."""
    stories: list[Story] = []
    errors: list[RunError] = []
    for run in runs:
        try:
            stories.append(read(run))
        except RunError as error:
            errors.append(error)
    _print([f"left out: {error}" for error in errors])
    if not stories:
        raise errors[0]
    return stories


def _several(stories: Sequence[Story], given: Sequence[Path], out: Path | None) -> Path:
    """Draws the page that compares runs; of a single sweep it lies in the sweep's directory."""
    from toolkit.run.report.comparison import comparison

    record = sweeps.read_record(given[0]) if len(given) == 1 else None
    target = out or (given[0] / directory.REPORT if record else Path("comparison.html"))
    command = str((record or {}).get("command", ""))
    absent = sweeps.not_started(given[0]) if record else 0
    text, warnings = comparison(stories, target.parent, command, absent)
    files.write_file(target, text.encode())
    _print(warnings)
    return target


def write(path: Path, record: dict[str, Any] | None = None) -> list[str]:
    """Draws `report.html` and `README.md` into the run directory; returns warnings."""
    from toolkit.run.report.card import card
    from toolkit.run.report.page import page

    story = read(path, record)
    drawn, warnings = figures(story)
    text, failures = page(story, drawn)
    files.write_file(path / directory.REPORT, text.encode())
    files.write_file(path / directory.CARD, card(story).encode())
    return changed(story) + warnings + failures


def _page(story: Story) -> str:
    from toolkit.run.report.page import page

    drawn, warnings = figures(story)
    text, failures = page(story, drawn)
    _print(changed(story) + warnings + failures)
    return text


def _print(warnings: list[str]) -> None:
    for text in warnings:
        warn(text)
