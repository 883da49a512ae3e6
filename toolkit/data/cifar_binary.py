"""The binary form of CIFAR-10: a tar archive of records, each a label and three planes of 32 x 32 pixels."""

from __future__ import annotations

import io
import tarfile
from pathlib import PurePosixPath

import numpy as np

from toolkit.data.packed import MAX_BYTES, damaged, take, unpacking

_SIDE = 32
_RECORD = 1 + 3 * _SIDE * _SIDE


def read_cifar(packed: bytes, names: tuple[str, ...], where: str) -> tuple[np.ndarray, np.ndarray]:
    """Images `[N, 32, 32, 3]` and labels `[N]`, uint8, of the archive's files `names`, in this order.

    Nothing is extracted: the archive is unpacked in memory, and the records are read where they lie in it.

    Raises:
      ValueError: an archive that is broken or too large, a file of it that is missing, there twice, or no
        whole number of records.
    """
    content = take(unpacking(packed), MAX_BYTES + 1, where)
    if content.tell() > MAX_BYTES:
        raise damaged(where, f"an archive of at most {MAX_BYTES:,} bytes", "more")
    members = _members(content, where)
    parts = [_records(content, members, name, where) for name in names]
    planes = [part[:, 1:].reshape(-1, 3, _SIDE, _SIDE) for part in parts]
    images = np.empty((sum(map(len, parts)), _SIDE, _SIDE, 3), np.uint8)
    np.concatenate([plane.transpose(0, 2, 3, 1) for plane in planes], out=images)
    return images, np.concatenate([part[:, 0] for part in parts])


def _members(content: io.BytesIO, where: str) -> list[tarfile.TarInfo]:
    end = content.tell()
    content.seek(0)
    members = []
    try:
        with tarfile.open(fileobj=content, mode="r:") as archive:
            for member in archive:
                # Before the next header is looked for: after a negative size that is this one, for ever. The
                # size of a file with holes counts them, so that it says nothing of where the file ends.
                if member.issparse() or not 0 <= member.size <= end - member.offset_data:
                    raise tarfile.ReadError(f"{member.size:,} bytes (or holes) of {end:,} in all")
                members.append(member)
    except Exception as error:  # tarfile has no one error for a hostile header: also RecursionError
        raise damaged(where, "a tar archive of whole files", str(error).rstrip(".")) from error
    return members


def _records(
    content: io.BytesIO, members: list[tarfile.TarInfo], name: str, where: str
) -> np.ndarray:
    """`[N, 3073]`: the records of the file `name`, whatever folder of the archive it stands in."""
    found = [member for member in members if PurePosixPath(member.name).name == name]
    if len(found) != 1:
        raise damaged(where, f"one file {name} in it", f"{len(found)}")
    (member,) = found
    if not member.isreg():
        raise damaged(where, f"{name} as a plain file", "a link or a folder")
    if member.size < _RECORD or member.size % _RECORD:
        records = f"records of {_RECORD:,} bytes in {name}, at least one and all whole"
        raise damaged(where, records, f"{member.size:,} bytes")
    entries = np.frombuffer(content.getbuffer(), np.uint8, member.size, member.offset_data)
    return entries.reshape(-1, _RECORD)
