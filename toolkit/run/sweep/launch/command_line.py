"""The unit of work on every engine: one exact command line, as a process of its own, in the right directory."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

from toolkit.run.drive import tied
from toolkit.run.experiment.errors import Exit, printable

POLL = 0.05  # seconds between looks at a process on this machine
REMOTE_POLL = 1.0  # seconds between looks at the lease, which may lie on a network file system
TAIL = 4096  # bytes of stderr that are searched for its last line
MESSAGE_LIMIT = 300  # characters of that line


class Command(NamedTuple):
    """What a worker needs; plain values, so that every engine can send it."""

    name: str
    words: tuple[str, ...]  # behind `toolkit`: run CONFIG key=value ... --out DIR
    cwd: str
    log: str  # stdout and stderr go to this path with .out and .err
    # Variables to set, or to remove where the value is None. They change bits, so all workers get the same.
    environment: tuple[tuple[str, str | None], ...]
    lease: str  # while this file exists, the sweep wants the run to go on


class Outcome(NamedTuple):
    """How a command ended."""

    name: str
    code: int  # exit code; 128 + n after signal n
    message: str  # last line of stderr
    seconds: float


def execute(command: Command, stopping: Callable[[], bool], poll: float = POLL) -> Outcome:
    """Runs the command to its end; once `stopping` says so, asks it to save and leave.

    In a process group of its own: Ctrl-C in a terminal reaches the sweep alone, which asks each run once.
    """
    began = time.monotonic()
    environment = {**os.environ, **{k: v for k, v in command.environment if v is not None}}
    for name in (k for k, v in command.environment if v is None):
        environment.pop(name, None)
    words = [sys.executable, "-m", "toolkit", *command.words]
    try:
        with open(f"{command.log}.out", "wb") as out, open(f"{command.log}.err", "wb") as err:
            # `tied.py` ends the run with this process. It needs no packages: -I -S start Python without them.
            process = subprocess.Popen(
                [sys.executable, "-I", "-S", tied.__file__, *words],
                cwd=command.cwd,
                env=environment,
                stdin=subprocess.PIPE,
                stdout=out,
                stderr=err,
                process_group=0,
            )
    except OSError as error:
        return Outcome(command.name, Exit.STORAGE, f"cannot start: {error}", 0.0)
    with process:
        while process.poll() is None:
            if stopping() and process.stdin and not process.stdin.closed:
                process.stdin.close()
            time.sleep(poll)
    seconds = time.monotonic() - began
    code = process.returncode
    return Outcome(
        command.name, code if code >= 0 else 128 - code, _last_line(command.log), seconds
    )


def leased(command: Command) -> Outcome:
    """`execute` on a worker that may be another machine.

    The run goes on while the lease exists, a file that all machines see.
    """
    if not os.path.exists(command.lease):
        what = f"{command.lease} is not visible on {socket.gethostname()}, or the sweep has ended"
        return Outcome(command.name, Exit.STORAGE, f"not started: {what}", 0.0)
    return execute(command, lambda: _gone(command.lease), REMOTE_POLL)


def _gone(path: str) -> bool:
    try:
        os.stat(path)
    except FileNotFoundError:
        return True
    except OSError:  # a network file system that fails for a moment says nothing about the file
        return False
    return False


def _last_line(log: str) -> str:
    """The last line of stderr that says something; empty where there is none."""
    with contextlib.suppress(OSError), open(f"{log}.err", "rb") as file:
        file.seek(0, os.SEEK_END)
        file.seek(max(0, file.tell() - TAIL))
        lines = [line for line in file.read().decode(errors="replace").splitlines() if line.strip()]
        return printable(lines[-1].strip())[:MESSAGE_LIMIT] if lines else ""
    return ""
