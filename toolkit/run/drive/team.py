"""The processes of one run: which of them this is, and what they agree on.

A program that is spread over several processes runs only when all of them call it. So all make the same calls in
the same order. What differs between them, such as clocks and signals, is asked of process 0 before it decides
which call comes next. Process 0 alone writes.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from toolkit.run.experiment.errors import Exit, RunError, fail
from toolkit.run.experiment.output import mute

MEMBER = "TOOLKIT_PROCESS"  # set by `launch_processes`: "1 2 4567", process 1 of 2, port 4567 of this machine
STARTING = 300  # seconds for all processes to arrive
# Seconds for all of them to leave. Process 0 draws the report in the meantime.
LEAVING = 3600
LONGEST = 4096  # bytes of a path
# In what JAX says where another process does not answer.
LOST = ("Connection closed by peer", "Connection reset by peer", "Gloo ", "NCCL", "heartbeat")
PATIENCE = 15.0  # seconds, more than `launch_processes` needs to end all of them
INT32_END = 2**31 - 1

Number = TypeVar("Number", int, float, bool)


@dataclass(frozen=True)
class Team:
    """Which process of how many this is. One that is alone asks nobody."""

    index: int = 0
    count: int = 1

    @property
    def leads(self) -> bool:
        """Whether it writes."""
        return self.index == 0

    def agreed(self, number: Number) -> Number:
        """What process 0 has here. Integers end at those of 32 bits, numbers have the precision of float32."""
        if self.count == 1:
            return number
        import numpy as np
        from jax.experimental import multihost_utils

        sent = np.float32(number) if isinstance(number, float) else np.int32(min(number, INT32_END))
        return type(number)(multihost_utils.broadcast_one_to_all(sent).item())

    def largest(self, number: int) -> int:
        """The largest number that any process has here."""
        if self.count == 1:
            return number
        import numpy as np
        from jax.experimental import multihost_utils

        return int(np.max(multihost_utils.process_allgather(np.int32(number))))

    def together(self) -> None:
        """Waits for all processes."""
        if self.count > 1:
            self.largest(0)

    @contextlib.contextmanager
    def unless_lost(self, run: Path | None = None) -> Iterator[None]:
        """Tells a call that failed because another process is gone from one that failed by itself.

        Raises: RunError (exit 1), once whoever has started the processes had the time to end this one, too.
        """
        try:
            yield
        except Exception as error:
            lost = any(word in str(error) for word in LOST)
            if self.count == 1 or isinstance(error, RunError) or not lost:
                raise
            time.sleep(PATIENCE)
            reason = str(error).partition("\n")[0][:200]
            remedy = f"all {self.count} to stay; `toolkit resume {run or 'RUN_DIR'}` continues"
            raise fail(
                Exit.BUG, run or "toolkit", "another process of the run is gone", reason, remedy
            ) from None

    def agreed_text(self, text: str) -> str:
        """What process 0 has here, of at most `LONGEST` bytes."""
        if self.count == 1:
            return text
        import numpy as np
        from jax.experimental import multihost_utils

        data = os.fsencode(text).ljust(LONGEST, b"\0") if self.leads else bytes(LONGEST)
        sent = multihost_utils.broadcast_one_to_all(np.frombuffer(data, np.uint8))
        return os.fsdecode(np.asarray(sent, np.uint8).tobytes().rstrip(b"\0"))


@contextlib.contextmanager
def joined(asked: Any) -> Iterator[Team]:
    """This process among the others of its run, until the end of the block. Call it before JAX has a device.

    Args:
      asked: `devices.processes` of the config.

    Raises: RunError (exit 2) for `auto` where no cluster has started this process.
    """
    team = _join(asked)
    if team.count > 1:
        _keep_libraries_quiet()
    if not team.leads:
        mute(sys.stdout)
    try:
        with team.unless_lost():
            yield team
    except BaseException as error:
        missed_claim = isinstance(error, RunError) and error.code is Exit.CLAIM
        if team.count > 1 and not missed_claim:  # which is found once all have finished
            _leave_alone(error)
        raise


def _join(asked: Any) -> Team:
    # Removed, so that no command which the experiment starts takes itself for this process.
    member = os.environ.pop(MEMBER, None)
    if member is None and asked != "auto":
        return Team()
    import jax

    # JAX would catch SIGTERM in place of `signals`, and the run would not hear of it.
    jax.config.update("jax_enable_preemption_service", False)
    patience: Any = {"initialization_timeout": STARTING, "shutdown_timeout_seconds": LEAVING}
    if member is not None:
        index, count, port = map(int, member.split())
        jax.distributed.initialize(f"127.0.0.1:{port}", count, index, **patience)
        return Team(index, count)
    try:
        jax.distributed.initialize(**patience)
    except (ValueError, RuntimeError) as error:
        expected = "a process that SLURM, MPI, Kubernetes or Cloud TPU has started, or a number"
        reason = str(error).partition("\n")[0][:200]
        raise fail(
            Exit.CONFIG, "devices.processes", "auto: no cluster found", reason, expected
        ) from None
    return Team(jax.process_index(), jax.process_count())


def _keep_libraries_quiet() -> None:
    """Leaves stdout to Python: the library that connects the processes prints lines of its own there."""
    sys.stdout.flush()
    kept = os.dup(1)
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.close(nowhere)
    sys.stdout = os.fdopen(
        kept, "w", buffering=1, encoding=sys.stdout.encoding, errors="backslashreplace"
    )


def _leave_alone(error: BaseException) -> None:
    """Makes Python's end not wait for the other processes, which wait for this one in the next call.

    JAX's own function at the end of Python waits until all have arrived there. Functions that are registered
    later are called earlier.
    """
    code = int(error.code) if isinstance(error, RunError) else int(Exit.BUG)

    def leave() -> None:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    atexit.register(leave)
