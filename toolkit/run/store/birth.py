"""How a run directory is created: complete from its first moment, and by one process at a time.

A start locks a file beside the run directory before it imports jax, and holds the lock until the directory
exists. Without it, several starts would all load and trace the experiment before all but one find the
directory taken. The kernel drops the lock with the process, so a killed start blocks nobody. Its file stays
behind, under a name by which the next start knows it as a leftover and removes it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from toolkit.run.experiment.errors import Exit, RunError, fail
from toolkit.run.store import directory, files, process
from toolkit.run.store.files import storing

# Before the half-made directory is locked, another start may take it for a leftover and remove it: try again.
ATTEMPTS = 5


@contextlib.contextmanager
def alone(path: Path) -> Iterator[None]:
    """Holds the right to create `path`. Folders above it that stay empty are removed again.

    Raises: RunError: exit 4 that names the process that holds it, exit 5 where the disk refuses.
    """
    missing = [parent for parent in path.parents if not parent.exists()]
    try:
        with _locked(path):
            yield
    finally:
        for folder in missing:
            with contextlib.suppress(OSError):
                folder.rmdir()


def create(path: Path, config_text: str, record: dict[str, Any]) -> directory.RunDirectory:
    """A new run directory, locked from before it is visible.

    Raises: RunError: exit 4 where another process was faster, exit 5 where the disk refuses.
    """
    with files.storing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(ATTEMPTS):
            place = _create_once(path, config_text, record)
            if place is not None:
                return place
    raise fail(
        Exit.OCCUPIED,
        path,
        "cannot be created",
        "interference by other processes",
        "a quiet directory",
    )


def _create_once(
    path: Path, config_text: str, record: dict[str, Any]
) -> directory.RunDirectory | None:
    """None where another start took our half-made directory for a leftover, and locked or removed it."""
    temporary, lock = files.aside(path), None
    try:
        temporary.mkdir()
        # Locked while nobody can see it: another start that finds the directory finds it in use from the
        # first moment.
        lock = os.open(
            temporary / directory.CONFIG, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666
        )
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with open(lock, "wb", closefd=False) as file:
            file.write(config_text.encode())
        os.fsync(lock)
        files.write_new(temporary / directory.RECORD, files.json_bytes(directory.sealed(record)))
        files.write_new(temporary / directory.METRICS, b"")
        files.write_new(temporary / directory.EVENTS, b"")
        (temporary / directory.CHECKPOINTS).mkdir()
        files.sync_folder(temporary)
        os.rename(temporary, path)
        files.sync_folder(path.parent)
    except BaseException as error:
        if lock is not None:
            os.close(lock)
        shutil.rmtree(temporary, ignore_errors=True)
        if isinstance(error, FileNotFoundError | BlockingIOError):
            return None
        # `rename` says so where `path` exists by now and is not empty: another start was faster.
        if isinstance(error, OSError) and error.errno in (
            errno.ENOTEMPTY,
            errno.EEXIST,
            errno.ENOTDIR,
        ):
            raise directory.occupied(path) from None
        raise
    return directory.RunDirectory(path, lock)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    lock = files.lock_of(path)
    with storing(path):
        descriptor = _take(lock)
    try:
        if descriptor is None:
            raise _occupied(path, lock)
        with storing(path):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(process.this_process()).encode(), 0)
        yield
    finally:
        if descriptor is not None:
            lock.unlink(missing_ok=True)
            os.close(descriptor)


def _take(lock: Path) -> int | None:
    """A descriptor of the locked file, or None where another process holds it. Raises: OSError."""
    failed = 0
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = files.open_regular(lock, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            # Another start may just have failed, and removed the folder that it had made.
            failed += 1
            if failed == ATTEMPTS:
                raise
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # Between our `open` and our lock its holder may have removed the file. Then a third process can
            # create and lock a new file of that name, so our lock would keep nobody out: try again with the
            # new one.
            if os.path.samestat(os.fstat(descriptor), os.stat(lock, follow_symlinks=False)):
                return descriptor
        except BlockingIOError:
            os.close(descriptor)
            return None
        except FileNotFoundError:
            pass
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def _occupied(path: Path, lock: Path) -> RunError:
    def read() -> Any:
        with contextlib.suppress(OSError, ValueError):
            return json.loads(files.read_regular(lock, 1 << 16))
        return None

    got = f"{process.holder(read)}, which is starting"
    return fail(Exit.OCCUPIED, path, "in use", got, "a directory that no other process runs in")
