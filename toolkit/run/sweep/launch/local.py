"""Processes on this machine."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from toolkit.run.drive.signals import StopRequest
from toolkit.run.sweep.launch.command_line import Command, Outcome, execute
from toolkit.run.sweep.launch.options import Options
from toolkit.run.sweep.launch.window import windowed

RUN_BYTES = 1 << 30  # memory to presume for a run; a small one takes half of it


def launch(commands: Sequence[Command], options: Options, stop: StopRequest) -> Iterator[Outcome]:
    """One thread for each process, which waits for it.

    The processes are spawned, not forked, and end with this one.
    """
    jobs = options.jobs or default_jobs()
    # Set when the sweep ends by an exception. Otherwise leaving the pool would wait for the end of all runs.
    over = threading.Event()

    def stopping() -> bool:
        return over.is_set() or stop.number is not None

    with ThreadPoolExecutor(jobs) as pool:
        try:
            yield from windowed(
                commands, jobs, lambda command: pool.submit(execute, command, stopping), stop
            )
        finally:
            over.set()


def default_jobs() -> int:
    """As many runs as cores, if memory allows.

    With an accelerator it is one, because jax takes the whole memory of the device.
    """
    if os.environ.get("JAX_PLATFORMS", "").lower() != "cpu" and _accelerators():
        return 1
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return max(1, min(cores, _free_bytes() // RUN_BYTES))


def _accelerators() -> bool:
    device = Path("/dev")
    return any(any(device.glob(pattern)) for pattern in ("nvidia[0-9]*", "accel[0-9]*", "kfd"))


def _free_bytes() -> int:
    """Memory that can be had without swapping; as good as endless where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("MemAvailable"))
    except (OSError, ValueError, StopIteration):
        return 1 << 62
