"""What became of one run of a sweep, read from its directory."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run.experiment.errors import Exit, RunError
from toolkit.run.report import claims
from toolkit.run.store import directory, final, intact
from toolkit.run.sweep.launch.command_line import Outcome

STOPPED = (129, 130, 143)  # a signal; the run saved and left


class RunStatus(NamedTuple):
    """Where a run stands."""

    finished: bool
    code: int | None  # exit code; None where it has not been tried, or not been finished
    words: str
    metrics: dict[str, float]  # final, without the time
    claimed: tuple[str, ...] = ()  # names of metrics that the config makes claims of
    other_code: bool = False  # finished, but made by another version of the code

    def after(self, outcome: Outcome, path: Path) -> RunStatus:
        """The status once its command has ended.

        If the directory is not finished, the exit code says what went wrong.
        """
        if self.finished:
            return self
        if outcome.code == Exit.DONE:
            words = (
                f"exit 0, but {directory.FINAL}/ is not here: its worker has another file system"
            )
            return self._replace(code=int(Exit.STORAGE), words=words)
        if outcome.code in STOPPED:
            return self._replace(code=outcome.code, words="stopped, to be continued")
        reason = outcome.message.removeprefix("error: ").removeprefix(f"{path}: ")
        return self._replace(
            code=outcome.code, words=f"exit {outcome.code}: {reason or 'no message'}"
        )


def read_status(path: Path, resolved: dict[str, Any], sources: Mapping[str, str]) -> RunStatus:
    """The status of the run in `path`, whose config must be `resolved`. Never raises for a damaged run."""
    if not directory.is_run(path):
        return RunStatus(False, None, "not started", {})
    try:
        record = directory.read_record(path)
        if record.get("status") != "finished":
            status = record.get("status", "unknown")
            # A run that was killed says `running` for ever.
            dead = status == "running" and not directory.in_use(path)
            return RunStatus(False, None, f"{'stopped' if dead else status}, not finished", {})
        if directory.read_config(path) != resolved:
            return RunStatus(True, int(Exit.OCCUPIED), "finished, with another config", {})
        durable = final.read(path)
        if durable is None:
            return RunStatus(False, int(Exit.CHECKPOINT), f"damaged: no {directory.FINAL}/", {})
        changed = intact.changed(path, record)
        if changed:
            words = f"finished, changed since the run: {', '.join(changed)}"
            return RunStatus(True, int(Exit.CHECKPOINT), words, {})
        metrics = {name: value for name, value in durable.metrics.items() if name != final.SECONDS}
        bounds = claims.from_record(resolved.get("claims", {}), path / directory.CONFIG)
        seed, seeds = resolved.get("seed", 0), resolved.get("seeds", 1)
        verdicts = claims.judge(bounds, durable.metrics, range(seed, seed + seeds))
    except (RunError, OSError, ValueError, AttributeError) as error:
        reason = error.reason if isinstance(error, RunError) else error
        return RunStatus(False, int(Exit.CHECKPOINT), f"damaged: {reason}"[:200], {})
    missed = sum(not verdict.holds for verdict in verdicts)
    then = record.get("environment", {})
    other = any(then.get(name) != value for name, value in sources.items())
    words = f"finished, {missed} of {len(verdicts)} claims missed" if missed else "finished"
    code = int(Exit.CLAIM) if missed else int(Exit.DONE)
    claimed = tuple(verdict.name for verdict in verdicts)
    return RunStatus(
        True, code, f"{words}, by other code" if other else words, metrics, claimed, other
    )
