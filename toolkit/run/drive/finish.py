"""The end of a run: `final/`, the report and the card, then the mark `finished`.

If the process is killed in between, the same command does it again.
"""

from __future__ import annotations

import json
import os
import time
from typing import TYPE_CHECKING, Any

from toolkit.run.drive.prepare import noticing
from toolkit.run.experiment import experiments
from toolkit.run.experiment.common import every_seed
from toolkit.run.experiment.errors import Exit, RunError
from toolkit.run.experiment.interface import Final
from toolkit.run.experiment.output import say
from toolkit.run.experiment.words import two_columns
from toolkit.run.store import directory, files

if TYPE_CHECKING:
    from toolkit.run.drive.prepare import PreparedRun
    from toolkit.run.drive.run_loop import RunPosition


def finish(place: directory.RunDirectory, prepared: PreparedRun, at: RunPosition) -> int:
    """Writes `final/`, the report and the card, then marks the run finished. Returns the exit code.

    Until that mark it may be called again, by another process.

    Raises: RunError: exit 2 for a `finish` that fails, exit 6 for a final metric that is not finite, exit 8
        for a claim that is missed.
    """
    from toolkit.run.report import claims, draw
    from toolkit.run.store import intact

    result, metrics = _final(place, prepared, at)
    noticing(place, prepared.loaded.experiment)()
    settings = prepared.settings
    verdicts = claims.judge(settings.claims, metrics, every_seed(settings))
    early = at.step < settings.steps
    ending = {
        "status": "finished",
        "ended": directory.now(),
        "ended_by": "budget" if early else "steps",
        "step": at.step,
        "seconds": metrics["seconds"],
    }
    for warning in draw.write(place.path, {**place.record(), **ending}, settings):
        place.warn(warning)
    place.event("finish", step=at.step, by=ending["ended_by"])
    place.update(**ending, logs=intact.logs(place.path))
    rows = result.table or tuple((name, f"{value:.6g}") for name, value in metrics.items())
    by = f" by its budget of {settings.budget}, at step {at.step}" if early else ""
    say(f"{two_columns(rows)}\nfinished{by}: {place.path}")
    problems = claims.missed(verdicts, metrics, place.path)
    if problems:
        raise RunError(Exit.CLAIM, *problems)
    return Exit.DONE


def ended(prepared: PreparedRun, state: Any) -> Final:
    """What `finish` of the experiment makes of a state.

    With several processes it has the state and the data on one device, as with one. It may do with them what
    it likes, and need not know of the others. Only process 0 calls it.
    """
    from toolkit.run.store.arrays import gathered

    program, team = prepared.traced.program, prepared.team
    if team.count == 1:
        return program.finish(state, program.data)
    state, data = gathered((state, program.data))
    return program.finish(state, data) if team.leads else Final({}, {})


def _final(
    place: directory.RunDirectory, prepared: PreparedRun, at: RunPosition
) -> tuple[Final, dict[str, float]]:
    """The result, and the metrics in `final/`.

    `final/` is written, unless a process that was killed later has written it already.
    """
    from toolkit.run.store import final

    source, folder = prepared.loaded.experiment, place.path / directory.FINAL
    began = time.perf_counter()
    with experiments.reported(source, "finish failed"):
        result = ended(prepared, at.state)
    # A process that was killed after it wrote `final/` left it whole. It is kept, so that the seconds in it
    # stay the same.
    if os.path.lexists(folder):
        damaged = final.changed(place.path, place.record().get("final") or {})
        durable = None if damaged else final.read(place.path)
        if durable is not None:
            return result, durable.metrics
        aside = files.set_aside(folder).name
        place.warn(f"{folder}: damaged ({', '.join(damaged)}), set aside as {aside}")
    spent = at.seconds + time.perf_counter() - began
    contents = final.files(result, spent, place.path, source)
    place.update(final=final.hashes(contents))
    files.write_folder(folder, contents)
    return result, json.loads(contents[final.METRICS])
