"""Ray: started on this machine, or the cluster at `--address`."""

from __future__ import annotations

import logging
import os
import signal
from collections.abc import Iterator, Sequence

from toolkit.run.drive.signals import HANDLED, StopRequest
from toolkit.run.experiment.errors import Exit, fail
from toolkit.run.sweep.launch.command_line import Command, Outcome, leased
from toolkit.run.sweep.launch.local import default_jobs
from toolkit.run.sweep.launch.options import Options
from toolkit.run.sweep.launch.window import windowed

# Ray sends usage statistics to its makers unless this is set before it is imported.
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray hides all accelerators from a task that asks for none. A run without --devices should see what the
# machine has.
os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")

import ray


def launch(commands: Sequence[Command], options: Options, stop: StopRequest) -> Iterator[Outcome]:
    """One run a CPU of the cluster (and `--devices` accelerators each), at most `--jobs` at once.

    The workers of an `--address` need this package, the working directory and the sweep's directory at the
    same paths.
    """
    _connect(options, len(commands))
    try:
        cpus = int(ray.cluster_resources().get("CPU", 1))
        limit = min(options.jobs or cpus, max(cpus, 1))
        work = ray.remote(leased).options(num_cpus=1, num_gpus=options.devices or 0, max_retries=0)
        yield from windowed(commands, limit, lambda command: work.remote(command).future(), stop)
    finally:
        ray.shutdown()


def _connect(options: Options, count: int) -> None:
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "include_dashboard": False}
    handlers = {number: signal.getsignal(number) for number in HANDLED}
    try:
        if options.address is None:
            ray.init(address="local", num_cpus=min(options.jobs or default_jobs(), count), **quiet)
        else:
            quiet.pop("include_dashboard")
            ray.init(address=options.address, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        got = str(error).partition("\n")[0][:200]
        what = (
            "ray does not start" if options.address is None else f"no cluster at {options.address}"
        )
        raise fail(
            Exit.CONFIG,
            "--engine ray",
            what,
            got,
            "a running Ray cluster, with RAY_AUTH_MODE=token and RAY_AUTH_TOKEN where it asks",
        ) from error
    finally:
        # Ray installs a handler for SIGTERM that exits. The sweep needs its own, which has the runs save
        # first.
        for number, handler in handlers.items():
            signal.signal(number, handler)
