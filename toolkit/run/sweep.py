"""`toolkit sweep`: one config with many settings, each run an exact command line in a directory of its own.

A sweep keeps no state that matters: what is missing is read from the run directories, so that the same command,
given again, does the rest.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import secrets
import shlex
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run import config, directory, environment, grid, launch, signals, storage
from toolkit.run.errors import Exit, Problem, RunError, fail, shown
from toolkit.run.launch.options import Options, check
from toolkit.run.launch.process import Command, Outcome
from toolkit.run.sweep_status import Status, read_status
from toolkit.run.sweep_table import announce, progress, table

RECORD, LOGS, LEASE = "sweep.json", "logs", ".lease-"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=,-]{0,127}")  # of a run's directory
PATIENCE = 10.0  # seconds that a stopped run is given to save before it counts as in use
BITS = ("NPROC", "OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "XLA_FLAGS")  # engines set some of them


class Run(NamedTuple):
    """A run of the sweep: where it goes, how it is started, and the config that it must have."""

    point: grid.Point
    path: Path
    words: tuple[str, ...]  # behind `toolkit`
    resolved: dict[str, Any]

    @property
    def command(self) -> str:
        return shlex.join(["toolkit", *self.words])


def command(
    path: Path, words: Sequence[str], out: Path | None, engine: str, options: Options, line: str
) -> int:
    """Runs what is missing of the sweep, shows all of it. Returns the exit code.

    Raises: RunError: exit 2, before anything is on disk, for a bad word, engine or config of any run; exit 4 for a
        directory in use or of other runs; with the code of the first run that failed, after all the others ended.
            Runs that finished and missed a claim (8) count only where nothing else went wrong.
    """
    check(engine, options)
    environment.pin_threads()
    points = grid.product(grid.parse(words))
    with signals.watched() as stop:
        loaded = _validated(path, points)
        sources = environment.sources(loaded[0].experiment)
        target = out or _default_path(path, words, sources)
        runs = [
            Run(point, target / point.name, _words(path, point, target / point.name), one.resolved)
            for point, one in zip(points, loaded, strict=True)
        ]
        _refuse_foreign(target, runs)
        with _held(target):
            statuses = {
                run.point.name: read_status(run.path, run.resolved, sources) for run in runs
            }
            record = _record(target, path, words, engine, line, runs, sources)
            _write(target, record)
            missing = [run for run in runs if not statuses[run.point.name].finished]
            announce(target, statuses, len(missing), engine)
            _await_release(missing, stop)
            stop.deferred = True
            outcomes = _launch(target, missing, engine, options, stop, statuses, sources)
            _write(target, _ended(record, statuses, outcomes))
    print(table({run.point.name: statuses[run.point.name] for run in runs}), flush=True)
    if stop.number is not None:
        print(f"stopped: the same command continues {target}", flush=True)
        return 128 + stop.number
    return _verdict(target, statuses)


def _validated(path: Path, points: Sequence[grid.Point]) -> list[config.Loaded]:
    """The config of every run. Raises: RunError (exit 2) with each problem once, or for two equal configs."""
    loaded: list[config.Loaded] = []
    problems: dict[Problem, Problem] = {}
    for point in points:
        try:
            loaded.append(config.load(path, point.words))
        except RunError as error:
            # An unknown key is unknown with every value; a value is bad in every combination with others.
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


def _default_path(path: Path, words: Sequence[str], sources: Mapping[str, str]) -> Path:
    """`runs/NAME-sweep-N`: the sweep of the same words and code, else the next number."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip(".-")[:64] or "config"
    numbers = {}
    for entry in Path("runs").glob(f"{name}-sweep-*"):
        number = entry.name.rpartition("-")[2]
        if number.isascii() and number.isdigit():
            numbers[int(number)] = entry
    for _, entry in sorted(numbers.items(), reverse=True):
        known = read_record(entry) or {}
        if (known.get("config"), known.get("words"), known.get("code")) == (
            str(path),
            list(words),
            sources,
        ):
            return entry
    return Path("runs") / f"{name}-sweep-{max(numbers, default=0) + 1}"


def read_record(path: Path) -> dict[str, Any] | None:
    """`sweep.json` of a directory; None where there is none that can be read."""
    try:
        record = json.loads(storage.read_regular(path / RECORD, directory.RECORD_LIMIT))
    except (OSError, ValueError, RecursionError):
        return None
    return record if isinstance(record, dict) else None


def run_paths(path: Path) -> list[Path]:
    """The runs of a sweep directory that exist, in the order of the sweep; nothing outside the directory."""
    record = read_record(path) or {}
    listed = record.get("runs")
    names = (
        [run.get("name") for run in listed if isinstance(run, dict)]
        if isinstance(listed, list)
        else []
    )
    safe = [name for name in names if isinstance(name, str) and NAME.fullmatch(name)]
    return [path / name for name in dict.fromkeys(safe) if directory.is_run(path / name)]


