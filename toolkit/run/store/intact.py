"""Whether the files of a run are still as the run wrote them."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from toolkit.run.store import checkpoints, directory, final, metrics
from toolkit.run.store.files import file_hash, read_regular, storing

LOGS = (
    directory.METRICS,
    directory.EVENTS,
)  # they are appended to, so only their beginning is kept


def logs(path: Path) -> dict[str, Any]:
    """For run.json at the end of a run: how long its logs are, and their hashes."""
    found = {}
    for name in LOGS:
        with storing(path / name):
            data = read_regular(path / name, directory.METRICS_LIMIT)
        found[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    return found


def changed(path: Path, record: Mapping[str, Any]) -> list[str]:
    """Names of the files that are not what the run wrote, such as `final/metrics.json`.

    A file is compared with what run.json says of it. The rows of a run that has not ended are compared with
    its newest checkpoint.
    """
    return list(dict.fromkeys(_changed(path, record)))


def _changed(path: Path, record: Mapping[str, Any]) -> Iterator[str]:
    if "checksum" in record and record["checksum"] != directory.checksum(record):
        yield directory.RECORD
    recorded = record.get("config_sha256")
    if recorded is not None and _hash(path / directory.CONFIG) != recorded:
        yield directory.CONFIG
    for name, seen in _seen(path, record).items():
        try:
            metrics.refuse_change(path / name, seen)
            # Rows that were added after the end are no rows of this run. Events may be.
            whole = name != directory.METRICS or record.get("status") != "finished"
            same = whole or (path / name).stat().st_size == seen.length
        except (OSError, ValueError):
            same = False
        if not same:
            yield name
    hashes = record.get("final")
    if isinstance(hashes, dict) and (path / directory.FINAL).is_dir():
        yield from (f"{directory.FINAL}/{name}" for name in final.changed(path, hashes))


def _seen(path: Path, record: Mapping[str, Any]) -> dict[str, metrics.Prefix]:
    """What each log has to begin with."""
    recorded = record.get("logs")
    try:
        if isinstance(recorded, dict):
            known = {name: recorded[name] for name in LOGS if name in recorded}
            return {k: metrics.Prefix(int(v["bytes"]), str(v["sha256"])) for k, v in known.items()}
        newest = checkpoints.newest_prefix(path / directory.CHECKPOINTS)
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return {}  # a damaged record or checkpoint says nothing of the logs
    return {} if newest is None else {directory.METRICS: newest}


def _hash(path: Path) -> str | None:
    try:
        return file_hash(path)
    except OSError:
        return None
