"""metrics.jsonl: one JSON object a row, appended, and cut back on resume to what the checkpoint has seen."""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import tempfile
from collections.abc import Collection, Iterator
from io import FileIO
from pathlib import Path
from typing import Any, NamedTuple

from toolkit.run.store.files import open_regular, storing

RESERVED = ("step", "seconds", "nonfinite", "drift", "gradients")  # of a row; no metric takes them
NESTED = "gradients/"  # begins the columns that exports make of what is under `gradients`


def is_reserved(name: str) -> bool:
    """Whether a row has a name of its own here, which a metric would replace."""
    return name in RESERVED or name.startswith(NESTED)


def own_name(name: str, taken: Collection[str]) -> str:
    """What a metric is called in a table that has columns of other things: `metric.run` beside our `run`."""
    while name in taken:
        name = f"metric.{name}"
    return name


# Kept, because `json.dumps` makes a new encoder in each call.
_ENCODER = json.JSONEncoder(allow_nan=False)


class Prefix(NamedTuple):
    """The beginning of metrics.jsonl that was written when a checkpoint was made."""

    length: int  # bytes
    sha256: str | None  # None where a checkpoint of format 1 does not tell


EMPTY = Prefix(0, hashlib.sha256().hexdigest())


class Log(NamedTuple):
    """metrics.jsonl, open for appending.

    It has no buffer, so a full disk is an error in `append` and not once more when the file is closed.
    """

    path: Path
    file: FileIO
    hashed: Any  # the running SHA-256 of what it holds


@contextlib.contextmanager
def open_log(path: Path, seen: Prefix) -> Iterator[Log]:
    """The log after its first rows; later ones, of steps to repeat, are dropped."""
    with storing(path):
        descriptor = open_regular(path, os.O_RDWR | os.O_CREAT)
    with open(descriptor, "r+b", buffering=0) as file:
        with storing(path):
            hashed = _hash(file, seen.length)
            file.truncate(seen.length)
            file.seek(seen.length)
        yield Log(path, file, hashed)


@contextlib.contextmanager
def open_temporary() -> Iterator[Log]:
    """A log that nobody reads."""
    with tempfile.TemporaryFile(buffering=0) as file:
        yield Log(Path(os.devnull), file, hashlib.sha256())


def refuse_change(path: Path, seen: Prefix) -> None:
    """Raises: ValueError or OSError where the log no longer begins as it did."""
    with open(open_regular(path, os.O_RDONLY), "rb", buffering=0) as file:
        size = os.fstat(file.fileno()).st_size
        if size < seen.length:
            raise ValueError(f"{path.name}: {size} bytes, expected {seen.length}")
        if seen.sha256 is not None and _hash(file, seen.length).hexdigest() != seen.sha256:
            raise ValueError(f"{path.name}: wrong checksum")


def row(
    step: int,
    values: dict[str, Any],
    seconds: float,
    drift: bool,
    gradients: dict[str, dict[str, Any]],
) -> dict[str, Any]:
    """A row. Numbers that JSON lacks become null and are named under `nonfinite`; no gradients, no key."""
    bad = nonfinite(values)
    kept = {name: None if name in bad else value for name, value in values.items()}
    extra: dict[str, Any] = {"nonfinite": bad} if bad else {}
    extra |= {"drift": True} if drift else {}
    extra |= {"gradients": gradients} if gradients else {}
    return {"step": step, **kept, "seconds": round(seconds, 4), **extra}


def append(log: Log, line: dict[str, Any]) -> None:
    data = _ENCODER.encode(line).encode() + b"\n"
    log.hashed.update(data)
    with storing(log.path):
        while data:  # an unbuffered write may take only a part
            data = data[log.file.write(data) :]


def durable(log: Log) -> Prefix:
    """Forces the rows to disk, and returns what the checkpoint that follows them has to store."""
    with storing(log.path):
        os.fsync(log.file.fileno())
        return Prefix(log.file.tell(), log.hashed.hexdigest())


def nonfinite(values: dict[str, Any]) -> list[str]:
    """Names of the values that are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]


def _hash(file: FileIO, length: int) -> Any:
    """SHA-256 of the first `length` bytes, or of all there are."""
    hashed = hashlib.sha256()
    while data := file.read(min(1 << 20, length)):
        hashed.update(data)
        length -= len(data)
    return hashed