def _refuse_foreign(target: Path, runs: Sequence[Run]) -> None:
    """Raises: RunError (exit 4) where the directory holds other things, or a run of another config."""
    if directory.is_run(target):
        expected = "a new directory, or one made by `sweep`"
        raise fail(Exit.OCCUPIED, target, "not a sweep directory", "a single run", expected)
    if not (target / RECORD).is_file() and not _is_free(target):
        expected = "a new or empty directory, or one made by `sweep`"
        raise fail(Exit.OCCUPIED, target, "not a sweep directory", "other files", expected)
    for run in runs:
        if not directory.is_run(run.path):
            continue
        old, new = config.fields(directory.read_config(run.path)), config.fields(run.resolved)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)][:4]
        if keys:
            got = ", ".join(f"{key} {shown(new.get(key))}" for key in keys)
            expected = ", ".join(f"{key} {shown(old.get(key))}" for key in keys)
            what = "the directory holds a run of another config"
            raise fail(Exit.OCCUPIED, run.path, what, got, f"{expected} as there, or another --out")


def _is_free(target: Path) -> bool:
    try:
        return all(entry.name.startswith(".") for entry in target.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def _held(target: Path) -> Iterator[None]:
    """Keeps other sweeps out of the directory; the kernel lets go with the process."""
    with storage.storing(target):
        (target / LOGS).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = (read_record(target) or {}).get("process", {})
        os.close(descriptor)
        got = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
        expected = "a directory in which no other sweep is at work"
        raise fail(Exit.OCCUPIED, target, "in use", got, expected) from None
    except OSError:
        pass  # a file system without locks on directories: the runs still have theirs
    try:
        yield
    finally:
        os.close(descriptor)


def _record(
    target: Path, path: Path, words: Sequence[str], engine: str, line: str,
    runs: Sequence[Run], sources: Mapping[str, str],
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
        "process": directory.this_process(),
        "runs": [{"name": run.point.name, "command": run.command, "exit": None} for run in runs]
        + [run for run in known if isinstance(run, dict) and run.get("name") not in names],
    }


def _ended(
    record: dict[str, Any], statuses: Mapping[str, Status], outcomes: Mapping[str, Outcome]
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
    storage.write_file(target / RECORD, storage.json_bytes(record))


def _await_release(runs: Sequence[Run], stop: signals.StopRequest) -> None:
    """Waits a little for runs that a killed sweep left behind: they are saving, and would answer `in use`."""
    deadline = time.monotonic() + PATIENCE
    busy = [run for run in runs if _in_use(run.path)]
    if busy:
        print(f"waiting for {len(busy)} runs that are in use by other processes", flush=True)
    while busy and time.monotonic() < deadline and stop.number is None:
        time.sleep(0.1)
        busy = [run for run in busy if _in_use(run.path)]


def _in_use(path: Path) -> bool:
    try:
        with open(path / directory.CONFIG, "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _launch(
    target: Path, missing: Sequence[Run], engine: str, options: Options, stop: signals.StopRequest,
    statuses: dict[str, Status], sources: Mapping[str, str],
) -> dict[str, Outcome]:  # fmt: skip
    """Executes the missing runs; writes what became of them into `statuses`."""
    outcomes: dict[str, Outcome] = {}
    if not missing:
        return outcomes
    for stale in target.glob(
        f"{LEASE}*"
    ):  # of a sweep that was killed: what it still has running saves and ends
        stale.unlink(missing_ok=True)
    lease = target / f"{LEASE}{secrets.token_hex(4)}"
    with storage.storing(lease):
        lease.touch()
    try:
        commands = [_command(run, target, lease) for run in missing]
        by_name = {run.point.name: run for run in missing}
        with progress(len(missing)) as show:
            for outcome in launch.engine(engine)(commands, options, stop):
                run = by_name[outcome.name]
                status = read_status(run.path, run.resolved, sources).after(outcome, run.path)
                statuses[outcome.name] = status
                outcomes[outcome.name] = outcome
                show(outcome, status)
    finally:
        lease.unlink(missing_ok=True)
    return outcomes


def _command(run: Run, target: Path, lease: Path) -> Command:
    return Command(
        name=run.point.name,
        words=run.words,
        cwd=os.getcwd(),
        log=str((target / LOGS / run.point.name).absolute()),
        environment=tuple((name, os.environ.get(name)) for name in BITS),
        lease=str(lease.absolute()),
    )


def _verdict(target: Path, statuses: Mapping[str, Status]) -> int:
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
    lines = RunError(Exit.BUG, Problem(str(target), what, got + more, expected)).lines()
    print("\n".join(lines), file=sys.stderr, flush=True)
    return code  # not always an `Exit`: 137 is a killed run
