"""SLURM, by submitit: each run is a job. `--cluster local` tries the same on this machine, without SLURM."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import submitit

from toolkit.run.drive.signals import StopRequest
from toolkit.run.sweep.launch.command_line import Command, Outcome, leased
from toolkit.run.sweep.launch.local import default_jobs
from toolkit.run.sweep.launch.options import Options, minutes
from toolkit.run.sweep.launch.window import windowed

DEFAULT_TIME = "60"  # minutes


class SlurmTask:
    """A command as submitit runs it.

    A job that meets its time limit is queued again, and then continues its run.
    """

    def __call__(self, command: Command) -> Outcome:
        return leased(command)

    def checkpoint(self, command: Command) -> Any:
        """Called by submitit before the job is ended; the run itself has its checkpoints."""
        return submitit.helpers.DelayedSubmission(self, command)


def launch(commands: Sequence[Command], options: Options, stop: StopRequest) -> Iterator[Outcome]:
    """On SLURM, submits all jobs at once as an array, of which at most `--jobs` run at a time.

    With `--cluster local`, starts at most `--jobs` processes on this machine at once.
    """
    cluster = options.cluster or "slurm"
    folder = Path(commands[0].log).parent / "submitit"
    executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
    limit = minutes(options.time or DEFAULT_TIME)
    executor.update_parameters(name="toolkit-sweep", timeout_min=limit)
    if options.devices is not None:
        # A node's devices, not a task's: jax expects to see all that the node gives it.
        executor.update_parameters(gpus_per_node=options.devices)
    if cluster == "local":
        jobs = options.jobs or default_jobs()
        yield from windowed(
            commands, jobs, lambda c: executor.submit(SlurmTask(), c), stop, _withdraw
        )
        return
    executor.update_parameters(slurm_array_parallelism=options.jobs or len(commands))
    if options.partition is not None:
        executor.update_parameters(slurm_partition=options.partition)
    jobs_of = dict(
        zip((c.name for c in commands), executor.map_array(SlurmTask(), commands), strict=True)
    )
    yield from windowed(commands, len(commands), lambda c: jobs_of[c.name], stop, _withdraw)


def _withdraw(job: Any) -> bool:
    """Cancels a job that still waits in the queue."""
    if job.state not in ("PENDING", "REQUEUED"):
        return False
    job.cancel()
    return True
