"""`toolkit report`: draws the page of one run again, or the page that compares several."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolkit.run.experiment.errors import Exit, RunError
from toolkit.run.experiment.output import warn
from toolkit.run.report import draw
from toolkit.run.report.groups import each_seed_once, not_counted
from toolkit.run.report.several import across_seeds
from toolkit.run.report.several.comparison_page import comparison
from toolkit.run.report.story import Story, changed, read
from toolkit.run.store import directory, files, sweeps


def redraw(paths: Sequence[Path], out: Path | None) -> int:
    """Redraws the page and card of one run, or draws several runs or a sweep side by side. Returns the exit code.

    Raises: RunError: exit 2 for something that is no run, exit 3 for damaged runs, exit 8 where the runs miss
        a claim over several seeds.
    """
    runs = list(dict.fromkeys(run for path in paths for run in sweeps.runs_in(path)))
    if len(paths) > 1 or runs != list(paths):
        stories = each_seed_once(_readable(runs))
        target = _several(stories, paths, out)
        _warn([text for story in stories for text in changed(story)])
        _warn([text for story in stories for text in not_counted(story)])
    elif out is not None:
        stories, target = [read(paths[0])], out
        html, warnings = draw.page_of(stories[0])
        files.write_output(target, files.text_bytes(html))
        _warn(warnings)
    else:
        stories, target = [read(paths[0])], paths[0] / directory.REPORT
        _warn(draw.write(paths[0]))
    print(target)
    across_seeds.tell(stories)
    return Exit.DONE


def _readable(runs: Sequence[Path]) -> list[Story]:
    """The stories of the runs; a damaged one is left out with a warning. Raises: RunError if all are."""
    stories: list[Story] = []
    errors: list[RunError] = []
    for run in runs:
        try:
            stories.append(read(run))
        except RunError as error:
            errors.append(error)
    _warn([f"left out: {error.reason}" for error in errors])
    if not stories:
        raise errors[0]
    return stories


def _several(stories: Sequence[Story], given: Sequence[Path], out: Path | None) -> Path:
    """Draws the page that compares runs; of a single sweep it lies in the sweep's directory."""
    record = sweeps.read_record(given[0]) if len(given) == 1 else None
    target = out or (given[0] / directory.REPORT if record else Path("comparison.html"))
    command = str((record or {}).get("command", ""))
    absent = sweeps.not_started(given[0]) if record else 0
    text, warnings = comparison(stories, target.parent, command, absent)
    files.write_output(target, files.text_bytes(text))
    _warn(warnings)
    return target


def _warn(warnings: list[str]) -> None:
    for text in warnings:
        warn(text)
