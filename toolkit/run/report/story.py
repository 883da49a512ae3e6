"""Everything that a report says about a run, read from the run directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run.experiment import experiments, load
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.errors import Exit, RunError, fail
from toolkit.run.experiment.interface import Figure
from toolkit.run.report import claims
from toolkit.run.store import directory, environment, final, intact


class Story(NamedTuple):
    """A run as its files tell it."""

    path: Path
    record: dict[str, Any]  # run.json
    config: dict[str, Any]  # resolved
    rows: list[dict[str, Any]]  # metrics.jsonl
    durable: final.Durable | None  # final/, once there
    verdicts: list[claims.Verdict]
    summary: str  # first line of the experiment's docstring
    events: list[dict[str, Any]]  # events.jsonl
    changed: tuple[str, ...] = ()  # files that are not what the run wrote
    counted: tuple[int, ...] = ()  # its seeds that count in statistics, see `several.once`
    left_out: str = ""  # why others of its seeds do not count

    @property
    def metrics(self) -> dict[str, float]:
        """The final metrics without the time, empty before the end."""
        found = self.durable.metrics if self.durable else {}
        return {name: value for name, value in found.items() if name != "seconds"}

    @property
    def seconds(self) -> float:
        """How long it ran, over all processes. An unfinished run is counted up to its last row."""
        return self.record.get("seconds") or (
            self.rows[-1].get("seconds", 0.0) if self.rows else 0.0
        )

    @property
    def step(self) -> int:
        """The last step that is known."""
        return max(self.record.get("step") or 0, self.rows[-1]["step"] if self.rows else 0)

    @property
    def seeds(self) -> range:
        """The seeds that it is of."""
        first, count = self.config.get("seed", 0), self.config.get("seeds", 1)
        return range(first, first + count)

    def status(self) -> tuple[str, str]:
        """(`good`, `bad` or `open`, the same in words)."""
        if self.changed:
            return "bad", f"{self._status()[1]}, changed since: {', '.join(self.changed)}"
        return self._status()

    def _status(self) -> tuple[str, str]:
        missed = sum(not verdict.holds for verdict in self.verdicts)
        status = self.record.get("status", "unknown")
        if status != "finished":
            return (
                "bad" if status == "failed" else "open"
            ), f"{status} at step {self.step} of {self.record.get('steps')}"
        early = self.record.get("ended_by") == "budget"
        end = (
            f"finished by its budget at step {self.step} of {self.record.get('steps')}"
            if early
            else "finished"
        )
        if missed:
            return "bad", f"{end}, {missed} of {len(self.verdicts)} claims missed"
        if any(verdict.outcome == "inconclusive" for verdict in self.verdicts):
            return "good", f"{end}, claims over several seeds open"
        return "good", f"{end}, all claims met" if self.verdicts else end


def read(path: Path, record: dict[str, Any] | None = None) -> Story:
    """The story of a run directory. `record` stands in for a run.json that is about to be written.

    Raises: RunError (exit 3) where a file is damaged.
    """
    on_disk, record = record is None, record or _told(path)
    resolved = directory.read_config(path)
    durable = final.read(path)
    bounds = claims.from_record(resolved.get("claims", {}), path / directory.CONFIG)
    rows, events = directory.read_rows(path), directory.read_events(path)
    # After all files are read: by then it is known that none of them is without end.
    changed = tuple(intact.changed(path, directory.read_record(path))) if on_disk else ()
    story = Story(path, record, resolved, rows, durable, [], "", events, changed)
    verdicts = claims.judge(bounds, durable.metrics, story.seeds) if durable else []
    source = Path(experiments.FOLDER) / f"{resolved['experiment']}.py"
    summary = experiments.summary(source) if source.is_file() else ""
    return story._replace(verdicts=verdicts, summary=summary, counted=tuple(story.seeds))


def _told(path: Path) -> dict[str, Any]:
    """run.json. A run that was killed is `running` there for ever, so it is asked whether a process holds it."""
    record = directory.read_record(path)
    if record.get("status") == "running" and not directory.in_use(path):
        return {**record, "status": "stopped"}
    return record


def changed(story: Story) -> list[str]:
    """A warning for each file that is not what the run wrote."""
    return [f"{story.path / name}: changed since the run" for name in story.changed]


def figures(story: Story, settings: Settings | None = None) -> tuple[tuple[Figure, ...], list[str]]:
    """The experiment's own figures of a finished run, and warnings; a figure never fails a run."""
    try:
        found = own_figures(story, settings)
    except RunError as error:
        return (), [error.reason]
    source = Path(experiments.FOLDER) / f"{story.config['experiment']}.py"
    then = story.record.get("environment", {}).get("experiment_sha256")
    if not found or then is None or then == environment.experiment_hash(source):
        return found, []
    return found, [f"{source}: changed since the run; the figures are of the newer file"]


def own_figures(story: Story, settings: Settings | None = None) -> tuple[Figure, ...]:
    """What the experiment's `figures` returns; none before the end.

    Args:
        settings: the validated config, if the caller has it. Otherwise config.yaml is read and validated.

    Raises: RunError (exit 2) where it fails, or returns something else.
    """
    if story.durable is None or story.config.get("seeds", 1) > 1:  # they are of one seed
        return ()
    source = experiments.find(story.config["experiment"], str(story.path / directory.CONFIG))
    module = experiments.load(source)
    drawing = experiments.figures(source, module)
    if drawing is None:
        return ()
    file, draw = drawing
    if settings is None:
        model = experiments.config_class(module)
        settings = load.validate(model, story.config, {(): str(story.path)})
    with experiments.reported(file, "figures failed"):
        found = tuple(draw(settings, story.durable.params, story.durable.metrics, story.rows))
    for figure in found:
        if not isinstance(figure, Figure):
            got, expected = type(figure).__name__, "toolkit.run.Figure"
            raise fail(Exit.CONFIG, file, "figures: wrong type", got, expected)
    return found
