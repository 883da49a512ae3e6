"""The directory of a sweep while it runs: its runs, and the lock that keeps other sweeps out."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run.drive import signals
from toolkit.run.experiment import load
from toolkit.run.experiment.errors import Exit, RunError, fail, shown
from toolkit.run.store import directory, files, process
from toolkit.run.store.sweeps import RECORD, read_record, run_paths
from toolkit.run.sweep import grid

LOGS, LEASE = "logs", ".lease-"
PATIENCE = 10.0  # seconds that a stopped run is given to save before it counts as in use


class SweptRun(NamedTuple):
    """A run of the sweep: where it goes, how it is started, and the config that it must have."""

    point: grid.Point
    path: Path
    words: tuple[str, ...]  # behind `toolkit`
    resolved: dict[str, Any]

    @property
    def command(self) -> str:
        return shlex.join(["toolkit", *self.words])


def default_path(
    path: Path, words: Sequence[str], sources: Mapping[str, str], passed: Collection[Path] = ()
) -> Path:
    """`runs/NAME-sweep-N`: the sweep of the same words and code, else the next number.

    Args:
        passed: paths that other sweeps took in the meantime.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).lstrip(".-")[:64] or "config"
    numbers = {}
    for entry in {*Path("runs").glob(f"{name}-sweep-*"), *passed}:
        number = entry.name.rpartition("-")[2]
        if number.isascii() and number.isdigit():
            numbers[int(number)] = entry
    for _, entry in sorted(numbers.items(), reverse=True):
        if entry not in passed and is_of(entry, path, words, sources):
            return entry
    return Path("runs") / f"{name}-sweep-{max(numbers, default=0) + 1}"


def is_of(target: Path, path: Path, words: Sequence[str], sources: Mapping[str, str]) -> bool:
    """Whether a directory holds the sweep of these words and this code."""
    known = read_record(target) or {}
    of = (known.get("config"), known.get("words"), known.get("code"))
    return of == (str(path), list(words), sources)


def named_as_before(
    target: Path, points: Sequence[grid.Point], configs: Sequence[Mapping[str, Any]]
) -> list[grid.Point]:
    """The points, each under the name of the run in `target` that has its config already.

    A name says what is swept. A sweep that goes on with other axes names a config otherwise, and would make
    its run once more.
    """
    known: dict[str, dict[str, bool]] = {}
    for run in run_paths(target):
        with contextlib.suppress(RunError):  # a damaged run has no config
            text = json.dumps(directory.read_config(run), sort_keys=True)
            finished = directory.read_record(run).get("status") == "finished"
            known.setdefault(text, {})[run.name] = finished
    found = []
    for point, config in zip(points, configs, strict=True):
        names = known.get(json.dumps(config, sort_keys=True), {})
        done = [name for name, finished in names.items() if finished]
        best = next(iter([*done, *names]), point.name)
        found.append(point if point.name in names else point._replace(name=best))
    return found


def refuse_foreign(target: Path, runs: Sequence[SweptRun]) -> None:
    """Raises: RunError (exit 4) where the directory holds other things, or a run of another config."""
    if directory.is_run(target):
        expected = "a new directory, or one made by `sweep`"
        raise fail(Exit.OCCUPIED, target, "not a sweep directory", "a single run", expected)
    if not os.path.isfile(target / RECORD) and not _is_free(target):
        expected = "a new or empty directory, or one made by `sweep`"
        raise fail(Exit.OCCUPIED, target, "not a sweep directory", "other files", expected)
    for run in runs:
        if not directory.is_run(run.path):
            continue
        old, new = load.fields(directory.read_config(run.path)), load.fields(run.resolved)
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)][:4]
        if keys:
            got = ", ".join(f"{key} {shown(new.get(key))}" for key in keys)
            expected = ", ".join(f"{key} {shown(old.get(key))}" for key in keys)
            what = "the directory holds a run of another config"
            raise fail(Exit.OCCUPIED, run.path, what, got, f"{expected} as there, or another --out")


def _is_free(target: Path) -> bool:
    try:
        # Names with a dot are leftovers of a killed start, or what a file browser left.
        return all(entry.name.startswith(".") for entry in target.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


@contextlib.contextmanager
def held(target: Path) -> Iterator[None]:
    """Keeps other sweeps out of the directory; the kernel lets go with the process."""
    with files.storing(target):
        (target / LOGS).mkdir(parents=True, exist_ok=True)
        descriptor = os.open(target, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        got = process.holder(lambda: (read_record(target) or {}).get("process"))
        expected = "a directory in which no other sweep is at work"
        raise fail(Exit.OCCUPIED, target, "in use", got, expected) from None
    except OSError:
        pass  # a file system without locks on directories: the runs still have theirs
    try:
        yield
    finally:
        os.close(descriptor)


def await_release(runs: Sequence[SweptRun], stop: signals.StopRequest) -> None:
    """Waits a little for runs that a killed sweep left at work.

    They are saving their state, and until they have left, a start would be refused as `in use`.
    """
    deadline = time.monotonic() + PATIENCE
    busy = [run for run in runs if _in_use(run)]
    if busy:
        print(f"waiting for {len(busy)} runs that are in use by other processes", flush=True)
    while busy and time.monotonic() < deadline and stop.number is None:
        time.sleep(0.1)
        busy = [run for run in busy if _in_use(run)]


def _in_use(run: SweptRun) -> bool:
    return directory.is_run(run.path) and directory.in_use(run.path)
