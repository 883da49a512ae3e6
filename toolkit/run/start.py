"""The commands `run`, `resume` and `check`: from a config to a finished directory, in the order that failures need.

Config errors come before the import of jax, the directory is locked before the experiment loads, and nothing exists
on disk until the program has been traced.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from toolkit.run import config, directory, environment, experiment, plain_yaml, signals
from toolkit.run.errors import Exit, RunError, fail, printable, shown
from toolkit.run.settings import Settings

if TYPE_CHECKING:
    from toolkit.run.compiled import Traced
    from toolkit.run.drive import Position


class Prepared(NamedTuple):
    """An experiment loaded, built and traced, with what determines its bits."""

    loaded: config.Loaded
    settings: Settings
    traced: Traced
    environment: dict[str, Any]


def run(path: Path, words: Sequence[str], out: Path | None, command: str) -> int:
    """Starts a run, or continues the unfinished one of the same config. Returns the exit code."""
    environment.pin_threads()
    with signals.watched() as stop:
        loaded = config.load(path, words)
        target = out or directory.default_path(path, lambda at: _continues(at, loaded))
        directory.remove_leftovers(target)
        place = None if directory.is_free(target) else directory.claim(target)
        with contextlib.ExitStack() as stack:
            if place is not None:
                stack.enter_context(directory.held(place))
                _refuse_other_config(place, loaded)
            prepared = _prepare(loaded)
            drift: list[str] = []
            if place is None:
                place = directory.create(
                    target, plain_yaml.dump(loaded.resolved), _new_record(prepared, command)
                )
                stack.enter_context(directory.held(place))
                place.event("start", command=command)
            else:
                drift = _continue(place, prepared, command, allow_drift=False)
            return _go(place, prepared, drift, stop)


def resume(path: Path, allow_drift: bool, command: str) -> int:
    """Continues an unfinished run from its newest usable checkpoint. Returns the exit code."""
    environment.pin_threads()
    with signals.watched() as stop:
        directory.existing(path)
        directory.remove_leftovers(path)
        with directory.held(directory.claim(path)) as place:
            prepared = _prepare(config.load(path / directory.CONFIG))
            drift = _continue(place, prepared, command, allow_drift)
            return _go(place, prepared, drift, stop)


def check(path: Path, words: Sequence[str]) -> int:
    """Validates a config and traces its program without running it; prints the resolved config.

    Warns of each input of the program's losses whose gradient is always zero.
    """
    environment.pin_threads()
    prepared = _prepare(config.load(path, words))
    from toolkit.run.arrays import named_leaves
    from toolkit.run.losses import dead_inputs

    dead = dead_inputs(prepared.traced, prepared.loaded.experiment)
    for name, inputs in dead.items():
        for found in inputs:
            text = f"{prepared.loaded.experiment}: losses: {name}: {found}"
            print(f"warning: {printable(text)}", file=sys.stderr, flush=True)
    leaves = named_leaves(prepared.traced.template).values()
    count = sum(leaf.size for leaf in leaves)
    print(plain_yaml.dump(prepared.loaded.resolved), end="")
    metrics = ", ".join(prepared.traced.metrics) or "none"
    if dead:
        number = sum(map(len, dead.values())) or "none"
        print(f"# inputs without gradient in the losses {', '.join(dead)}: {number}")
    print(
        f"# ok: {prepared.loaded.experiment}, state of {len(leaves)} arrays with {count:,} numbers, metrics: {metrics}"
    )
    return Exit.DONE


def _prepare(loaded: config.Loaded) -> Prepared:
    source = loaded.experiment
    module = experiment.whole(source)
    # The whole module's `Config`, not the slice's, so that `isinstance` holds within the experiment.
    settings = config.validate(experiment.config_class(module), loaded.resolved, {(): str(source)})
    build = getattr(module, "build", None)
    if not callable(build):
        raise fail(
            Exit.CONFIG,
            source,
            "no program declared",
            shown(build),
            "def build(config) -> toolkit.run.Program",
        )
    from toolkit.run.compiled import trace  # jax, from here on
    from toolkit.run.together import together

    with experiment.reported(source, "build failed"):
        program = together(build, settings) if settings.seeds > 1 else build(settings)
    gradients = settings.diagnostics.gradients_every > 0
    traced = trace(program, settings.seed, source, gradients)
    return Prepared(loaded, settings, traced, environment.record(source))


def _new_record(prepared: Prepared, command: str) -> dict[str, Any]:
    return {
        "format": 1,
        "status": "running",
        "command": command,
        "experiment": prepared.settings.experiment,
        "started": directory.now(),
        "ended": None,
        "step": 0,
        "steps": prepared.settings.steps,
        "seconds": 0.0,
        "process": directory.this_process(),
        "drift": [],
        **_bits(prepared.settings),
        "code": environment.code_state(),
        "environment": prepared.environment,
    }


def _bits(settings: Settings) -> dict[str, str]:
    """What many seeds in one program do to bits, for the record; nothing for a single one."""
    from toolkit.run.together import BITS

    return {"bits": f"{settings.seeds} seeds in one program, {BITS}"} if settings.seeds > 1 else {}


def _continue(
    place: directory.RunDirectory, prepared: Prepared, command: str, allow_drift: bool
) -> list[str]:
    """Takes an unfinished run over. Returns the names of what differs from its first environment.

    Raises: RunError (exit 7) if anything differs and that is not allowed.
    """
    record = place.record()
    then = record.get("environment", {})
    changed = environment.differences(then, prepared.environment)
    if changed and not allow_drift:
        old = ", ".join(
            f"{name} {shown(prepared.environment.get(name))[:24]}" for name in changed[:6]
        )
        new = ", ".join(f"{name} {shown(then.get(name))[:24]}" for name in changed[:6])
        what = f"the environment differs in {', '.join(changed)}"
        remedy = (
            f"{new} as recorded; `toolkit resume --allow-drift {place.path}` continues all the same"
        )
        raise fail(Exit.ENVIRONMENT, place.path, what, old, remedy)
    drift = sorted({*record.get("drift", []), *changed})
    place.update(status="running", process=directory.this_process(), drift=drift)
    place.event("resume", command=command, **({"drift": drift} if drift else {}))
    return drift


def _go(
    place: directory.RunDirectory, prepared: Prepared, drift: list[str], stop: signals.StopRequest
) -> int:
    """Drives the run to its end and finishes it, or records why it stopped."""
    from toolkit.run import drive as loop

    print(f"{prepared.settings.experiment} in {place.path}", flush=True)
    for statement in _bits(prepared.settings).values():
        print(statement, flush=True)
    try:
        at = _drive(place, prepared, drift, stop)
        stop.deferred = False  # all steps are saved; the rest can be repeated
        return _finish(place, prepared, at)
    except loop.Stopped as stopped:
        place.update(status="stopped", ended=directory.now())
        place.event("stop", reason=str(stopped))
        print(f"stopped: {stopped}; `toolkit resume {place.path}` continues", flush=True)
        return 128 + stopped.number
    except RunError as error:
        with contextlib.suppress(RunError):  # on a full disk, the first error is the one to report
            if error.code is not Exit.CLAIM:
                place.update(status="failed", ended=directory.now())
            place.event("failed", exit=int(error.code), reason=str(error))
        raise


def _drive(
    place: directory.RunDirectory, prepared: Prepared, drift: list[str], stop: signals.StopRequest
) -> Position:
    from toolkit.run import drive as loop
    from toolkit.run.compiled import compile_program
    from toolkit.run.progress import progress

    source = prepared.loaded.experiment
    began = time.perf_counter()
    compiled = compile_program(prepared.traced, source)
    start = _start_position(place, prepared, compiled)
    start = start._replace(seconds=start.seconds + time.perf_counter() - began)
    with progress(start.step, prepared.settings.steps) as show:
        stop.deferred = True
        digest = config_hash(prepared.loaded.resolved)
        job = loop.Job(prepared.settings, place, compiled, source, digest, bool(drift), stop, show)
        return loop.drive(job, start)


def _start_position(place: directory.RunDirectory, prepared: Prepared, compiled: Any) -> Position:
    from toolkit.run import checkpoint
    from toolkit.run.drive import Position

    folder, log = place.path / directory.CHECKPOINTS, place.path / directory.METRICS
    size = log.stat().st_size if log.is_file() else 0
    found = checkpoint.load_newest(
        folder, config_hash(prepared.loaded.resolved), size, lambda text: _warn(place, text)
    )
    if found is None:
        with experiment.reported(prepared.loaded.experiment, "init failed"):
            return Position(0, compiled.init(), 0.0, 0)
    print(f"continuing from step {found.step}", flush=True)
    state = checkpoint.restore(found, compiled.template, folder)
    return Position(found.step, state, found.seconds, found.metrics_bytes)


def _finish(place: directory.RunDirectory, prepared: Prepared, at: Position) -> int:
    """Writes `final/`, the report and the card, then marks the run finished; safe to repeat until that mark."""
    from toolkit.run import claims, final, report
    from toolkit.run.progress import table

    source = prepared.loaded.experiment
    began = time.perf_counter()
    with experiment.reported(source, "finish failed"):
        result = prepared.traced.program.finish(at.state)
    seconds = at.seconds + time.perf_counter() - began
    durable = final.read(place.path)
    metrics = durable.metrics if durable else final.write(place.path, result, seconds, source)
    verdicts = claims.judge(prepared.settings.claims, metrics)
    ending = {
        "status": "finished",
        "ended": directory.now(),
        "step": at.step,
        "seconds": metrics["seconds"],
    }
    for warning in report.write(place.path, {**place.record(), **ending}):
        _warn(place, warning)
    place.event("finish", step=at.step)
    place.update(**ending)
    rows = result.table or tuple((name, f"{value:.6g}") for name, value in metrics.items())
    print(f"{table(rows)}\nfinished: {place.path}", flush=True)
    problems = claims.missed(verdicts, metrics, place.path)
    if problems:
        raise RunError(Exit.CLAIM, *problems)
    return Exit.DONE


def config_hash(resolved: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(resolved, sort_keys=True).encode()).hexdigest()


def _refuse_other_config(place: directory.RunDirectory, loaded: config.Loaded) -> None:
    """Raises: RunError (exit 4) that names the first keys in which the directory's config differs."""
    old, new = config.fields(directory.read_config(place.path)), config.fields(loaded.resolved)
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    if keys:
        got = ", ".join(f"{key} {shown(new.get(key))}" for key in keys[:4])
        expected = ", ".join(f"{key} {shown(old.get(key))}" for key in keys[:4])
        what = "the directory holds a run of another config"
        raise fail(
            Exit.OCCUPIED,
            place.path,
            what,
            got,
            f"{expected} as in its config.yaml, or another --out",
        )


def _continues(at: Path, loaded: config.Loaded) -> bool:
    """Whether an unnamed run should continue the one at `at`: unfinished, same config, same code."""
    try:
        record = directory.read_record(at)
        same_config = directory.read_config(at) == loaded.resolved
    except RunError:
        return False
    then = record.get("environment", {})
    same_code = all(then.get(k) == v for k, v in environment.sources(loaded.experiment).items())
    return same_config and same_code and record.get("status") != "finished"


def _warn(place: directory.RunDirectory, text: str) -> None:
    print(f"warning: {text}", file=sys.stderr, flush=True)
    place.event("warning", text=text)
