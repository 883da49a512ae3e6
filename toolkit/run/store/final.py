"""What a finished run leaves: final/params.safetensors and final/metrics.json."""

from __future__ import annotations

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.run.experiment.errors import Exit, fail, shown
from toolkit.run.experiment.interface import Final
from toolkit.run.store import arrays, directory
from toolkit.run.store.files import file_hash, json_bytes, read_regular
from toolkit.run.store.metrics import nonfinite

PARAMS, METRICS = "params.safetensors", "metrics.json"
SECONDS = "seconds"  # the only one among the final metrics that is ours
METRICS_LIMIT = 64 << 20  # bytes


class Durable(NamedTuple):
    """`final/` read back: all that figures are drawn from, besides the rows."""

    params: dict[str, Any]  # nested dict of numpy arrays
    metrics: dict[str, float]


def files(final: Final, seconds: float, place: Path, source: Path) -> dict[str, bytes]:
    """What to write into `final/`: the result, with the run's `seconds` added.

    Raises: RunError: exit 2 for a result that is no `Final`, exit 6 for a metric that is not finite.
    """
    if not isinstance(final, Final):
        raise fail(
            Exit.CONFIG, source, "finish: wrong type", type(final).__name__, "toolkit.run.Final"
        )
    if not all(isinstance(row, tuple | list) and len(row) == 2 for row in final.table):
        got = shown([*final.table])
        raise fail(Exit.CONFIG, source, "finish: bad table", got, "rows (name, value)")
    metrics = {name: _number(name, value, source) for name, value in final.metrics.items()}
    bad = nonfinite(metrics)
    if bad:
        got = ", ".join(str(metrics[name]) for name in bad)
        raise fail(
            Exit.NOT_FINITE,
            place,
            f"final metrics: {', '.join(bad)} not finite",
            got,
            "finite metrics",
        )
    metrics = {SECONDS: round(seconds, 3)} | metrics
    try:
        data, _ = arrays.encode(final.params)
    except (ValueError, TypeError) as error:
        raise fail(
            Exit.CONFIG, source, "finish: params cannot be saved", str(error), "a dict of arrays"
        ) from error
    return {PARAMS: data, METRICS: json_bytes(metrics)}


def hashes(contents: Mapping[str, bytes]) -> dict[str, str]:
    """SHA-256 of each file.

    They are recorded before the files are written, so that what a killed run left can be judged.
    """
    return {name: hashlib.sha256(data).hexdigest() for name, data in contents.items()}


def read(place: Path) -> Durable | None:
    """`final/` of a run, or None where the run has not got there. Raises: RunError (exit 3) if damaged."""
    folder = place / directory.FINAL
    if not os.path.isdir(folder):
        return None
    try:
        data = read_regular(folder / PARAMS, arrays.size_in_header(folder / PARAMS))
        params = arrays.nested(arrays.decode(data, arrays.layout_of(data)))
        metrics = json.loads(read_regular(folder / METRICS, METRICS_LIMIT))
        if not all(map(math.isfinite, metrics.values())):  # a TypeError for a text
            raise ValueError(f"{METRICS}: a number that is not finite")
        return Durable(params, metrics)
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        RecursionError,
        MemoryError,
        OverflowError,
    ) as error:
        raise fail(
            Exit.CHECKPOINT, folder, "damaged", str(error)[:200], "the files that `run` wrote"
        ) from None


def changed(place: Path, recorded: Mapping[str, str]) -> list[str]:
    """Names of the files in `final/` that are not what the record says was written."""
    folder = place / directory.FINAL
    found = []
    for name, digest in recorded.items():
        try:
            same = file_hash(folder / name) == digest
        except OSError:
            same = False
        if not same:
            found.append(name)
    return found


def _number(name: Any, value: Any, source: Path) -> float:
    if not isinstance(name, str) or name == SECONDS:
        expected = f"a name other than {SECONDS}, which is how long the run took"
        raise fail(Exit.CONFIG, source, "finish: bad metric", shown(name), expected)
    array = np.asarray(value)
    if array.shape != () or array.dtype.kind not in "biuf":
        got = f"{name} of {array.dtype}{list(array.shape)}"
        raise fail(Exit.CONFIG, source, "finish: bad metric", got, "a number")
    return array.item()
