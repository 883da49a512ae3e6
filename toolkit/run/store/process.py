"""Which process holds a run: its lock, its number, and whether it still lives."""

from __future__ import annotations

import fcntl
import os
import socket
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from toolkit.run.store.files import open_regular

PATIENCE = 0.5  # seconds for the holder of a lock to write who it is


def this_process() -> dict[str, Any]:
    """For run.json. A number is used again after its process; the moment of its start tells two apart."""
    return {"pid": os.getpid(), "host": socket.gethostname(), "began": _began(os.getpid())}


def lock(descriptor: int, read: Callable[[], Any]) -> bool:
    """Locks a file, unless a process holds it, which `read` may name.

    Who only asks whether the file is locked locks it for an instant, so a lock of nobody known is waited for.
    """
    until = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if is_alive(read()) or time.monotonic() > until:
                return False
        time.sleep(0.01)


def is_locked(path: Path) -> bool:
    """Whether a process holds a file. True, too, where that cannot be asked."""
    try:
        # A shared lock: it needs no right to write, and two that ask do not see each other.
        with open(open_regular(path, os.O_RDONLY), "rb") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        return False
    except OSError:
        return True


def holder(read: Callable[[], Any]) -> str:
    """`process 12 on laptop`, as `read` says; of a dead one, once a living one has written itself there.

    After a kill the lock is free, and whoever takes it needs a moment to replace the number of the dead process.
    """
    until = time.monotonic() + PATIENCE
    found = read()
    while not is_alive(found) and time.monotonic() < until:
        time.sleep(0.01)
        found = read()
    if not isinstance(found, Mapping) or (is_here(found) and not is_alive(found)):
        return "process ? on ?"
    return f"process {found.get('pid', '?')} on {found.get('host', '?')}"


def is_alive(found: Any) -> bool:
    """Whether a recorded process runs on this machine; False for one elsewhere, which nobody can tell."""
    if not isinstance(found, Mapping) or not is_here(found) or type(found.get("pid")) is not int:
        return False
    try:
        os.kill(found["pid"], 0)
    except PermissionError:
        pass  # of another user
    except (OSError, OverflowError):
        return False
    began = found.get("began")
    return began is None or began == _began(found["pid"])


def is_here(found: Mapping[str, Any]) -> bool:
    return found.get("host") == socket.gethostname()


def _began(pid: int) -> int | None:
    """When a process started, in ticks since the machine did; None where the system does not tell."""
    try:
        # Behind the name of the program, which may hold spaces and brackets, field 22 of proc(5).
        return int(Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[19])
    except (OSError, ValueError, IndexError):
        return None
