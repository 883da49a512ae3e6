"""Starts the processes of a run on this machine, and ends all of them when one dies.

Each is tied to this process by a pipe (see `tied`): when this one is killed, they save and leave.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from typing import IO, Any, NamedTuple

from toolkit.run.drive import tied
from toolkit.run.drive.signals import HANDLED
from toolkit.run.drive.team import MEMBER
from toolkit.run.experiment.errors import clip
from toolkit.run.experiment.output import say

GRACE = 10.0  # seconds for the others to leave by themselves, once one has failed
PAUSE = 0.05  # seconds between two looks at them
TOLD = 2000  # bytes of what a failed process said


class _Member(NamedTuple):
    process: subprocess.Popen[bytes]
    said: IO[bytes] | None  # its stderr; None for process 0, which has the terminal

    def code(self) -> int | None:
        """The exit code, 128 + n after signal n; None while it runs."""
        code = self.process.poll()
        return code if code is None or code >= 0 else 128 - code


def needed(asked: Any) -> bool:
    """Whether `devices.processes` asks for processes that have not been started."""
    return type(asked) is int and asked > 1 and MEMBER not in os.environ


def launch(count: int, command: str) -> int:
    """Runs a command in `count` processes. Returns the exit code of process 0, or of the one that died first.

    Args:
      command: as it stands in the run's record, `toolkit run ...`.
    """
    words = [sys.executable, "-m", "toolkit", *shlex.split(command)[1:]]
    port = _free_port()
    with contextlib.ExitStack() as stack:
        members = [
            stack.enter_context(_started(words, f"{index} {count} {port}", index == 0))
            for index in range(count)
        ]
        stack.enter_context(_forwarding(members[0].process.pid))
        return _waited(members)


def _waited(members: Sequence[_Member]) -> int:
    """Waits until all have ended. Once one has failed, the others get `GRACE` seconds."""
    while True:
        codes = [member.code() for member in members]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is not None:
            break
        if None not in codes:
            return 0
        time.sleep(PAUSE)
    first = codes[failed] or 0
    # After a signal nobody else knows that one is missing: they wait for it in the next call, for ever.
    until = time.monotonic() + (0 if first > 128 and failed else GRACE)
    while any(member.code() is None for member in members) and time.monotonic() < until:
        time.sleep(PAUSE)
    own = members[0].code()
    if own is None or not failed:
        _tell(members, failed, first)
    return own or first


def _tell(members: Sequence[_Member], failed: int, code: int) -> None:
    """Says which process died, and what it said, where that is not in the terminal yet."""
    said = members[failed].said
    if said is None:
        return
    said.seek(0)
    text = said.read().decode(errors="replace").strip()
    lines = clip(text[-TOLD:], TOLD).splitlines()[-3:] if text else []
    what = f"process {failed} of {len(members)} ended with exit code {code}"
    remedy = "expected all to stay; the others were ended, `toolkit resume RUN_DIR` continues"
    say("\n".join([f"error: devices.processes: {what}, {remedy}", *lines]), sys.stderr)


@contextlib.contextmanager
def _started(words: Sequence[str], place: str, leads: bool) -> Iterator[_Member]:
    """A process of the run, in a group of its own: Ctrl-C in a terminal reaches this process alone."""
    said = None if leads else tempfile.TemporaryFile()  # noqa: SIM115, closed below
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", tied.__file__, *words],
        env={**os.environ, MEMBER: place},
        stdin=subprocess.PIPE,
        stdout=None if leads else subprocess.DEVNULL,
        stderr=said,
        process_group=0,
    )
    try:
        yield _Member(process, said)
    finally:
        # The group, because `tied` does not pass on the signal that cannot be caught.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if process.stdin:
            process.stdin.close()
        if said is not None:
            said.close()


@contextlib.contextmanager
def _forwarding(group: int) -> Iterator[None]:
    """Hands signals on to process 0, which decides with the others when to stop."""

    def forward(number: int, _frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # `nohup` ignores SIGHUP; that wish is kept.
    numbers = [number for number in HANDLED if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, forward) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _free_port() -> int:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])
