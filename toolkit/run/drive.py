"""The loop: step, log, save, stop when asked. It knows no mathematics and no experiment."""

from __future__ import annotations

import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax

from toolkit.run import checkpoint, directory, metrics
from toolkit.run.compiled import Compiled
from toolkit.run.errors import Exit, fail
from toolkit.run.experiment import reported
from toolkit.run.gradients import by_leaf
from toolkit.run.pace import Pace
from toolkit.run.settings import Settings
from toolkit.run.signals import StopRequest


class Stopped(Exception):
    """A signal asked to stop; the state is saved."""

    def __init__(self, number: int, step: int):
        super().__init__(f"{signal.Signals(number).name} at step {step}")
        self.number = number


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
        RunError: exit 6 for a metric that is not finite, exit 5 where a file cannot be written.
    """
    every, steps = job.settings.checkpoint_every, job.settings.steps
    gradients_every = job.settings.diagnostics.gradients_every
    # A run killed after the last step that its budget had time for takes no other; but each run takes one.
    end = start.step if start.step and job.pace.spent_after() else steps
    state = start.state
    values: dict[str, jax.Array] = {}
    step, seconds, length = start.step, start.seconds, start.metrics_bytes
    with metrics.open_log(job.place.path / directory.METRICS, start.metrics_bytes) as log:
        for step in range(start.step + 1, end + 1):
            due = gradients_every > 0 and (step % gradients_every == 0 or step == steps)
            with reported(job.source, f"step {step} failed"):
                previous = values
                if due and job.compiled.reporting is not None:
                    state, values, reports = job.compiled.reporting(state)
                else:
                    (state, values), reports = job.compiled.step(state), {}
                # One step may be under way while the next is dispatched, no more: a signal must not wait for a queue.
                jax.block_until_ready(previous)
            signaled, last = job.stop.number, job.pace.is_last(step)
            logging = due or step % job.settings.log_every == 0 or last
            saving = step % every == 0 or last or signaled is not None
            if logging or saving:
                numbers = _numbers(values)
                seconds = job.pace.elapsed()
                line = metrics.row(step, numbers, seconds, job.drift, by_leaf(reports))
                _log(job, log, line, numbers, logging)
            if saving:
                length = metrics.durable(log)
                _save(job, Position(step, state, seconds, length))
            if signaled is not None:
                raise Stopped(signaled, step)
            if last:
                break
    _prune(job)  # a run killed right after its last checkpoint has not
    return Position(step, state, seconds, length)


def _log(job: Job, log: Any, line: dict[str, Any], numbers: dict[str, Any], due: bool) -> None:
    """Writes the row if it is due, and refuses to go on from numbers that are not finite."""
    bad = metrics.nonfinite(numbers)
    if due or bad:
        metrics.append(log, line)
    if bad:
        got = ", ".join(str(numbers[name]) for name in bad)
        raise fail(
            Exit.NOT_FINITE,
            job.place.path,
            f"step {line['step']}: {', '.join(bad)} not finite",
            got,
            "finite metrics",
        )
    if due:
        job.show(line["step"], numbers)


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
    return {name: value.item() for name, value in jax.device_get(values).items()}
