"""From a config to a finished directory: the commands `run` and `resume`, and what `execute` shares with them.

The order is chosen so that failures come early. A missing file and broken YAML are reported before jax is
imported, a wrong value once the experiment is imported. Nothing is written until the program has been traced.
"""

from __future__ import annotations

import contextlib
import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.run.drive import places, signals
from toolkit.run.drive.finish import finish
from toolkit.run.drive.prepare import PreparedRun, noticing, prepare, start_position, watch
from toolkit.run.drive.progress_bar import forecast, progress
from toolkit.run.experiment import experiments, heard, load, plain_yaml
from toolkit.run.experiment.durations import seconds
from toolkit.run.experiment.errors import Exit, RunError, fail, shown
from toolkit.run.experiment.output import say
from toolkit.run.experiment.words import duration
from toolkit.run.program.budget import DRAWING, STARTING, Pace, Paced, with_fractions
from toolkit.run.store import birth, compiled_programs, directory, environment, files, process

if TYPE_CHECKING:
    from toolkit.run.drive import run_loop
    from toolkit.run.drive.run_loop import RunPosition

    Drive = Callable[[run_loop.Job, RunPosition], RunPosition]


def run(path: Path, words: Sequence[str], out: Path | None, command: str) -> int:
    """Starts a run, or continues the unfinished one of the same config. Returns the exit code."""
    environment.pin_threads()
    compiled_programs.quiet()
    with signals.watched() as stop:
        loaded = load.load(path, words)
        with taken(loaded, path.stem, out, lambda _: command) as run:
            return go(run, stop)


def resume(path: Path, allow_drift: bool, command: str) -> int:
    """Continues an unfinished run from its newest usable checkpoint. Returns the exit code."""
    environment.pin_threads()
    compiled_programs.quiet()
    with signals.watched() as stop:
        directory.existing(path)
        directory.remove_leftovers(path)
        with directory.held(directory.claim(path)) as place:
            written = _unchanged_config(place)
            loaded = load.load(path / directory.CONFIG)
            with compiled_programs.kept(place.path) as seal:
                prepared = prepare(loaded, written)
                drift = _continue(place, prepared, command, allow_drift)
                return go(TakenRun(place, prepared, drift, seal), stop)


class TakenRun(NamedTuple):
    """A run that this process holds and may drive."""

    place: directory.RunDirectory
    prepared: PreparedRun
    drift: list[str]  # names of the fields in which the environment differs from that of the start
    seal: Callable[[], None]  # keeps what was compiled so far, see `compiled_programs`


@contextlib.contextmanager
def taken(
    loaded: load.Loaded, name: str, out: Path | None, command: Callable[[Path], str]
) -> Iterator[TakenRun]:
    """A new run, or the unfinished one of the same config, held to the end of the block.

    Args:
        name: begins the name of the directory where `out` is None.
        command: what to record as the command, given the directory.
    """
    with contextlib.ExitStack() as stack:
        # `alone` keeps other starts out until the run directory exists and its own lock is held (see `birth`).
        alone = stack.enter_context(contextlib.ExitStack())
        target, found = places.place(name, loaded, out, alone)
        line, drift = command(target), []
        if found is None:
            text = plain_yaml.dump(loaded.resolved)
            prepared = prepare(loaded)
            place = birth.create(target, text, _new_record(prepared, text, line))
            stack.enter_context(directory.held(place))
            place.event("start", command=line)
            seal = stack.enter_context(compiled_programs.kept(place.path))
        else:
            place = stack.enter_context(directory.held(found))
            places.refuse_other_config(place, loaded)
            seal = stack.enter_context(compiled_programs.kept(place.path))
            prepared = prepare(loaded)
            drift = _continue(place, prepared, line, allow_drift=False)
        alone.close()
        yield TakenRun(place, prepared, drift, seal)


def _new_record(prepared: PreparedRun, config_text: str, command: str) -> dict[str, Any]:
    return {
        "format": 1,
        "status": "running",
        "command": command,
        "experiment": prepared.settings.experiment,
        "config_sha256": hashlib.sha256(config_text.encode()).hexdigest(),
        "started": directory.now(),
        "ended": None,
        "step": 0,
        "steps": prepared.settings.steps,
        "seconds": 0.0,
        "process": process.this_process(),
        "drift": [],
        **_bits(prepared),
        "code": environment.code_state(),
        "environment": prepared.environment,
        "wrote": heard.outputs(),
    }


def _bits(prepared: PreparedRun) -> dict[str, str]:
    """How the numbers of several seeds in one program relate to single runs, for run.json. Empty for one seed."""
    seeds = prepared.settings.seeds
    if seeds == 1:
        return {}
    from toolkit.run.program.seeds import bits

    return {"bits": f"{seeds} seeds in one program, {bits(prepared.traced.program)}"}


