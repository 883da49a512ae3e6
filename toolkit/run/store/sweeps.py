"""Reading a sweep directory: its record, its runs, and those that have not started."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.store import directory, files

RECORD = "sweep.json"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,-]{0,127}")  # of a run's directory


def read_record(path: Path) -> dict[str, Any] | None:
    """`sweep.json` of a directory; None where there is none that can be read."""
    try:
        record = json.loads(files.read_regular(path / RECORD, directory.RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def run_paths(path: Path) -> list[Path]:
    """The runs of a sweep directory that exist, in the order of the sweep; nothing outside the directory."""
    return [run for run in _listed(path) if directory.is_run(run)]


def runs_in(path: Path) -> list[Path]:
    """The run in a directory, or those of a sweep. Raises: RunError (exit 2) for anything else."""
    if not os.path.isfile(path / RECORD):
        return [directory.existing(path)]
    runs = run_paths(path)
    if not runs:
        got, expected = "a sweep without runs", "at least one run"
        raise fail(Exit.CONFIG, path, "nothing to report", got, expected)
    return runs


def not_started(path: Path) -> int:
    """How many runs of a sweep directory do not exist yet."""
    return sum(not directory.is_run(run) for run in _listed(path))


def _listed(path: Path) -> list[Path]:
    listed = (read_record(path) or {}).get("runs")
    runs = listed if isinstance(listed, list) else []
    names = [run.get("name") for run in runs if isinstance(run, dict)]
    safe = [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
    return [path / name for name in dict.fromkeys(safe)]
