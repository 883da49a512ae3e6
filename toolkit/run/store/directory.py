"""The run directory: created whole, held by one process at a time, left alone once finished.

The lock is `flock` on the open file `config.yaml`, which is written once and never replaced. The kernel drops
it with the process, so no kill leaves a lock behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import UnionType
from typing import Any

from toolkit.run.experiment import heard, output, plain_yaml
from toolkit.run.experiment.errors import Exit, RunError, fail, nearest
from toolkit.run.store import files, process

CONFIG, RECORD, METRICS, EVENTS = "config.yaml", "run.json", "metrics.jsonl", "events.jsonl"
CHECKPOINTS, FINAL, REPORT, CARD = "checkpoints", "final", "report.html", "README.md"
RECORD_LIMIT = 16 << 20  # bytes
METRICS_LIMIT = 4 << 30
MAX_SEEDS = 10_000  # of a config; an edited one may say anything
FIELDS: dict[str, type | UnionType] = {  # of run.json, where a field is there
    **dict.fromkeys(("environment", "process", "code", "final", "nonfinite"), dict),
    **dict.fromkeys(("step", "steps"), int),
    **dict.fromkeys(("status", "command", "experiment"), str),
    **dict.fromkeys(("drift", "wrote"), list),
    "seconds": int | float,
}


@dataclass(frozen=True)
class RunDirectory:
    """A run directory that this process holds."""

    path: Path
    lock: int  # descriptor of the locked config.yaml

    def record(self) -> dict[str, Any]:
        return read_record(self.path)

    def update(self, **changes: Any) -> dict[str, Any]:
        """Rewrites run.json with these fields changed."""
        record = sealed({**self.record(), **changes})
        files.write_file(self.path / RECORD, files.json_bytes(record))
        return record

    def event(self, name: str, **fields: Any) -> None:
        """Appends a line to events.jsonl."""
        line = json.dumps({"time": now(), "event": name, **fields}, ensure_ascii=False)
        with files.storing(self.path / EVENTS):
            flags = os.O_RDWR | os.O_CREAT | os.O_APPEND
            with open(files.open_regular(self.path / EVENTS, flags), "a+b") as file:
                if file.tell() and not _ends_a_line(file.fileno(), file.tell()):
                    file.write(b"\n")  # a killed process may leave half a line
                file.write(files.text_bytes(line) + b"\n")

    def warn(self, text: str) -> None:
        """Tells on stderr and in events.jsonl."""
        output.warn(text)
        self.event("warning", text=text)


@contextlib.contextmanager
def held(place: RunDirectory) -> Iterator[RunDirectory]:
    """Releases the lock at the end."""
    try:
        with heard.apart_from(place.path):
            yield place
    finally:
        os.close(place.lock)


def claim(path: Path, to_write: bool = True) -> RunDirectory:
    """An existing, unfinished run directory, locked. Raises: RunError (exit 4) if in use or finished.

    Args:
        to_write: the run is to go on, so run.json names this process from now on.
    """
    if not is_run(path):
        expected = "a new or empty directory, or an unfinished run"
        raise fail(Exit.OCCUPIED, path, "not a run directory", "other files", expected)
    _refuse_links(path)
    refuse_finished(path)
    with files.storing(path):
        lock = files.open_regular(path / CONFIG, os.O_RDWR)
    try:
        with files.storing(path):
            if not process.lock(lock, lambda: _holder(path)):
                raise occupied(path)
        # Asked again: the process that held the lock may have finished the run before it released it.
        refuse_finished(path)
        # At once, so that others who want the run are told this process, and not one that was killed.
        place = RunDirectory(path, lock)
        if to_write:
            place.update(process=process.this_process())
    except BaseException:
        os.close(lock)
        raise
    for name in (CHECKPOINTS, FINAL, CONFIG, RECORD, METRICS, REPORT, CARD):
        for entry in files.leftovers(path / name):
            _remove(entry)
    for entry in (path / CHECKPOINTS).glob(".*.tmp-*"):
        _remove(entry)
    return place


def _refuse_links(path: Path) -> None:
    """Raises: RunError (exit 3) where what we write would end up outside the run directory."""
    for name in (CONFIG, RECORD, METRICS, EVENTS, CHECKPOINTS, FINAL):
        if (path / name).is_symlink():
            expected = "a file or directory of the run's own"
            raise fail(Exit.CHECKPOINT, path / name, "replaced", "a link", expected)


def refuse_finished(path: Path) -> None:
    """Raises: RunError (exit 4) if the run in `path` is finished."""
    if read_record(path).get("status") == "finished":
        raise fail(
            Exit.OCCUPIED,
            path,
            "the run is finished",
            "a finished run",
            "an unfinished one, or another --out",
        )


def is_run(path: Path) -> bool:
    # Not `Path.is_file`, which raises for a name that is too long or a folder that may not be read.
    return os.path.isfile(path / CONFIG) and os.path.isfile(path / RECORD)


def in_use(path: Path) -> bool:
    """Whether a process holds the run."""
    return process.is_locked(path / CONFIG)


def is_free(path: Path) -> bool:
    """Whether a run can be born at `path`. Raises: RunError (exit 5) where that cannot be seen."""
    with files.storing(path):
        try:
            return not any(path.iterdir())
        except FileNotFoundError:
            return True
        except NotADirectoryError:
            return False


def target_of(path: Path) -> Path:
    """Where a directory is made that `path` names: a link, say to a scratch disk, is followed."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def existing(path: Path) -> Path:
    """`path`, if it is a run directory. Raises: RunError (exit 2) otherwise."""
    if not is_run(path):
        known = [str(entry.parent) for entry in path.parent.glob(f"*/{RECORD}")]
        got = "something else" if os.path.lexists(path) else "no such directory"
        raise fail(
            Exit.CONFIG,
            path,
            "not a run directory",
            got,
            "a directory made by `run`",
            nearest(path, known),
        )
    return path


