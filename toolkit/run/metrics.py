"""metrics.jsonl: one JSON object a row, appended, and cut back on resume to what the checkpoint has seen."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any, BinaryIO

from toolkit.run.storage import storing

RESERVED = ("step", "seconds", "nonfinite", "drift", "gradients")  # of a row; no metric takes them


def open_log(path: Path, length: int) -> BinaryIO:
    """The log opened for appending after its first `length` bytes; later rows, of steps to repeat, are dropped."""
    with storing(path):
        file = open(path, "r+b" if path.exists() else "w+b")  # noqa: SIM115 (the caller closes it)
        file.truncate(length)
        file.seek(length)
    return file


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


def append(file: BinaryIO, line: dict[str, Any]) -> None:
    with storing(Path(file.name)):
        file.write(json.dumps(line, allow_nan=False).encode() + b"\n")
        file.flush()


def durable(file: BinaryIO) -> int:
    """Forces the rows to disk; returns the length in bytes, for the checkpoint that presumes them."""
    with storing(Path(file.name)):
        file.flush()
        os.fsync(file.fileno())
        return file.tell()


def nonfinite(values: dict[str, Any]) -> list[str]:
    """Names of the values that are NaN or infinite."""
    return [name for name, value in values.items() if not math.isfinite(value)]
