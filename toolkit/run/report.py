"""`report.html` and `README.md`, drawn from a run directory's files alone, so that they can be drawn again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolkit.run import directory, seeds, storage
from toolkit.run.errors import Exit
from toolkit.run.output import warn
from toolkit.run.story import Story, changed, figures, read


def command(paths: Sequence[Path], out: Path | None) -> int:
    """`toolkit report`: redraws one run's page and card, or draws several side by side.

    Raises: RunError: exit 8 where the runs miss a claim over several seeds.
    """
    for path in paths:
        directory.existing(path)
    stories = [read(path) for path in dict.fromkeys(paths)]
    if len(paths) > 1:
        from toolkit.run.page import comparison

        target = out or Path("comparison.html")
        storage.write_file(target, comparison(stories).encode())
        _print([text for story in stories for text in changed(story)])
    elif out is not None:
        target = out
        storage.write_file(target, _page(read(paths[0])).encode())
    else:
        target = paths[0] / directory.REPORT
        _print(write(paths[0]))
    print(target)
    seeds.tell(stories)
    return Exit.DONE


def write(path: Path, record: dict[str, Any] | None = None) -> list[str]:
    """Draws `report.html` and `README.md` into the run directory; returns warnings."""
    from toolkit.run.card import card
    from toolkit.run.page import page

    story = read(path, record)
    drawn, warnings = figures(story)
    text, failures = page(story, drawn)
    storage.write_file(path / directory.REPORT, text.encode())
    storage.write_file(path / directory.CARD, card(story).encode())
    return changed(story) + warnings + failures


def _page(story: Story) -> str:
    from toolkit.run.page import page

    drawn, warnings = figures(story)
    text, failures = page(story, drawn)
    _print(changed(story) + warnings + failures)
    return text


def _print(warnings: list[str]) -> None:
    for text in warnings:
        warn(text)
