"""`toolkit sweep`: one config with many settings, each run an exact command line in a directory of its own.

What is missing is read from the run directories, not from a state of the sweep. So the same command, given
again, does the rest, whatever happened before.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from toolkit.run.drive import signals
from toolkit.run.experiment import load
from toolkit.run.experiment.errors import Complaint, Exit, RunError, fail, shown
from toolkit.run.store import directory, environment, files, process
from toolkit.run.store.sweeps import RECORD, read_record
from toolkit.run.sweep import grid
from toolkit.run.sweep.launch import engines
from toolkit.run.sweep.launch.command_line import Command, Outcome
from toolkit.run.sweep.launch.options import Options, check
from toolkit.run.sweep.record import (
    LEASE,
    LOGS,
    SweptRun,
    await_release,
    default_path,
    held,
    is_of,
    named_as_before,
    refuse_foreign,
)
from toolkit.run.sweep.status import RunStatus, read_status
from toolkit.run.sweep.table import announce, progress, table

BITS = ("NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS")  # engines set some of them


def sweep(
    path: Path,
    words: Sequence[str],
    out: Path | None,
    engine: str,
    options: Options,
    line: str,
    seeds_together: bool = False,
) -> int:
    """Runs what is missing of the sweep, shows all of it. Returns the exit code.

    A run that fails does not stop the others. The exit code is that of the first run that failed; runs that
    finished and missed a claim (8) count only where nothing else went wrong.

    Raises: RunError: exit 2, before anything is on disk, for a bad word, engine or config of any run; exit 4
        for a directory in use or of other runs.
    """
    check(engine, options)
    environment.pin_threads()
    axes = grid.parse(words)
    points = grid.product(grid.seeds_together(axes) if seeds_together else axes)
    with signals.watched() as stop:
        loaded = _validated(path, points)
        sources = environment.sources(loaded[0].experiment)
        words = [*words, *(["--seeds-together"] if seeds_together else [])]
        with contextlib.ExitStack() as stack:
            target, runs = _place(stack, path, words, sources, out, points, loaded)
            statuses = {
                run.point.name: read_status(run.path, run.resolved, sources) for run in runs
            }
            record = _record(target, path, words, engine, line, runs, sources)
            _write(target, record)
            missing = [run for run in runs if not statuses[run.point.name].finished]
            announce(target, statuses, len(missing), engine)
            await_release(missing, stop)
            stop.deferred = True
            outcomes = _launch(target, missing, engine, options, stop, statuses, sources)
            _write(target, _ended(record, statuses, outcomes))
    print(table({run.point.name: statuses[run.point.name] for run in runs}), flush=True)
    if stop.number is not None:
        print(f"stopped: the same command continues {target}", flush=True)
        return 128 + stop.number
    return _verdict(target, statuses)


def _place(
    stack: contextlib.ExitStack, path: Path, words: Sequence[str], sources: Mapping[str, str],
    out: Path | None, points: Sequence[grid.Point], loaded: Sequence[load.Loaded],
) -> tuple[Path, list[SweptRun]]:  # fmt: skip
    """The sweep's directory, which `stack` holds from now on, and its runs.

    Without `out`, a place that another sweep takes at the same moment is left to it, and the next number is
    tried. Only if that one is of the same words, it does what was asked for, so this one is refused.
    """
    passed: list[Path] = []
    while True:
        target = out or default_path(path, words, sources, passed)
        try:
            refuse_foreign(target, _runs(target, path, points, loaded))
            with contextlib.ExitStack() as own:
                own.enter_context(held(target))
                # Asked now: another sweep may have been here before this one held the directory.
                new = not os.path.isfile(target / RECORD)
                if out is not None or new or is_of(target, path, words, sources):
                    stack.push(own.pop_all())
                    return target, _runs(target, path, points, loaded)
        except RunError as error:
            ours = out is not None or is_of(target, path, words, sources)
            if ours or error.code is not Exit.OCCUPIED:
                raise
        passed.append(target)


def _runs(
    target: Path, path: Path, points: Sequence[grid.Point], loaded: Sequence[load.Loaded]
) -> list[SweptRun]:
    configs = [one.resolved for one in loaded]
    return [
        SweptRun(point, target / point.name, _words(path, point, target / point.name), config)
        for point, config in zip(named_as_before(target, points, configs), configs, strict=True)
    ]


def _validated(path: Path, points: Sequence[grid.Point]) -> list[load.Loaded]:
    """The config of every run. Raises: RunError (exit 2) with each problem once, or for two equal configs."""
    loaded: list[load.Loaded] = []
    problems: dict[Complaint, Complaint] = {}
    for point in points:
        try:
            loaded.append(load.load(path, point.words))
        except RunError as error:
            # A mistake that many runs share is printed once. An unknown key is one, whatever its value.
            problems |= {
                p._replace(got="") if p.what.endswith("unknown key") else p: p
                for p in error.problems
            }
    if problems:
        raise RunError(Exit.CONFIG, *problems.values())
    seen: dict[str, str] = {}
    for point, one in zip(points, loaded, strict=True):
        other = seen.setdefault(json.dumps(one.resolved, sort_keys=True), point.name)
        if other != point.name:
            got = f"{shown(other)} and {shown(point.name)}"
            raise fail(
                Exit.CONFIG, "toolkit sweep", "two runs of the same config", got, "each once"
            )
    return loaded


def _words(path: Path, point: grid.Point, target: Path) -> tuple[str, ...]:
    return ("run", str(path), *point.words, "--out", str(target))


def _record(
    target: Path, path: Path, words: Sequence[str], engine: str, line: str,
    runs: Sequence[SweptRun], sources: Mapping[str, str],
) -> dict[str, Any]:  # fmt: skip
    """sweep.json, with the runs of earlier and other commands in this directory behind those of this one."""
    known = (read_record(target) or {}).get("runs", [])
    names = {run.point.name for run in runs}
    return {
        "format": 1,
        "command": line,
        "engine": engine,
        "config": str(path),
        "words": list(words),
        "code": dict(sources),
        "started": directory.now(),
        "ended": None,
        "process": process.this_process(),
        "runs": [{"name": run.point.name, "command": run.command, "exit": None} for run in runs]
        + [run for run in known if isinstance(run, dict) and run.get("name") not in names],
    }


def _ended(
    record: dict[str, Any], statuses: Mapping[str, RunStatus], outcomes: Mapping[str, Outcome]
) -> dict[str, Any]:
    def ended(run: dict[str, Any]) -> dict[str, Any]:
        status, outcome = statuses.get(run["name"]), outcomes.get(run["name"])
        if status is None:
            return run
        message = (
            {"message": outcome.message} if outcome and status.code and outcome.message else {}
        )
        return {**run, "exit": status.code, **message}

    return {**record, "ended": directory.now(), "runs": [ended(run) for run in record["runs"]]}


def _write(target: Path, record: dict[str, Any]) -> None:
    files.write_file(target / RECORD, files.json_bytes(record))


def _launch(
    target: Path, missing: Sequence[SweptRun], engine: str, options: Options, stop: signals.StopRequest,
    statuses: dict[str, RunStatus], sources: Mapping[str, str],
) -> dict[str, Outcome]:  # fmt: skip
    """Executes the missing runs; writes what became of them into `statuses`."""
    outcomes: dict[str, Outcome] = {}
    if not missing:
        return outcomes
    # A sweep that was killed may have left runs at work on other machines. They look for its lease: once that
    # is gone they save and end, so that this sweep can continue them.
    for stale in target.glob(f"{LEASE}*"):
        stale.unlink(missing_ok=True)
    lease = target / f"{LEASE}{secrets.token_hex(4)}"
    with files.storing(lease):
        lease.touch()
    try:
        commands = [_command(run, target, lease) for run in missing]
        by_name = {run.point.name: run for run in missing}
        with progress(len(missing)) as show:
            for outcome in engines.engine(engine)(commands, options, stop):
                run = by_name[outcome.name]
                status = read_status(run.path, run.resolved, sources).after(outcome, run.path)
                statuses[outcome.name] = status
                outcomes[outcome.name] = outcome
                show(outcome, status)
    finally:
        lease.unlink(missing_ok=True)
    return outcomes


def _command(run: SweptRun, target: Path, lease: Path) -> Command:
    return Command(
        name=run.point.name,
        words=run.words,
        cwd=os.getcwd(),
        log=str((target / LOGS / run.point.name).absolute()),
        environment=tuple((name, os.environ.get(name)) for name in BITS),
        lease=str(lease.absolute()),
    )


def _verdict(target: Path, statuses: Mapping[str, RunStatus]) -> int:
    """0, or the first failure as an error; a missed claim counts only where nothing else went wrong."""
    failed = {name: status.code for name, status in statuses.items() if status.code != Exit.DONE}
    if not failed:
        return Exit.DONE
    codes = [Exit.STORAGE if code is None else code for code in failed.values()]
    code = next((code for code in codes if code != Exit.CLAIM), int(Exit.CLAIM))
    got = ", ".join(f"{name} with exit code {code}" for name, code in list(failed.items())[:4])
    more = f" and {len(failed) - 4} more" if len(failed) > 4 else ""
    if code == Exit.CLAIM:
        what, expected = f"{len(failed)} of {len(statuses)} runs miss a claim", "none"
    else:
        what = f"{len(failed)} of {len(statuses)} runs failed"
        expected = f"0; {target / LOGS} says why, the same command tries them again"
    # The error only formats the message: `code` may have no name in `Exit`, such as 137 of a killed run.
    lines = RunError(Exit.BUG, Complaint(str(target), what, got + more, expected)).lines()
    print("\n".join(lines), file=sys.stderr, flush=True)
    return code
