"""P5, seeds: sixteen of them by the runner's own choice, on all cores."""

from __future__ import annotations

import argparse
import datetime
import os
import platform
from importlib.metadata import version

from benchmarks import seeds


def tables(arguments: argparse.Namespace) -> str:
    """Markdown of the race; `--rounds` of two turns each."""
    today, cores = datetime.date.today().isoformat(), len(os.sched_getaffinity(0))
    load, _, _ = os.getloadavg()
    where = (
        f"{today}, {cores} cores, load {load:.1f} before, Python {platform.python_version()}, "
        f"jax {version('jax')}; wall time, medians of paired turns; steps only."
    )
    title = "## P5, seeds: 16 of them together against one by one"
    return f"{title}\n\n{where}\n\n{seeds.table(2 * arguments.rounds)}\n"
