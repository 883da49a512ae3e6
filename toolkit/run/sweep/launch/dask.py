"""Dask: a `LocalCluster` of spawned processes, or the scheduler at `--address`."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import ExitStack

import dask
from distributed import Client, LocalCluster

from toolkit.run.drive.signals import StopRequest
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.sweep.launch.command_line import Command, Outcome, leased
from toolkit.run.sweep.launch.local import default_jobs
from toolkit.run.sweep.launch.options import Options
from toolkit.run.sweep.launch.window import windowed

TIMEOUT = 30  # seconds to reach a scheduler


def launch(commands: Sequence[Command], options: Options, stop: StopRequest) -> Iterator[Outcome]:
    """One run a thread of the cluster, at most `--jobs` at once.

    The workers of an `--address` need this package, the working directory and the sweep's directory at the
    same paths.
    """
    with ExitStack() as stack:
        stack.enter_context(dask.config.set({"distributed.worker.multiprocessing-method": "spawn"}))
        client = stack.enter_context(_client(options, stack, len(commands)))
        threads = sum(client.nthreads().values())
        limit = min(options.jobs or threads, max(threads, 1))
        # `pure=False`: otherwise Dask may answer an equal command with the result of an earlier one.
        yield from windowed(
            commands, limit, lambda command: client.submit(leased, command, pure=False), stop
        )


def _client(options: Options, stack: ExitStack, count: int) -> Client:
    if options.address is None:
        jobs = min(options.jobs or default_jobs(), count)
        cluster = LocalCluster(
            n_workers=jobs,
            threads_per_worker=1,
            processes=True,
            host="127.0.0.1",
            dashboard_address=None,
            silence_logs=logging.CRITICAL,
        )
        stack.enter_context(cluster)
        return Client(cluster)
    try:
        return Client(options.address, timeout=TIMEOUT)
    except (OSError, ValueError) as error:  # TimeoutError is an OSError
        got = str(error).partition("\n")[0][:200] or type(error).__name__
        expected = "the address of a running Dask scheduler, tcp://HOST:PORT"
        raise fail(
            Exit.CONFIG, "--address", f"no scheduler at {options.address}", got, expected
        ) from error
