"""How many steps one call makes: up to the next checkpoint or report, and few enough for a signal to wait."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from toolkit.run.experiment.common import Settings

CALL = 0.1  # seconds that a call should take. A signal waits for it, and for one more call in the queue.
GROWTH = 8  # at most so many times the steps of the call before, since early calls are poorly timed


class Chunk(NamedTuple):
    """The steps that one call makes: `rows` times `every` steps, with a row after each `every`.

    A chunk that ends between two logged rows has one row, at its end, that is not logged.
    """

    start: int  # the steps made before
    rows: int
    every: int
    reports: bool  # one step, which reports its gradients

    @property
    def end(self) -> int:
        return self.start + self.rows * self.every


@dataclass
class Stride:
    """How many steps a call may make, judged by the time that the calls before it took."""

    longest: int | None  # the most that the program can make in one call; None without a limit
    steps: int = 1
    _ended: float = 0.0  # when the last call did

    def measured(self, steps: int, called: float, ended: float) -> float:
        """Learns how long a call of `steps` took. Returns when it began.

        A call is queued while the one before it runs, so it begins when that one ends.
        """
        began = max(called, self._ended)
        self._ended = ended
        within = int(CALL * steps / max(ended - began, 1e-9))
        self.steps = max(1, min(within, GROWTH * steps, self.longest or within))
        return began


def following(done: int, end: int, settings: Settings, most: int, rows: int) -> Chunk:
    """The chunk after `done` steps, of at most `most` steps and `rows` rows.

    It goes no further than the next checkpoint, and not beyond the step before the next report.
    """
    if reports(settings, done + 1):
        return Chunk(done, 1, 1, True)
    left = min(end, _next(done, settings.checkpoint_every)) - done
    if settings.diagnostics.gradients_every:
        # The chunk has to end just before the next step that reports, which is a chunk of its own.
        last = settings.steps
        left = min(left, min(_next(done, settings.diagnostics.gradients_every), last) - 1 - done)
    left, every = min(left, most), settings.log_every
    # From one logged row to another, in whole rows; else up to the next logged row, or as far as it may go.
    if done % every == 0 and left >= every:
        return Chunk(done, min(left // every, rows), every, False)
    return Chunk(done, 1, min(left, _next(done, every) - done), False)


def reports(settings: Settings, step: int) -> bool:
    """Whether `step` reports its gradients; the last step does."""
    every = settings.diagnostics.gradients_every
    return every > 0 and (step % every == 0 or step == settings.steps)


def _next(done: int, every: int) -> int:
    return done + every - done % every
