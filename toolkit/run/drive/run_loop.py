"""The loop: step, log, save, stop when asked. It knows no mathematics and no experiment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from toolkit.run.drive.chunks import Chunk, Stride, following
from toolkit.run.drive.signals import StopRequest
from toolkit.run.drive.team import Team
from toolkit.run.experiment.common import Settings
from toolkit.run.experiment.experiments import reported
from toolkit.run.program.budget import Pace
from toolkit.run.program.compiled import CompiledProgram
from toolkit.run.program.finite import StateWatch, bad_metrics
from toolkit.run.program.gradient_rows import by_leaf
from toolkit.run.program.steps import Made
from toolkit.run.store import checkpoints, directory, metrics, shards
from toolkit.run.store.observed import Observed


class StoppedBySignal(Exception):
    """A signal asked to stop; the state is saved."""

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name} at step {step}")
        self.number = number


class NotFinite(Exception):
    """A step left a NaN or an infinity; the checkpoints before it are whole."""

    def __init__(self, step: int, leaves: Mapping[str, str]):
        super().__init__(f"step {step}: {', '.join(leaves)}")
        self.step = step
        self.leaves = leaves  # name -> what it holds


class RunPosition(NamedTuple):
    """Where a run stands."""

    step: int
    state: Any
    seconds: float  # of compiling and running so far, over all processes
    metrics_bytes: metrics.Prefix  # of metrics.jsonl


@dataclass(frozen=True)
class Job:
    """What the loop needs and does not change."""

    settings: Settings
    place: directory.RunDirectory | Observed
    team: Team
    compiled: CompiledProgram
    watch: StateWatch  # the leaves of the state that have to be finite
    source: Path  # the experiment, to blame for an exception in a step
    config: str  # hash of the resolved config, in every checkpoint
    drift: bool  # stamp the rows: they were made in another environment
    stop: StopRequest
    pace: Pace
    show: Callable[[int, dict[str, float], float], None]  # progress
    notice: Callable[[], None]  # records what the experiment has imported and read by now


class _ChunkCall(NamedTuple):
    """A chunk that the device works on, or is done with."""

    chunk: Chunk
    made: Made
    called: float  # on the run's clock


def drive(job: Job, start: RunPosition) -> RunPosition:
    """Runs the steps that are left, or as many as the budget has time for.

    While the device makes a chunk of them, the rows of the one before are looked at and written. Of several
    processes all do the same, each with a log of its own. Those of the others are temporary.

    Raises:
        StoppedBySignal: after a signal, with the state saved.
        NotFinite: at the first row or checkpoint that would not be finite; the row is kept.
        RunError: exit 5 where a file cannot be written.
    """
    every, steps = job.settings.checkpoint_every, job.settings.steps
    # If a run is killed after the last step that its budget had time for, it must not step again when it is
    # continued. A run that has not stepped at all takes one step, so that there is something to finish.
    team = job.team
    end = start.step if start.step and team.agreed(job.pace.spent_after()) else steps
    at, stride = start, Stride(job.compiled.most)
    with _log(job, start) as log:
        before: _ChunkCall | None = None  # the call whose rows are still to be written
        while at.step < end:
            most = team.agreed(stride.steps)
            chunk = following(at.step, end, job.settings, most, job.compiled.rows)
            call = _called(job, chunk, at.state)
            # The call reuses the memory of the state it was given, so from here on only its result is valid.
            at = at._replace(step=chunk.end, state=call.made.state)
            if before is not None:
                _written(job, log, stride, before)
            before = call
            # jax returns before the device is done. With a budget the clock is read below, and has to include
            # the steps.
            if job.pace.budget is not None:
                jax.block_until_ready(call.made.values)
            signaled = team.largest(job.stop.number or 0) or None
            last = team.agreed(job.pace.is_last(chunk.end))
            if chunk.end % every == 0 or last or signaled is not None:
                seconds = _written(job, log, stride, before, saving=True, last=last)
                before = None
                at = at._replace(seconds=seconds, metrics_bytes=metrics.durable(log))
                _save(job, at)
            if signaled is not None:
                raise StoppedBySignal(signaled, chunk.end)
            if last:
                break
    # A run that was killed just after its last checkpoint may still have older ones to remove.
    _prune(job)
    return at


def _log(job: Job, start: RunPosition) -> AbstractContextManager[metrics.Log]:
    if job.team.leads:
        return metrics.open_log(job.place.path / directory.METRICS, start.metrics_bytes)
    return metrics.open_temporary()


def advance(compiled: CompiledProgram, chunk: Chunk, state: Any) -> Made:
    """Makes steps, each with the program that makes it in every run: the last bits are the program's."""
    call = compiled.reporting if chunk.reports and compiled.reporting else compiled.advance
    return call(state, np.int32(chunk.rows), np.int32(chunk.every))