def _continue(
    place: directory.RunDirectory, prepared: PreparedRun, command: str, allow_drift: bool
) -> list[str]:
    """Takes over an unfinished run. Returns the names of the fields that differ from its first environment.

    Raises: RunError (exit 7) if anything differs and that is not allowed.
    """
    record = place.record()
    then = record.get("environment", {})
    changed = environment.differences(then, prepared.environment, record.get("wrote", []))
    if changed and not allow_drift:
        first = list(changed.items())[:6]
        old = ", ".join(f"{name} {shown(now)[:24]}" for name, (_, now) in first)
        new = ", ".join(f"{name} {shown(then)[:24]}" for name, (then, _) in first)
        what = f"the environment differs in {', '.join(changed)}"
        remedy = (
            f"{new} as recorded; `toolkit resume --allow-drift {place.path}` continues all the same"
        )
        raise fail(Exit.ENVIRONMENT, place.path, what, old, remedy)
    drift = sorted({*record.get("drift", []), *changed})
    place.update(status="running", process=process.this_process(), drift=drift)
    place.event("resume", command=command, **({"drift": drift} if drift else {}))
    return drift


def go(run: TakenRun, stop: signals.StopRequest, drive: Drive | None = None) -> int:
    """Drives a run to its end and finishes it, or records why it stopped. Returns the exit code.

    Args:
        drive: makes the steps, in place of `run_loop.drive`.
    """
    from toolkit.run.drive import run_loop

    place, prepared = run.place, run.prepared
    say(f"{prepared.settings.experiment} in {place.path}")
    for statement in _bits(prepared).values():
        say(statement)
    try:
        at = _drive(run, stop, drive)
        stop.deferred = False  # all steps are saved; the rest can be repeated
        return finish(place, prepared, at)
    except run_loop.StoppedBySignal as stopped:
        place.update(status="stopped", ended=directory.now())
        place.event("stop", reason=str(stopped))
        say(f"stopped: {stopped}; `toolkit resume {place.path}` continues")
        return 128 + stopped.number
    except RunError as error:
        with contextlib.suppress(RunError):  # on a full disk, the first error is the one to report
            if error.code is not Exit.CLAIM:
                place.update(status="failed", ended=directory.now())
            place.event("failed", exit=int(error.code), reason=error.reason)
        raise


def _drive(run: TakenRun, stop: signals.StopRequest, drive: Drive | None) -> RunPosition:
    from toolkit.run.drive import run_loop
    from toolkit.run.program.seeds_on_cores import compile_program

    place, prepared, drift, seal = run
    source, settings = prepared.loaded.experiment, prepared.settings
    _warn_of_a_full_disk(place, prepared)
    compiled = compile_program(prepared.traced, source)
    start = start_position(place, prepared, compiled)
    seal()
    if start.step:
        say(f"continuing from step {start.step}")
    watched = watch(place, prepared, start)
    pace = _pace(place, prepared, start)
    step = compiled
    if isinstance(start.state, Paced):
        step = with_fractions(compiled, pace, start.step, settings.log_every)
    try:
        with progress(start.step, settings.steps) as show:
            stop.deferred = True
            shown = forecast(place, pace, start.step, show)
            job = run_loop.Job(
                settings,
                place,
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
        raise why_not_finite.refusal(place, prepared, compiled, found) from None


def _pace(place: directory.RunDirectory, prepared: PreparedRun, start: RunPosition) -> Pace:
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
        program = prepared.traced.program
        program.finish(start.state, program.data)
    now = time.perf_counter()
    # Kept for the end: drawing, twice what `finish` took just now, and half of what the start took. A machine
    # that is slow to start is slow to end as well, and Python itself started before our clock did.
    pace.reserve = DRAWING + 2 * (now - began) + min((began - prepared.began) / 2, STARTING)
    if pace.spent_after():
        spent, end = duration(pace.elapsed()), duration(pace.reserve)
        text = f"the budget of {budget} has no time for steps: {spent} are spent, the end may take {end}"
        place.warn(f"{place.path}: {text}")
    return pace


def _warn_of_a_full_disk(place: directory.RunDirectory, prepared: PreparedRun) -> None:
    from toolkit.run.store.arrays import size

    need, free = 2 * size(prepared.traced.template), files.free_bytes(place.path)
    if free < need:
        text = f"{free:,} bytes free, expected at least {need:,} for two checkpoints"
        place.warn(f"{place.path}: short of space: {text}")


def _unchanged_config(place: directory.RunDirectory) -> dict[str, Any]:
    """What config.yaml says.

    Raises: RunError (exit 3) if it is not what `run` wrote, because the checkpoints belong to that.
    """
    where, recorded = place.path / directory.CONFIG, place.record().get("config_sha256")
    try:
        text = files.read_regular(where, plain_yaml.MAX_BYTES)
    except OSError as error:
        raise fail(Exit.CHECKPOINT, where, "damaged", str(error), "what `run` wrote") from None
    found = hashlib.sha256(text).hexdigest()
    if recorded is not None and found != recorded:
        expected = f"sha256 {str(recorded)[:12]}; another config is another run"
        got = f"sha256 {found[:12]}"
        raise fail(Exit.CHECKPOINT, where, "changed since the start", got, expected)
    return plain_yaml.parse(text.decode(errors="replace"), str(where)).value
