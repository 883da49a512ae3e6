"""From a config to a finished directory: the commands `run` and `resume`, and what `execute` shares with them.

The order is chosen so that failures come early. A missing file and broken YAML are reported before jax is
imported, a wrong value once the experiment is imported. Nothing is written until the program has been traced.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.run.drive import launch_processes, places, signals
from toolkit.run.drive.drive_steps import drive_steps, follow
from toolkit.run.drive.finish import finish
from toolkit.run.drive.layout import ALONE, LAYOUT
from toolkit.run.drive.prepare import PreparedRun, prepare
from toolkit.run.drive.team import Team, joined
from toolkit.run.experiment import heard, load, plain_yaml
from toolkit.run.experiment.errors import Exit, RunError, fail, shown
from toolkit.run.experiment.output import say
from toolkit.run.store import birth, compiled_programs, directory, environment, files, process

if TYPE_CHECKING:
    from toolkit.run.drive.drive_steps import Drive


def run(path: Path, words: Sequence[str], out: Path | None, command: str) -> int:
    """Starts a run, or continues the unfinished one of the same config. Returns the exit code."""
    asked = load.processes(path, words)
    if launch_processes.needed(asked):
        return launch_processes.launch(asked, command)
    environment.pin_threads()
    compiled_programs.quiet()
    with signals.watched() as stop, joined(asked) as team:
        loaded = load.load(path, words)
        if not team.leads:
            return follow(loaded, None, team, stop)
        with taken(loaded, path.stem, out, lambda _: command, team) as run:
            return go(run, stop)


def resume(path: Path, words: Sequence[str], allow_drift: bool, command: str) -> int:
    """Continues an unfinished run from its newest usable checkpoint. Returns the exit code.

    Args:
      words: of the form `devices.KEY=VALUE`, where it is to be spread over something else.
    """
    _refuse_more_than_devices(words)
    directory.existing(path)
    config = path / directory.CONFIG
    asked = load.processes(config, words)
    if launch_processes.needed(asked):
        return launch_processes.launch(asked, command)
    environment.pin_threads()
    compiled_programs.quiet()
    with signals.watched() as stop, joined(asked) as team:
        if not team.leads:
            written = directory.read_config(path)
            return follow(load.load(config, words), written, team, stop)
        directory.remove_leftovers(path)
        with directory.held(directory.claim(path)) as place:
            written = _unchanged_config(place)
            loaded = load.load(config, words)
            with _kept(place, team) as seal:
                prepared = prepare(loaded, written, team)
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
    loaded: load.Loaded,
    name: str,
    out: Path | None,
    command: Callable[[Path], str],
    team: Team = Team(),
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
            prepared = prepare(loaded, team=team)
            place = birth.create(target, text, _new_record(prepared, text, line))
            stack.enter_context(directory.held(place))
            place.event("start", command=line)
            seal = stack.enter_context(_kept(place, team))
        else:
            place = stack.enter_context(directory.held(found))
            places.refuse_other_config(place, loaded)
            seal = stack.enter_context(_kept(place, team))
            prepared = prepare(loaded, team=team)
            drift = _continue(place, prepared, line, allow_drift=False)
        alone.close()
        yield TakenRun(place, prepared, drift, seal)


def _kept(
    place: directory.RunDirectory, team: Team
) -> contextlib.AbstractContextManager[Callable[[], None]]:
    """The cache of compiled programs, for one process: several would have to find the same ones in it."""
    if team.count > 1:
        return contextlib.nullcontext(lambda: None)
    return compiled_programs.kept(place.path)


def _refuse_more_than_devices(words: Sequence[str]) -> None:
    """Raises: RunError (exit 2) for a word that would make another run of it."""
    for word in words:
        if not word.startswith("devices.") and word.partition("=")[0] != "devices":
            expected = "devices.KEY=VALUE; another config is another run"
            raise fail(Exit.CONFIG, "command line", "cannot be changed", shown(word), expected)


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
        LAYOUT: prepared.layout,
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
    spread = record.get(LAYOUT, ALONE)
    if spread != prepared.layout:
        changed[LAYOUT] = spread, prepared.layout
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
        prepared.team.agreed_text(os.fspath(place.path.absolute()))
        at = drive_steps(place, prepared, run.drift, stop, run.seal, drive)
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
