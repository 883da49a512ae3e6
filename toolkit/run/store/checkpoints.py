"""Checkpoints: `checkpoints/<step>/` with the state, and a manifest that makes any damage visible.

A state of which no process has the whole lies in `<step>/state`, where each process has written its part.

A checkpoint is used only if the checksums in its manifest are right (of the manifest itself and of the state
file), it belongs to this config, and the rows of metrics.jsonl up to it are unchanged. Damaged ones are
renamed, never deleted.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.store import arrays, files, shards
from toolkit.run.store.metrics import Prefix, refuse_change

STATE, MANIFEST = "state.safetensors", "manifest.json"
SHARDS = "state"
FORMAT = 2  # format 1 has no checksum of the metrics
SHARDED = 3  # the format of a state in parts
MANIFEST_LIMIT = 64 << 20  # bytes
# What reading a damaged one raises.
BAD = (OSError, ValueError, TypeError, KeyError, RecursionError, MemoryError)


class Checkpoint(NamedTuple):
    """What a resumed run starts from."""

    step: int
    seconds: float  # of running, over all processes so far
    logged: Prefix  # of metrics.jsonl at this step
    values: dict[str, np.ndarray]  # of a state in parts: none, each process reads its part
    layout: arrays.Layout
    sharded: bool


def save(folder: Path, step: int, state: Any, seconds: float, logged: Prefix, config: str) -> int:
    """Writes `folder/<step>` durably; returns its size in bytes. One that is already there is kept."""
    if (folder / str(step)).exists():
        return 0
    data, layout = arrays.encode(arrays.local(state))
    of_state = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    manifest = _sealed(FORMAT, step, seconds, logged, config, of_state, layout)
    files.write_folder(folder / str(step), {STATE: data, MANIFEST: manifest})
    return len(data)


def save_shards(
    folder: Path,
    step: int,
    state: Any,
    seconds: float,
    logged: Prefix,
    config: str,
    leads: bool,
    together: Callable[[], None],
) -> int:
    """As `save`, for a state in parts. Every process calls it, with a `state` of the same step.

    Args:
      leads: this process writes the manifest, which makes the checkpoint complete.
      together: waits for all processes.
    """
    path, temporary = folder / str(step), folder / f".{step}.tmp-shards"
    there = path.exists()
    # Nobody may look for it any more once process 0 begins to write it.
    together()
    if there:
        return 0
    if leads:
        with files.storing(path):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
    together()
    shards.write(temporary / SHARDS, state)
    size = 0
    if leads:
        found = shards.made_durable(temporary / SHARDS)
        size = sum(one for one, _ in found.values())
        layout = arrays.layout_of_tree(state)
        of_state = {"bytes": size, "files": found}
        manifest = _sealed(SHARDED, step, seconds, logged, config, of_state, layout)
        with files.storing(path):
            files.write_new(temporary / MANIFEST, manifest)
            files.sync_folder(temporary)
            temporary.rename(path)
            files.sync_folder(folder)
    together()
    return size


def _sealed(
    form: int,
    step: int,
    seconds: float,
    logged: Prefix,
    config: str,
    of_state: dict[str, Any],
    layout: arrays.Layout,
) -> bytes:
    """A manifest, with its own checksum."""
    manifest = {
        "format": form,
        "config": config,
        "step": step,
        "seconds": seconds,
        "metrics_bytes": logged.length,
        "metrics_sha256": logged.sha256,
        **of_state,
        "leaves": layout,
    }
    manifest["checksum"] = _checksum(manifest)
    return files.json_bytes(manifest)


def prune(folder: Path, keep: int, scheduled: Callable[[int], bool]) -> None:
    """Deletes all but the newest checkpoint and the `keep` newest at scheduled steps.

    A checkpoint that a signal caused may be at any step. It is deleted once a newer one exists, so an
    interrupted run ends with the same checkpoints as an uninterrupted one.
    """
    steps = [step for step, _ in _entries(folder)]
    kept = {*steps[:1], *[step for step in steps if scheduled(step)][:keep]}
    for step in set(steps) - kept:
        with contextlib.suppress(OSError):
            shutil.rmtree(folder / str(step))


def load_newest(
    folder: Path, config: str, log: Path, room: int, warn: Callable[[str], None]
) -> Checkpoint | None:
    """The newest usable checkpoint, or None where none was ever made.

    Args:
        config: hash of the config it has to belong to.
        log: metrics.jsonl, which has to begin as it did.
        room: bytes of the state's arrays; a file that says it holds more is not read.
        warn: takes a line about each one that is set aside.

    Raises: RunError (exit 3) where there are checkpoints and none is usable; they are left as they are.
    """
    damaged: list[tuple[Path, str]] = []
    for step, entry in _entries(folder):
        try:
            found = _load(entry, step, config, log, room)
        except BAD as error:
            damaged.append((entry, str(error)[:200]))
            continue
        for path, reason in damaged:
            warn(
                f"{path}: damaged ({reason}), set aside as {files.set_aside(path).name}; using {entry}"
            )
        return found
    if damaged or any(folder.glob("*.damaged-*")):
        path, reason = damaged[0] if damaged else (folder, "only damaged ones")
        raise fail(Exit.CHECKPOINT, path, "no usable checkpoint", reason, "an intact one")
    return None


def load_step(folder: Path, step: int, config: str, log: Path, room: int) -> Checkpoint:
    """The checkpoint that another process has found usable. Raises: RunError (exit 3) if it is not so here."""
    entry = folder / str(step)
    try:
        return _load(entry, step, config, log, room)
    except BAD as error:
        expected = "what process 0 reads there; the processes need one file system"
        raise fail(Exit.CHECKPOINT, entry, "not usable", str(error)[:200], expected) from None


def newest_prefix(folder: Path) -> Prefix | None:
    """What metrics.jsonl began with when the newest checkpoint was made; None where there is no checkpoint.

    Raises: OSError, ValueError, TypeError or KeyError for a manifest that is not what `save` wrote.
    """
    for _, entry in _entries(folder):
        return _logged(_manifest(entry))
    return None


def restore(found: Checkpoint, template: Any, folder: Path) -> Any:
    """The state on its devices. Raises: RunError (exit 3) where the experiment's state has another layout."""
    different = arrays.mismatch(found.layout, template)
    if different:
        place = folder / str(found.step) / STATE
        raise fail(Exit.CHECKPOINT, place, "another state than the experiment's", *different)
    if not found.sharded:
        return arrays.restore(found.values, found.layout, template)
    path = folder / str(found.step) / SHARDS
    try:
        return shards.read(path, template)
    except (ValueError, OSError) as error:
        reason = str(error).partition("\n")[0][:200]
        raise fail(Exit.CHECKPOINT, path, "not readable", reason, "what `run` wrote") from None


