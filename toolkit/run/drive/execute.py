"""`tk.run.execute`: a run within a Python process that goes on, a notebook's for one.

The steps are made in a thread of their own. Ctrl-C, or a notebook's stop button, raises `KeyboardInterrupt` in
the main thread, between any two of its instructions: in the middle of a file, or between a step and the
assignment of its result, when the state before the step is used up already. So the main thread only waits and
draws the progress, and an interrupt of it asks the other thread to save and leave, as a signal asks a command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import queue
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from toolkit.run.drive import runs, signals
from toolkit.run.experiment import heard, load, output_path, overrides, plain_yaml, python_values
from toolkit.run.experiment.errors import Exit, RunError, fail, refused_by_system
from toolkit.run.store import compiled_programs, directory, environment

if TYPE_CHECKING:
    from toolkit.run.drive import run_loop
    from toolkit.run.report import opened

PATIENCE = 0.05  # seconds to wait for a row, or for the end, without looking for an interrupt
_running = (
    threading.Lock()
)  # what an experiment runs and reads is heard of by process, so one run at a time


def execute(
    config: str | os.PathLike[str] | Mapping[str, Any] | BaseModel,
    out: str | os.PathLike[str] | None = None,
    **overrides: Any,
) -> opened.Run:
    """Runs an experiment in this process, or continues it, as `toolkit run` does.

    An unfinished run of the same config is continued, so the same call does the rest after an interrupt. The
    experiment's files are run again as they are now. The signal handlers of the process are left alone.

    Args:
      config: a YAML file, a mapping of what it would hold, or the experiment's `Config`.
      out: the run's directory. None: `runs/NAME-N` under the working directory, by the name of the file or of
        the experiment.
      overrides: values that replace those of the config; nested ones as `**{"adjoint.damping": 0.1}`.

    Returns: the finished run. A claim that it misses is one of its `issues`.

    Raises:
      RunError: whatever ends the command with an exit code other than 0, which is its `.code`. Its text is
        what the command prints.
      KeyboardInterrupt: on an interrupt, once the state is saved.
      TypeError: `config` is none of these.
    """
    began = time.perf_counter()
    changes = [python_values.override(key, value) for key, value in overrides.items()]
    target = None if out is None else output_path.out(os.fspath(out))
    if not _running.acquire(blocking=False):
        got, expected = "a second call of execute", "one at a time in a process"
        raise fail(Exit.OCCUPIED, "toolkit", "in use", got, expected)
    try:
        with heard.in_this_thread(), _system_errors():
            # Later they would change no number of threads, but the record of the run.
            if "jax" not in sys.modules:
                environment.pin_threads()
                compiled_programs.quiet()
            loaded, name, command = _loaded(config, changes, target, began)
            _refuse_processes(loaded)
            with runs.taken(loaded, name, target, command) as taken:
                code = _go(taken)
    finally:
        _running.release()
    if code > Exit.CLAIM:
        raise KeyboardInterrupt
    from toolkit.run.report import opened  # imports jax

    return opened.open(taken.place.path)


def _loaded(
    config: Any, changes: Sequence[overrides.Override], out: Path | None, began: float
) -> tuple[load.Loaded, str, Any]:
    """The valid config, the name of a directory for it, and the command line that would do the same."""
    if isinstance(config, str | os.PathLike):
        path = Path(os.fspath(config))
        words = [".".join(c.path) + "=" + plain_yaml.inline(c.value) for c in changes]
        to = [] if out is None else ["--out", str(out)]
        line = shlex.join(["toolkit", "run", str(path), *words, *to])
        return load.load(path, changes, afresh=True), path.stem, lambda _: line
    if not isinstance(config, Mapping | BaseModel):
        raise TypeError(
            f"`config` must be a path, a mapping or an experiment's Config: got {type(config).__name__}."
        )
    where: dict[tuple, str] = {(): python_values.CONFIG}
    loaded = load.loaded(python_values.mapping(config), changes, where, began, afresh=True)
    line_of = lambda place: shlex.join(["toolkit", "run", str(place / directory.CONFIG)])
    return loaded, loaded.settings.experiment, line_of


def _refuse_processes(loaded: load.Loaded) -> None:
    """Raises: RunError (exit 2) for a run of several: this process has begun to use its devices without them."""
    asked = loaded.settings.devices.processes
    if asked != 1:
        expected = "1 within Python; `toolkit run` starts or joins processes"
        raise fail(Exit.CONFIG, "config", "devices.processes", str(asked), expected)


def _go(taken: runs.TakenRun) -> int:
    place, stop = taken.place, signals.StopRequest()
    try:
        return runs.go(taken, stop, interruptible)
    except RunError as error:
        if error.code is not Exit.CLAIM:
            raise
        return Exit.DONE
    except KeyboardInterrupt:
        # Before the first step, or after the last one: there is nothing to save.
        with contextlib.suppress(RunError):
            if place.record().get("status") == "running":
                place.update(status="stopped", ended=directory.now())
                place.event("stop", reason="interrupted")
        raise


def interruptible(job: run_loop.Job, start: run_loop.RunPosition) -> run_loop.RunPosition:
    """`run_loop.drive`, which a `KeyboardInterrupt` of this thread ends as a signal ends a command."""
    from toolkit.run.drive import run_loop

    rows: queue.SimpleQueue[tuple[Any, ...]] = queue.SimpleQueue()
    ends: list[run_loop.RunPosition | BaseException] = []
    quiet = dataclasses.replace(job, show=lambda *row: rows.put(row))
    begin = threading.Event()

    def work() -> None:
        begin.wait()
        try:
            with heard.in_this_thread():
                ends.append(run_loop.drive(quiet, start))
        except BaseException as error:
            ends.append(error)

    # An interrupt of `start` may leave a thread behind. It waits for `begin` then, and does no harm.
    threading.Thread(target=work, name="toolkit-run", daemon=True).start()
    while not ends:
        # A second interrupt waits as well: the directory must not be let go while the thread writes there.
        # The loop is within the `try`, because an interrupt may come between any two of its instructions.
        try:
            begin.set()
            while not ends:
                with contextlib.suppress(queue.Empty):
                    job.show(*rows.get(timeout=PATIENCE))
        except KeyboardInterrupt:
            job.stop.number = signal.SIGINT
    end = ends[0]
    if isinstance(end, BaseException):
        raise end
    while not rows.empty():
        job.show(*rows.get())
    if job.stop.number is not None:  # after the last step
        raise KeyboardInterrupt
    return end


@contextlib.contextmanager
def _system_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise refused_by_system(error, "the system") from error