def _called(job: Job, chunk: Chunk, state: Any) -> _ChunkCall:
    with _blamed(job, chunk):
        called = job.pace.elapsed()
        return _ChunkCall(chunk, advance(job.compiled, chunk, state), called)


def _blamed(job: Job, chunk: Chunk) -> AbstractContextManager[None]:
    first, last = chunk.start + 1, chunk.end
    one = f"step {last}" if first == last else f"one of the steps {first} to {last}"
    return reported(job.source, f"{one} failed") if job.team.count == 1 else _together(job, one)


@contextmanager
def _together(job: Job, steps: str) -> Iterator[None]:
    with reported(job.source, f"{steps} failed"), job.team.unless_lost(job.place.path):
        yield


def _written(
    job: Job,
    log: metrics.Log,
    stride: Stride,
    call: _ChunkCall,
    saving: bool = False,
    last: bool = False,
) -> float:
    """Waits for a call and writes its rows. Returns the run's seconds at its end.

    Args:
        saving: a checkpoint of the state that it ends with is to follow.
        last: the run ends with it.

    Raises: NotFinite: after the row of the first step that is not finite and should be.
    """
    chunk, made = call.chunk, call.made
    with _blamed(job, chunk):
        values = {name: np.asarray(of)[: chunk.rows] for name, of in made.values.items()}
        found = np.asarray(made.found)[: chunk.rows]
    ended = job.pace.elapsed()
    began = stride.measured(chunk.end - chunk.start, call.called, ended)
    # Looking for NaN row by row may take longer than the steps do. So all rows are first asked at once.
    spoilt = (found & ~job.watch.may_hold).any()
    whole = all(np.isfinite(column).all() for column in values.values())
    columns = {name: column.tolist() for name, column in values.items()}
    for row in range(chunk.rows):
        step = chunk.start + (row + 1) * chunk.every
        at_end = step == chunk.end
        logging = chunk.reports or step % job.settings.log_every == 0 or (last and at_end)
        if not (logging or (saving and at_end)):
            continue
        numbers = {name: column[row] for name, column in columns.items()}
        # Between two rows a metric may be NaN: an experiment may measure only where it logs.
        bad = bad_metrics(numbers) if logging and not whole else {}
        bad |= job.watch.bad(found[row]) if spoilt else {}
        # Only the ends of calls are on the clock. The rows of a call are taken to be equally long.
        seconds = began + (ended - began) * (row + 1) / chunk.rows
        if logging or bad:
            leaves = by_leaf(made.reports)
            metrics.append(log, metrics.row(step, numbers, seconds, job.drift, leaves))
        if bad:
            raise NotFinite(step, bad)
        if logging:
            job.show(step, numbers, seconds)
    return ended


def _save(job: Job, at: RunPosition) -> None:
    team = job.team
    job.notice()  # before the checkpoint: whoever continues from it has to know all that went into it
    folder = job.place.path / directory.CHECKPOINTS
    what = folder, at.step, at.state, at.seconds, at.metrics_bytes, job.config
    if shards.needed(at.state):
        size = checkpoints.save_shards(*what, team.leads, team.together)
    elif team.leads:
        size = checkpoints.save(*what)
    if not team.leads:
        return
    job.place.event("checkpoint", step=at.step, bytes=size)
    _prune(job)


def _prune(job: Job) -> None:
    if not job.team.leads:
        return
    folder = job.place.path / directory.CHECKPOINTS
    every, steps = job.settings.checkpoint_every, job.settings.steps
    checkpoints.prune(
        folder, job.settings.keep_checkpoints, lambda step: step % every == 0 or step == steps
    )
