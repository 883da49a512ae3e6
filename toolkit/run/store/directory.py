"""The run directory: created whole, held by one process at a time, left alone once finished.

The lock is `flock` on the open file `config.yaml`, which is written once and never replaced. The kernel drops
it with the process, so no kill leaves a lock behind.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shutil
import socket
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from toolkit.run.experiment import output, plain_yaml
from toolkit.run.experiment.errors import Exit, RunError, fail, nearest
from toolkit.run.store import files

CONFIG, RECORD, METRICS, EVENTS = "config.yaml", "run.json", "metrics.jsonl", "events.jsonl"
CHECKPOINTS, FINAL, REPORT, CARD = "checkpoints", "final", "report.html", "README.md"
RECORD_LIMIT = 16 << 20  # bytes
METRICS_LIMIT = 4 << 30
FIELDS = {
    "environment": dict,
    "process": dict,
    "code": dict,
    "drift": list,
    "step": int,
    "steps": int,
    "status": str,
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
        record = {**self.record(), **changes}
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
                file.write(line.encode() + b"\n")

    def warn(self, text: str) -> None:
        """Tells on stderr and in events.jsonl."""
        output.warn(text)
        self.event("warning", text=text)


@contextlib.contextmanager
def held(place: RunDirectory) -> Iterator[RunDirectory]:
    """Releases the lock at the end."""
    try:
        yield place
    finally:
        os.close(place.lock)


def claim(path: Path) -> RunDirectory:
    """An existing, unfinished run directory, locked. Raises: RunError (exit 4) if in use or finished."""
    if not is_run(path):
        expected = "a new or empty directory, or an unfinished run"
        raise fail(Exit.OCCUPIED, path, "not a run directory", "other files", expected)
    _refuse_links(path)
    refuse_finished(path)
    with files.storing(path):
        lock = files.open_regular(path / CONFIG, os.O_RDWR)
    try:
        with files.storing(path):
            _lock(lock, path)
        # Asked again: the process that held the lock may have finished the run before it released it.
        refuse_finished(path)
    except BaseException:
        os.close(lock)
        raise
    for name in (CHECKPOINTS, FINAL, CONFIG, RECORD, METRICS, REPORT, CARD):
        for entry in files.leftovers(path / name):
            _remove(entry)
    for entry in (path / CHECKPOINTS).glob(".*.tmp-*"):
        _remove(entry)
    return RunDirectory(path, lock)


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
    return (path / CONFIG).is_file() and (path / RECORD).is_file()


def is_free(path: Path) -> bool:
    """Whether a run can be born at `path`."""
    try:
        return not any(path.iterdir())
    except FileNotFoundError:
        return True
    except OSError:
        return False


def existing(path: Path) -> Path:
    """`path`, if it is a run directory. Raises: RunError (exit 2) otherwise."""
    if not is_run(path):
        known = [str(entry.parent) for entry in path.parent.glob(f"*/{RECORD}")]
        got = "no such directory" if not path.exists() else "something else"
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


def default_path(config: Path, continues: Callable[[Path], bool]) -> Path:
    """`runs/NAME-N`: the unfinished run that `continues` accepts and nobody holds, else the next number."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", config.stem).lstrip(".-")[:64] or "run"
    numbers = {}
    for entry in Path("runs").glob(f"{name}-*"):
        number = entry.name.removeprefix(f"{name}-")
        if number.isascii() and number.isdigit():
            numbers[int(number)] = entry
    for _, entry in sorted(numbers.items(), reverse=True):
        if is_run(entry) and not _in_use(entry) and continues(entry):
            return entry
    return Path("runs") / f"{name}-{max(numbers, default=0) + 1}"


def read_record(path: Path) -> dict[str, Any]:
    """run.json. Raises: RunError (exit 3) where it is damaged."""
    try:
        record = json.loads(files.read_regular(path / RECORD, RECORD_LIMIT))
        if isinstance(record, dict):
            wrong = [k for k, kind in FIELDS.items() if not isinstance(record.get(k, kind()), kind)]
            if not wrong:
                return record
        reason = f"another type of {wrong[0]}" if isinstance(record, dict) else "another type"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise fail(
        Exit.CHECKPOINT, path / RECORD, "damaged", reason, "the JSON object that `run` wrote"
    )


def read_config(path: Path) -> dict[str, Any]:
    """The resolved config of a run. Raises: RunError (exit 3) where it is none."""
    found = plain_yaml.read(path / CONFIG).value
    if isinstance(found, dict) and isinstance(found.get("experiment"), str):
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
            if not isinstance(rows[-1]["step"], int):
                raise ValueError("a row without a step")
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise _damaged(f"{path / METRICS}:{number}", error) from None
    return rows


def _damaged(where: object, error: Exception) -> RunError:
    return fail(Exit.CHECKPOINT, where, "damaged", str(error)[:200], "what `run` wrote")


def now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def this_process() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": socket.gethostname()}


def _lock(descriptor: int, path: Path) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise occupied(path) from None


def occupied(path: Path) -> RunError:
    """The error that names the process which holds `path`."""
    try:
        holder = read_record(path).get("process", {})
    except RunError:
        holder = {}
    got = f"process {holder.get('pid', '?')} on {holder.get('host', '?')}"
    return fail(Exit.OCCUPIED, path, "in use", got, "a directory that no other process runs in")


def _in_use(path: Path) -> bool:
    try:
        # Opened for writing too: NFS grants an exclusive lock only on a file that is open for writing.
        with open(files.open_regular(path / CONFIG, os.O_RDWR), "r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True


def _ends_a_line(descriptor: int, size: int) -> bool:
    return os.pread(descriptor, 1, size - 1) == b"\n"


def _remove(entry: Path) -> None:
    if entry.is_dir() and not entry.is_symlink():
        shutil.rmtree(entry, ignore_errors=True)
    else:
        with contextlib.suppress(OSError):  # of a read-only directory
            entry.unlink(missing_ok=True)
