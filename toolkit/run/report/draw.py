"""`report.html` and `README.md` of one run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolkit.run.experiment.common import Settings
from toolkit.run.report.card import card
from toolkit.run.report.page import page
from toolkit.run.report.story import Story, changed, figures, read
from toolkit.run.store import directory, files


def write(
    path: Path, record: dict[str, Any] | None = None, settings: Settings | None = None
) -> list[str]:
    """Draws both into the run directory. Returns warnings.

    Args:
        record: used in place of run.json, by a run that has not written its end there yet.
        settings: the validated config, if the caller has it. Otherwise config.yaml is read and validated.
    """
    story = read(path, record)
    html, warnings = page_of(story, settings)
    files.write_file(path / directory.REPORT, files.text_bytes(html))
    files.write_file(path / directory.CARD, files.text_bytes(card(story)))
    return warnings


def page_of(story: Story, settings: Settings | None = None) -> tuple[str, list[str]]:
    """The page of one run, and warnings."""
    drawn, warnings = figures(story, settings)
    html, failures = page(story, drawn)
    return html, changed(story) + warnings + failures
