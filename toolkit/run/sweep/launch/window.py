"""Runs at most so many commands at once, and starts none after a signal; the same for every engine."""

from __future__ import annotations

import signal
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from toolkit.run.drive.signals import StopRequest
from toolkit.run.experiment.errors import printable
from toolkit.run.sweep.launch.command_line import MESSAGE_LIMIT, Command, Outcome

POLL = 0.05  # seconds between looks at what runs
# The exit code of a run whose worker died, as if the run had been killed. Its directory can be continued.
LOST = 128 + signal.SIGKILL


class Handle(Protocol):
    """What engines give for submitted work; the futures of all of them have these."""

    def done(self) -> bool: ...
    def result(self) -> Outcome: ...


def windowed(
    commands: Sequence[Command],
    limit: int,
    submit: Callable[[Command], Handle],
    stop: StopRequest,
    withdraw: Callable[[Handle], bool] = lambda handle: False,
) -> Iterator[Outcome]:
    """Keeps at most `limit` commands submitted, and gives each outcome once it is there.

    Args:
        withdraw: takes back what has been submitted and not started, and says whether it could.
    """
    waiting = deque(commands)
    running: list[tuple[Command, Handle]] = []
    while waiting or running:
        if stop.number is not None:
            waiting.clear()
            _revoke(commands)
            running = [(command, handle) for command, handle in running if not withdraw(handle)]
        while waiting and len(running) < limit:
            command = waiting.popleft()
            running.append((command, submit(command)))
        done = [(command, handle) for command, handle in running if handle.done()]
        running = [pair for pair in running if pair not in done]
        for command, handle in done:
            yield _outcome(command, handle)
        if not done:
            time.sleep(POLL)


def _revoke(commands: Sequence[Command]) -> None:
    """Removes the lease, which tells workers everywhere to have their runs save and leave."""
    for lease in {command.lease for command in commands}:
        Path(lease).unlink(missing_ok=True)


def _outcome(command: Command, handle: Handle) -> Outcome:
    try:
        return handle.result()
    except Exception as error:  # the engine's own failure: a worker killed, a job cancelled
        lines = [line for line in str(error).strip().splitlines() if line.strip()] or [
            "no reason given"
        ]
        reason = printable(f"lost: {type(error).__name__}: {lines[-1].strip()}")
        return Outcome(command.name, LOST, reason[:MESSAGE_LIMIT], 0.0)