def _load(entry: Path, step: int, config: str, log: Path, room: int) -> Checkpoint:
    """Raises: OSError, ValueError, TypeError or KeyError, for a file that is not what `save` wrote."""
    manifest = _manifest(entry)
    if (manifest["step"], manifest["config"]) != (step, config):
        raise ValueError(f"{MANIFEST}: of another step or config")
    if manifest["format"] not in range(1, SHARDED + 1):
        raise ValueError(f"{MANIFEST}: of another version, {manifest['format']!r}")
    logged, sharded = _logged(manifest), manifest["format"] == SHARDED
    refuse_change(log, logged)
    if sharded:
        shards.refuse_change(entry / SHARDS, manifest["files"])
        return Checkpoint(
            step, _seconds(manifest["seconds"]), logged, {}, manifest["leaves"], sharded
        )
    # The limit is checked before the file is read. Whoever can damage the file can write any size into the
    # manifest, and reading a huge one would fill the memory.
    limit = min(_count(manifest["bytes"]), room + arrays.HEADER_LIMIT)
    data = files.read_regular(entry / STATE, limit)
    if (len(data), hashlib.sha256(data).hexdigest()) != (manifest["bytes"], manifest["sha256"]):
        raise ValueError(f"{STATE}: wrong checksum")
    values = arrays.decode(data, manifest["leaves"])
    return Checkpoint(
        step, _seconds(manifest["seconds"]), logged, values, manifest["leaves"], sharded
    )


def _manifest(entry: Path) -> dict[str, Any]:
    if entry.is_symlink():
        raise ValueError("a link")
    manifest = json.loads(files.read_regular(entry / MANIFEST, MANIFEST_LIMIT))
    if manifest["checksum"] != _checksum(manifest):
        raise ValueError(f"{MANIFEST}: wrong checksum")
    return manifest


def _logged(manifest: dict[str, Any]) -> Prefix:
    return Prefix(_count(manifest["metrics_bytes"]), manifest.get("metrics_sha256"))


def _count(value: Any) -> int:
    if type(value) is int and value >= 0:
        return value
    raise ValueError(f"{MANIFEST}: {value!r} for a number of bytes")


def _seconds(value: Any) -> float:
    if isinstance(value, int | float) and 0 <= value < float("inf"):
        return float(value)
    raise ValueError(f"{MANIFEST}: {value!r} for seconds")


def _entries(folder: Path) -> list[tuple[int, Path]]:
    """Checkpoints by step, newest first."""
    names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
    steps = [
        int(name) for name in names if name.isascii() and name.isdigit() and str(int(name)) == name
    ]
    return [(step, folder / str(step)) for step in sorted(steps, reverse=True)]


def _checksum(manifest: dict[str, Any]) -> str:
    content = {key: value for key, value in manifest.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
