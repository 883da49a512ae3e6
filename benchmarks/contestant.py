"""One contestant in a process of its own, pinned to one core; told on stdin when to run, answers on stdout.

python -m benchmarks.contestant SUITE NAME CORE [--exact]
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from typing import Any


def main(suite_name: str, name: str, core: str, *flags: str) -> None:
    """Prepares, says so, then serves: a number of repeats a line, the CPU seconds of a call back."""
    os.sched_setaffinity(0, {int(core)})
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    os.environ["JAX_ENABLE_X64"] = "1" if "--exact" in flags else "0"
    answers, sys.stdout = sys.stdout, sys.stderr  # what a library prints is no answer

    def answer(**fields: Any) -> None:
        print(json.dumps(fields), file=answers, flush=True)

    from benchmarks.contest import NoCounterpart, suite, timed

    entry = suite(suite_name).entries[name]
    try:
        ready = entry.prepare(entry.build)
    except ModuleNotFoundError as error:
        answer(missing=f"{error.name} is not installed")
        return
    except NoCounterpart as error:
        answer(missing=str(error))
        return
    answer(
        compile_seconds=ready.compile_seconds,
        temporary_bytes=ready.temporary_bytes,
        gradient=_flat(ready.result),
    )
    for line in sys.stdin:
        answer(seconds=timed(ready, int(line)))


def _flat(result: Any) -> list[float]:
    import jax
    import numpy as np

    return np.concatenate([np.ravel(leaf) for leaf in jax.tree.leaves(result)]).tolist()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt, BrokenPipeError):
        main(*sys.argv[1:])
