"""`tk.run.open`: a run directory as a Python object."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.run.experiment.words import number, two_columns
from toolkit.run.report import claims
from toolkit.run.report.story import Story, changed, read
from toolkit.run.store import directory

if TYPE_CHECKING:
    import pandas

# The page is a document of its own, shut off from the notebook: neither its styles nor a text in it get out.
FRAME = (
    '<iframe srcdoc="{}" sandbox title="{}" '
    'style="box-sizing: border-box; width: 100%; height: 40em; border: 1px solid #8886; border-radius: 4px"></iframe>'
)


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run as its directory told when it was opened. Shows as its page in a notebook."""

    path: Path
    config: dict[str, Any]  # resolved: every default written out
    rows: list[dict[str, Any]]  # of metrics.jsonl
    final: dict[str, float] | None  # metrics; None before the end
    params: dict[str, Any] | None  # nested dict of NumPy arrays; None before the end
    status: str  # running, stopped, failed or finished
    issues: tuple[str, ...]  # what is wrong, a line each
    _story: Story = field(repr=False)

    def to_pandas(self) -> pandas.DataFrame:
        """The rows as a table; gradients of leaves as columns `gradients/theta['w']/norm`.

        Raises: ImportError: without pandas, which the toolkit does not need itself.
        """
        try:
            import pandas
        except ImportError as error:
            raise ImportError("to_pandas needs pandas: pip install pandas.") from error
        from toolkit.run.report.several.export_rows import flat

        return pandas.DataFrame([dict(flat(row)) for row in self.rows])

    def __repr__(self) -> str:
        lines = [f"{self.path}: {self._story.status()[1]}", *self.issues]
        metrics = [(name, number(value)) for name, value in (self.final or {}).items()]
        return "\n".join([*lines, two_columns(metrics)] if metrics else lines)

    def _repr_html_(self) -> str:
        from toolkit.run.report.draw import page_of

        page, _ = page_of(self._story)
        return FRAME.format(escape(page), escape(str(self.path)))


def open(run_dir: str | os.PathLike[str]) -> Run:
    """Reads a run, in whatever state it is. Nothing is written.

    Args:
      run_dir: what `toolkit run` or `tk.run.execute` made.

    Raises: RunError: code 2 for something that is no run, code 3 for a damaged one.
    """
    path = directory.existing(Path(os.fspath(run_dir)))
    story = read(path)
    status = str(story.record.get("status"))
    end = story.durable if status == "finished" else None
    metrics, params = (end.metrics, end.params) if end else (None, None)
    issues = tuple(dict.fromkeys(_issues(story)))
    return Run(path, story.config, story.rows, metrics, params, status, issues, story)


def _issues(story: Story) -> Iterator[str]:
    if story.record.get("status") == "failed":
        yield from [e for e in map(_reason, story.events) if e][-1:]
    if story.durable is not None:
        for problem in claims.missed(story.verdicts, story.durable.metrics, story.path):
            yield problem.line()
    yield from changed(story)
    if story.record.get("drift"):
        yield f"{story.path}: continued in another environment: {', '.join(story.record['drift'])}"
    for event in story.events:
        if event.get("event") == "warning":
            yield str(event.get("text"))


def _reason(event: dict[str, Any]) -> str:
    return str(event.get("reason", "")) if event.get("event") == "failed" else ""
