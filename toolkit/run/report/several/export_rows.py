"""The rows of runs for other programs, as CSV or TensorBoard files. Run directories are only read."""

from __future__ import annotations

import csv
import io
import os
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from toolkit.run.experiment import load, plain_yaml
from toolkit.run.experiment.errors import Exit, fail, nearest, shown
from toolkit.run.experiment.output import warn
from toolkit.run.report.groups import differing, each_seed_once, not_counted
from toolkit.run.report.several.comparison_page import labels
from toolkit.run.report.story import Story, changed, read
from toolkit.run.store import files
from toolkit.run.store.metrics import RESERVED, own_name
from toolkit.run.store.sweeps import runs_in

FORMATS = ("csv", "tensorboard")
# A spreadsheet takes a text that begins with one of these for a formula, and runs it.
FORMULA = ("=", "+", "-", "@", "\t", "\r")


def export(paths: Sequence[Path], kind: str, out: Path | None) -> int:
    """Writes the rows of the runs, or of a sweep's runs, in one format. Returns the exit code.

    Raises: RunError: exit 2 for an unknown format, something that is no run, or a missing extra; exit 3 for a
        damaged run; exit 4 where TensorBoard files of the run are there already.
    """
    if kind not in FORMATS:
        near = nearest(kind, FORMATS)
        raise fail(Exit.CONFIG, "--format", "unknown", shown(kind), " or ".join(FORMATS), near)
    if kind == "tensorboard" and find_spec("tensorboardX") is None:
        expected = 'pip install "toolkit-jax[tensorboard]"'
        what = "needs the package tensorboardX"
        raise fail(Exit.CONFIG, "--format tensorboard", what, "no such package", expected)
    runs = dict.fromkeys(run for path in paths for run in runs_in(path))
    stories = [read(run) for run in runs]
    for story in each_seed_once(stories):
        for text in changed(story) + not_counted(story):
            warn(text)
    if kind == "tensorboard":
        target = out or Path("tensorboard")
        for story, name in zip(stories, labels(stories), strict=True):
            _events(story, target / name.replace("/", "_"))
        print(target)
    elif out is None:
        sys.stdout.write(table(stories))
    else:
        files.write_output(out, files.text_bytes(table(stories)))
        print(out)
    return Exit.DONE


def table(stories: Sequence[Story]) -> str:
    """CSV with a row for each logged step: the run's name, the settings that differ (`config.seed`), the metrics."""
    configs = [load.fields(story.config) for story in stories]
    keys = differing(configs)
    rows = [[dict(flat(row)) for row in story.rows] for story in stories]
    columns = list(dict.fromkeys(name for found in rows for row in found for name in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    heads = ["run", *(f"config.{key}" for key in keys)]
    for column in columns:
        heads.append(own_name(column, heads))
    writer.writerow(map(_cell, heads))
    for label, settings, found in zip(labels(stories), configs, rows, strict=True):
        for row in found:
            values = [label, *(settings.get(key) for key in keys), *map(row.get, columns)]
            writer.writerow(map(_cell, values))
    return text.getvalue()


def flat(row: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """The fields of a row; the gradients of leaves as `gradients/theta['w']/norm`."""
    for name, value in row.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}/{inner}", each) for inner, each in flat(value))
        else:
            yield name, value


def _cell(value: Any) -> Any:
    """Numbers with all their digits. A text that a spreadsheet would run gets a quote in front."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int | float):
        return repr(value)
    words = " ".join(map(str, value)) if isinstance(value, list) else str(value)
    return f"'{words}" if words.startswith(FORMULA) else words


def _events(story: Story, target: Path) -> None:
    """Event files of one run: its rows, final metrics and config, at the times when they were made."""
    from tensorboardX import SummaryWriter

    if os.path.lexists(target):
        expected = "another --out, or that folder removed: TensorBoard would show every point twice"
        raise fail(Exit.OCCUPIED, target, "exists", "files of an earlier export", expected)
    began = _seconds(story.record.get("started"))
    with files.storing(target), SummaryWriter(str(target), write_to_disk=True) as writer:
        writer.add_text("config", f"```\n{plain_yaml.dump(story.config)}```", 0, began)
        for row in story.rows:
            at = began + float(row.get("seconds") or 0)
            for name, value in _scalars(row):
                writer.add_scalar(name, value, row["step"], at)
        end = began + float(story.record.get("seconds") or 0)
        taken = {name for row in story.rows for name, _ in _scalars(row)}
        for name, value in story.metrics.items():
            writer.add_scalar(own_name(f"final/{name}", taken), value, story.step, end)


def _scalars(row: Mapping[str, Any]) -> Iterable[tuple[str, float]]:
    """The metrics of a row; one that was not finite as NaN, which TensorBoard marks."""
    for name, value in flat(row):
        if name in RESERVED:
            continue
        if isinstance(value, int | float):
            yield name, float(value)
        elif name in row.get("nonfinite", ()):
            yield name, float("nan")


def _seconds(started: Any) -> float:
    try:
        return datetime.fromisoformat(str(started)).timestamp()
    except ValueError:
        return 0.0