def remove_leftovers(path: Path) -> None:
    """Removes what killed starts left beside `path`, but nothing that a living process still holds."""
    for entry in files.leftovers(path):
        # A start in progress locks either the file beside the directory, or config.yaml in its half-made one.
        locked = entry if entry == files.lock_of(path) else entry / CONFIG
        try:
            descriptor = files.open_regular(locked, os.O_RDWR)
        except OSError:
            _remove(entry)
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(entry)
        except OSError:
            pass  # a living process holds it
        finally:
            os.close(descriptor)


def sealed(record: dict[str, Any]) -> dict[str, Any]:
    """The record with its checksum, by which a report sees that run.json was edited."""
    return {**record, "checksum": checksum(record)}


def checksum(record: Mapping[str, Any]) -> str:
    content = {key: value for key, value in record.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def read_record(path: Path) -> dict[str, Any]:
    """run.json. Raises: RunError (exit 3) where it is damaged."""
    try:
        record = json.loads(files.read_regular(path / RECORD, RECORD_LIMIT))
        if isinstance(record, dict):
            known = {k: kind for k, kind in FIELDS.items() if k in record}
            wrong = [k for k, kind in known.items() if not isinstance(record[k], kind)]
            if not (wrong or math.isfinite(record.get("seconds", 0))):
                wrong = ["seconds"]
            if not wrong:
                return record
        reason = f"another type of {wrong[0]}" if isinstance(record, dict) else "another type"
    except (OSError, ValueError, RecursionError, OverflowError) as error:
        reason = str(error)
    raise fail(
        Exit.CHECKPOINT, path / RECORD, "damaged", reason, "the JSON object that `run` wrote"
    )


def read_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises: RunError (exit 3) where it is none."""
    found = plain_yaml.read(path / CONFIG).value
    if isinstance(found, dict) and isinstance(found.get("experiment"), str):
        seed, seeds = found.get("seed", 0), found.get("seeds", 1)
        if type(seed) is int and type(seeds) is int and 1 <= seeds <= MAX_SEEDS:
            return found
    expected = "the mapping that `run` wrote"
    raise fail(Exit.CHECKPOINT, path / CONFIG, "damaged", "another type", expected)


def read_events(path: Path) -> list[dict[str, Any]]:
    """The events of a run, oldest first. A damaged line is left out, since only people read events."""
    try:
        data = files.read_regular(path / EVENTS, METRICS_LIMIT)
    except OSError:
        return []
    events = []
    for line in data.splitlines():
        with contextlib.suppress(ValueError, RecursionError):
            event = json.loads(line)
            events += [event] if isinstance(event, dict) else []
    return events


def read_rows(path: Path) -> list[dict[str, Any]]:
    """The rows of metrics.jsonl; half a last line, as a killed run leaves it, is left out.

    Raises: RunError (exit 3) that names the damaged line.
    """
    try:
        data = files.read_regular(path / METRICS, METRICS_LIMIT)
    except FileNotFoundError:
        return []
    except OSError as error:
        raise _damaged(path / METRICS, error) from None
    rows = []
    for number, line in enumerate(data.split(b"\n")[:-1], 1):
        try:
            rows.append(json.loads(line))
            if type(rows[-1]["step"]) is not int or not math.isfinite(rows[-1].get("seconds", 0)):
                raise ValueError("no whole number for a step, or no number for seconds")
        except (OverflowError, ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(f"{path / METRICS}:{number}", error) from None
    return rows


def _damaged(where: object, error: Exception) -> RunError:
    return fail(Exit.CHECKPOINT, where, "damaged", str(error)[:200], "what `run` wrote")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def occupied(path: Path) -> RunError:
    """The error that names the process which holds `path`."""
    got = process.holder(lambda: _holder(path))
    return fail(Exit.OCCUPIED, path, "in use", got, "a directory that no other process runs in")


def _holder(path: Path) -> Any:
    try:
        return read_record(path).get("process")
    except RunError:
        return None


def _ends_a_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # of a read-only directory
            entry.unlink(missing_ok=True)
