"""Writes that are complete or absent: to a temporary name, fsynced, then renamed. A full disk is exit code 5."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import secrets
import shutil
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit, fail


@contextlib.contextmanager
def storing(path: Path) -> Iterator[None]:
    """Turns an error of the operating system into exit code 5 that names `path`."""
    try:
        yield
    except OSError as error:
        got = error.strerror or str(error)
        expected = "a writable directory with free space"
        raise fail(Exit.STORAGE, path, "cannot write", got, expected) from error


def aside(path: Path) -> Path:
    """A fresh name beside `path`, which `leftovers` recognizes."""
    return path.with_name(f".{path.name}.tmp-{secrets.token_hex(4)}")


def lock_of(path: Path) -> Path:
    """The file that a start locks to keep others from `path`. Once nobody locks it, it is a leftover."""
    return path.with_name(f".{path.name}.tmp-lock")


def leftovers(path: Path) -> list[Path]:
    """What killed writers of `path` left beside it."""
    prefix = f".{path.name}.tmp-"
    try:
        return sorted(entry for entry in path.parent.iterdir() if entry.name.startswith(prefix))
    except OSError:
        return []


def write_file(path: Path, data: bytes) -> None:
    """Replaces `path` by `data`, durably: after a crash it holds the old bytes or the new ones."""
    temporary = aside(path)
    with storing(path):
        try:
            write_new(temporary, data)
            os.replace(temporary, path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_output(path: Path, data: bytes) -> None:
    """Writes a file that the user has named. Raises: RunError (exit 5), also where a device or a pipe is in the way.

    The rename that makes a write complete would put a plain file in its place: /dev/null, say, would be gone.
    A link is followed, and stays.
    """
    whole = Path(os.path.realpath(path))
    with storing(path):
        if os.path.lexists(whole) and not os.path.isfile(whole):
            raise OSError("something that is not a regular file")
    write_file(whole, data)


def write_folder(path: Path, files: dict[str, bytes]) -> None:
    """Creates the folder `path` with these files, durably and all at once. Its parent must exist."""
    temporary = aside(path)
    with storing(path):
        try:
            temporary.mkdir()
            for name, data in files.items():
                write_new(temporary / name, data)
            sync_folder(temporary)
            os.rename(temporary, path)
            sync_folder(path.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def write_new(path: Path, data: bytes) -> None:
    """Writes and fsyncs a file that does not exist yet."""
    with open(path, "xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Makes the names in a folder durable.

    Without it, a file that was fsynced may lose its name in a power cut.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def set_aside(path: Path) -> Path:
    """Renames something damaged, so that it can be looked at; returns its new name."""
    for number in range(1, 1000):
        target = path.with_name(f"{path.name}.damaged-{number}")
        if not os.path.lexists(target):
            with storing(path):
                path.rename(target)
            return target
    raise fail(Exit.CHECKPOINT, path, "cannot be set aside", "999 damaged ones", "fewer")


def read_regular(path: Path, limit: int) -> bytes:
    """The bytes of a regular file of at most `limit` bytes; links, devices and pipes are refused.

    Raises: OSError.
    """
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(f"{size} bytes, expected at most {limit}")
        return file.read(size)


def open_regular(path: Path, flags: int) -> int:
    """A descriptor of a regular file.

    A link is not followed, and opening a pipe does not wait for its other end: both are refused.

    Raises: OSError.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    if stat.S_ISREG(os.fstat(descriptor).st_mode):
        return descriptor
    os.close(descriptor)
    raise OSError("not a regular file")


def file_hash(path: Path) -> str:
    """SHA-256 of a regular file, read piece by piece. Raises: OSError."""
    with open(open_regular(path, os.O_RDONLY), "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def free_bytes(path: Path) -> int:
    """What an ordinary user may still write to the disk of `path`; 0 where no further file fits."""
    status = os.statvfs(path)
    inodes_left = status.f_favail > 0 or status.f_files == 0  # some file systems count none
    return status.f_bavail * status.f_frsize if inodes_left else 0


def json_bytes(value: Any) -> bytes:
    """Readable JSON. Raises: ValueError for NaN, which JSON does not have."""
    return text_bytes(json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def text_bytes(text: str) -> bytes:
    """Text as UTF-8.

    Python spells bytes of a path or a variable that are not UTF-8 as surrogates, which UTF-8 does not have.
    They are written as `\\udce9`, which JSON reads back as the surrogate.
    """
    return text.encode(errors="backslashreplace")
