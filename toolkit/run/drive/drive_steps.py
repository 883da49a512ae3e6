"""Drives the steps of a prepared run: by the process that writes it, and by those that compute it with that one."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolkit.run.drive import signals
from toolkit.run.drive.finish import ended
from toolkit.run.drive.prepare import PreparedRun, noticing, prepare, start_position, watch
from toolkit.run.drive.progress_bar import forecast, progress
from toolkit.run.drive.team import Team
from toolkit.run.experiment import experiments, heard, load
from toolkit.run.experiment.durations import seconds
from toolkit.run.experiment.errors import Exit
from toolkit.run.experiment.output import say
from toolkit.run.experiment.words import duration
from toolkit.run.program.budget import DRAWING, STARTING, Pace, Paced, with_fractions
from toolkit.run.store import directory, files
from toolkit.run.store.observed import Observed

if TYPE_CHECKING:
    from toolkit.run.drive.run_loop import Job, RunPosition

    Drive = Callable[[Job, RunPosition], RunPosition]


def follow(
    loaded: load.Loaded, written: dict[str, Any] | None, team: Team, stop: signals.StopRequest
) -> int:
    """Computes a run together with process 0, which writes it. Returns the exit code.

    Args:
      written: what the config.yaml of a run says that is resumed.
    """
    from toolkit.run.drive import run_loop

    prepared = prepare(loaded, written, team)
    place = Observed(Path(team.agreed_text("")))
    try:
        at = drive_steps(place, prepared, [], stop)
        stop.deferred = False
    except run_loop.StoppedBySignal as stopped:
        return 128 + stopped.number
    ended(prepared, at.state)
    return Exit.DONE


def drive_steps(
    place: directory.RunDirectory | Observed,
    prepared: PreparedRun,
    drift: list[str],
    stop: signals.StopRequest,
    compiled_all: Callable[[], None] = lambda: None,
    drive: Drive | None = None,
) -> RunPosition:
    """Makes the steps that are left. Returns where the run stands then.

    Args:
      compiled_all: called once all is compiled.
      drive: what makes them, in place of `run_loop.drive`.

    Raises: StoppedBySignal, with the state saved; RunError (exit 6) for a NaN or an infinity.
    """
    from toolkit.run.drive import run_loop
    from toolkit.run.program.seeds_on_cores import compile_program

    source, settings, team = prepared.loaded.experiment, prepared.settings, prepared.team
    heard.leave_out(place.path / directory.CHECKPOINTS)
    _warn_of_a_full_disk(place, prepared)
    compiled = compile_program(prepared.traced, source)
    start = start_position(place, prepared, compiled)
    compiled_all()
    if start.step:
        say(f"continuing from step {start.step}")
    watched = watch(place, prepared, start)
    pace = _pace(place, prepared, start)
    step = compiled
    if isinstance(start.state, Paced):
        step = with_fractions(compiled, pace, start.step, settings.log_every, team.agreed)
    try:
        with progress(start.step, settings.steps) as show:
            stop.deferred = True
            shown = forecast(place, pace, start.step, show)
            job = run_loop.Job(
                settings,
                place,
                team,
                step,
                watched,
                source,
                prepared.digest,
                bool(drift),
                stop,
                pace,
                shown,
                noticing(place, source),
            )
            return (drive or run_loop.drive)(job, start)
    except run_loop.NotFinite as found:
        from toolkit.run.drive import why_not_finite

        stop.deferred = False  # nothing is left to save
        if isinstance(place, Observed) or team.count > 1:
            raise why_not_finite.unexplained(place, found) from None
        raise why_not_finite.refusal(place, prepared, compiled, found) from None


def _pace(
    place: directory.RunDirectory | Observed, prepared: PreparedRun, start: RunPosition
) -> Pace:
    """The run's clock. With a budget the end is rehearsed, to know how much time to keep for it."""
    budget = prepared.settings.budget
    if budget is None:
        return Pace(prepared.settings.steps, None, prepared.began - start.seconds)
    # A process that was killed had gone on after its last checkpoint. Its rows say how long, and that time
    # counts.
    spent = max(
        [start.seconds, *(row.get("seconds", 0.0) for row in directory.read_rows(place.path)[-1:])]
    )
    pace = Pace(prepared.settings.steps, seconds(budget), prepared.began - spent)
    began = time.perf_counter()
    with experiments.reported(prepared.loaded.experiment, "finish failed"):
        ended(prepared, start.state)
    now = time.perf_counter()
    # Kept for the end: drawing, twice what `finish` took just now, and half of what the start took. A machine
    # that is slow to start is slow to end as well, and Python itself started before our clock did.
    pace.reserve = DRAWING + 2 * (now - began) + min((began - prepared.began) / 2, STARTING)
    if pace.spent_after():
        spent, end = duration(pace.elapsed()), duration(pace.reserve)
        text = f"the budget of {budget} has no time for steps: {spent} are spent, the end may take {end}"
        place.warn(f"{place.path}: {text}")
    return pace


def _warn_of_a_full_disk(place: directory.RunDirectory | Observed, prepared: PreparedRun) -> None:
    from toolkit.run.store.arrays import size

    need, free = 2 * size(prepared.traced.template), files.free_bytes(place.path)
    if free < need:
        text = f"{free:,} bytes free, expected at least {need:,} for two checkpoints"
        place.warn(f"{place.path}: short of space: {text}")
