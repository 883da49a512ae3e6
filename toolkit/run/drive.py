"""The loop: step, log, save, stop when asked. It knows no mathematics and no experiment."""

from __future__ import annotations

import signal
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from toolkit.run import checkpoint, directory, metrics
from toolkit.run.compiled import Compiled, Made
from toolkit.run.experiment import reported
from toolkit.run.finite import Watch, bad_metrics
from toolkit.run.gradients import by_leaf
from toolkit.run.pace import Pace
from toolkit.run.settings import Settings
from toolkit.run.signals import StopRequest


class Stopped(Exception):
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


class Position(NamedTuple):
    """Where a run stands."""

    step: int
    state: Any
    seconds: float  # of compiling and running so far, over all processes
    metrics_bytes: metrics.Prefix  # of metrics.jsonl


@dataclass(frozen=True)
class Job:
    """What the loop needs and does not change."""

    settings: Settings
    place: directory.RunDirectory
    compiled: Compiled
    watch: Watch  # the leaves of the state that have to be finite
    source: Path  # the experiment, to blame for an exception in a step
    config: str  # hash of the resolved config, in every checkpoint
    drift: bool  # stamp the rows: they were made in another environment
    stop: StopRequest
    pace: Pace
    show: Callable[[int, dict[str, float]], None]  # progress


def drive(job: Job, start: Position) -> Position:
    """Runs the steps that are left, or as many as the budget has time for.

    Raises:
        Stopped: after a signal, with the state saved.
        NotFinite: at the first row or checkpoint that would not be finite; the row is kept.
        RunError: exit 5 where a file cannot be written.
    """
    every, steps = job.settings.checkpoint_every, job.settings.steps
    # A run killed after the last step that its budget had time for takes no other; but each run takes one.
    end = start.step if start.step and job.pace.spent_after() else steps
    state = start.state
    values: dict[str, jax.Array] = {}
    step, seconds, length = start.step, start.seconds, start.metrics_bytes
    with metrics.open_log(job.place.path / directory.METRICS, start.metrics_bytes) as log:
        for step in range(start.step + 1, end + 1):
            with reported(job.source, f"step {step} failed"):
                previous = values
                state, values, reports = advance(job.compiled, job.settings, step, state)
                # One step may be under way while the next is dispatched, no more: a signal must not wait for a queue.
                jax.block_until_ready(previous)
            signaled, last = job.stop.number, job.pace.is_last(step)
            logging = _reports(job.settings, step) or step % job.settings.log_every == 0 or last
            saving = step % every == 0 or last or signaled is not None
            if logging or saving:
                numbers = _numbers(values)
                bad = _bad(job, state, numbers if logging else {})
                seconds = job.pace.elapsed()
                if logging or bad:
                    line = metrics.row(step, numbers, seconds, job.drift, by_leaf(reports))
                    metrics.append(log, line)
                if bad:
                    raise NotFinite(step, bad)
                if logging:
                    job.show(step, numbers)
            if saving:
                length = metrics.durable(log)
                _save(job, Position(step, state, seconds, length))
            if signaled is not None:
                raise Stopped(signaled, step)
            if last:
                break
    _prune(job)  # a run killed right after its last checkpoint has not
    return Position(step, state, seconds, length)


def advance(compiled: Compiled, settings: Settings, step: int, state: Any) -> Made:
    """Makes a step, with the program that makes this one in every run: the last bits are the program's."""
    if compiled.reporting is not None and _reports(settings, step):
        return compiled.reporting(state)
    return compiled.step(state)


def _reports(settings: Settings, step: int) -> bool:
    every = settings.diagnostics.gradients_every
    return every > 0 and (step % every == 0 or step == settings.steps)


def _bad(job: Job, state: Any, numbers: dict[str, Any]) -> dict[str, str]:
    """What is not finite and has to be, by name: metrics where they are logged, and the state.

    Between two rows a metric may be NaN: an experiment may measure only where it logs.
    """
    return {**bad_metrics(numbers), **job.watch.bad(state)}


def _save(job: Job, at: Position) -> None:
    folder = job.place.path / directory.CHECKPOINTS
    size = checkpoint.save(folder, at.step, at.state, at.seconds, at.metrics_bytes, job.config)
    job.place.event("checkpoint", step=at.step, bytes=size)
    _prune(job)


def _prune(job: Job) -> None:
    folder = job.place.path / directory.CHECKPOINTS
    every, steps = job.settings.checkpoint_every, job.settings.steps
    checkpoint.prune(
        folder, job.settings.keep_checkpoints, lambda step: step % every == 0 or step == steps
    )


def _numbers(values: dict[str, jax.Array]) -> dict[str, Any]:
    # One by one: `jax.device_get` costs 50 us a call, which every row would pay.
    return {name: value.item() for name, value in values.items()}
