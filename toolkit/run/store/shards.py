"""States of which no process has the whole: each process writes and reads its part, by orbax.

Orbax has no checksum of what its files hold. The manifest of the checkpoint has one of each file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import jax

from toolkit.run.store import arrays, files

Files = dict[str, list[Any]]  # path below the folder -> [bytes, sha256]


def needed(state: Any) -> bool:
    """Whether some leaf lies in parts on devices of several processes."""
    return any(
        not (leaf.is_fully_addressable or leaf.is_fully_replicated)
        for leaf in jax.tree.leaves(state)
    )


def write(path: Path, state: Any) -> None:
    """Writes the folder `path`. Every process calls it; it returns when all have written."""
    from orbax.checkpoint import v1 as ocp

    with files.storing(path):
        ocp.save(path.absolute(), arrays.plain(state))


def read(path: Path, template: Any) -> Any:
    """The state on the devices of the template, on however many it was written. Every process calls it.

    Raises: ValueError or OSError for what is not whole; `arrays.mismatch` tells before whether it is another
        state's.
    """
    from orbax.checkpoint import v1 as ocp

    wanted = {
        name: jax.ShapeDtypeStruct(stored.shape, stored.dtype, sharding=stored.sharding)
        for name, stored in arrays.plain(template).items()
    }
    return arrays.rebuilt(ocp.load(path.absolute(), wanted), template)


def made_durable(path: Path) -> Files:
    """Forces what `write` has written to disk. Returns the size and the hash of each file."""
    found: Files = {}
    with files.storing(path):
        for folder, _, names in os.walk(path):
            for name in names:
                file = Path(folder) / name
                with open(files.open_regular(file, os.O_RDONLY), "rb") as opened:
                    os.fsync(opened.fileno())
                found[file.relative_to(path).as_posix()] = [
                    file.stat().st_size,
                    files.file_hash(file),
                ]
            files.sync_folder(Path(folder))
    return found


def refuse_change(path: Path, recorded: Files) -> None:
    """Raises: ValueError or OSError where a file is missing, is new, or holds other bytes."""
    there = {
        (Path(folder) / name).relative_to(path).as_posix()
        for folder, _, names in os.walk(path)
        for name in names
    }
    different = sorted(there ^ recorded.keys())
    if different:
        raise ValueError(f"{different[0]}: missing, or not in the manifest")
    for name, (size, digest) in recorded.items():
        file = path / name
        if file.stat().st_size != size or files.file_hash(file) != digest:
            raise ValueError(f"{name}: wrong checksum")
