"""Time as a limit: a run with a `budget` ends within it, and a step may depend on the fraction that is used up."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from toolkit.run.program.compiled import CompiledProgram
    from toolkit.run.program.data import DrivenProgram

DRAWING = 5.0  # seconds kept for the report, and for what came before the first clock
STARTING = 30.0  # the most that is kept besides, after a slow start
FRACTION = "fraction"  # the metric of a paced program


@dataclass
class Pace:
    """How far a run has come: by steps and, with a budget, by time over all its processes."""

    steps: int
    budget: float | None  # seconds
    began: float  # on `time.perf_counter`, earlier by the seconds that other processes have spent
    reserve: float = 0.0  # seconds kept for what comes after the last step
    _longest: float = 0.0  # between two steps, saving and logging included
    _previous: float = field(default_factory=time.perf_counter)

    def elapsed(self) -> float:
        return time.perf_counter() - self.began

    def is_last(self, step: int) -> bool:
        """Whether the run ends after `step`. Asked once after each step."""
        if self.budget is None:
            return step >= self.steps
        now = time.perf_counter()
        self._longest = max(self._longest, now - self._previous)
        self._previous = now
        # The run may go on if there is time for one more step and for the last save. Each is assumed to take
        # as long as the slowest step so far, which had saving and logging in it.
        return step >= self.steps or self.spent_after(2 * self._longest)

    def spent_after(self, more: float = 0.0) -> bool:
        """Whether the budget would not last for so many seconds and the end."""
        return self.budget is not None and self.elapsed() + more + self.reserve > self.budget

    def fraction(self, step: int) -> float:
        """What is used up before `step`, from 0 to 1: of the steps or, where that is more, of the time."""
        used = (step - 1) / self.steps
        if self.budget is not None:
            # The reserve may exceed the budget. Then the quotient must be large, and not negative.
            used = max(used, self.elapsed() / max(self.budget - self.reserve, 1e-9))
        return min(used, 1.0)


class Paced(NamedTuple):
    """The state of a program whose step takes a fraction.

    The fraction is saved with the state, so a run that is resumed between two rows goes on with the fraction
    of its row.
    """

    state: Any
    fraction: Any  # float32 []


def paced(program: DrivenProgram) -> DrivenProgram:
    """The program with the fraction in its state, where the runner sets it, and among its metrics."""
    import jax.numpy as jnp

    def step(now: Paced, data: Any) -> tuple[Paced, dict[str, Any]]:
        state, metrics = program.step(now.state, now.fraction, data)
        if FRACTION in metrics:
            raise ValueError(f"the metric {FRACTION!r} is the runner's")
        return Paced(state, now.fraction), {**metrics, FRACTION: now.fraction}

    losses = program.losses
    return program._replace(
        init=lambda key, data: Paced(program.init(key, data), jnp.float32(0)),
        step=step,
        finish=lambda now, data: program.finish(now.state, data),
        losses=None if losses is None else lambda now, data: losses(now.state, data),
        takes_fraction=False,
    )


def with_fractions(
    compiled: CompiledProgram,
    pace: Pace,
    start: int,
    log_every: int,
    agreed: Callable[[float], float] = lambda used: used,
) -> CompiledProgram:
    """The executables with the fraction set before each call. A call makes one step, the first is `start + 1`.

    With a budget the fraction is read off the clock only once for each row, so the rows hold every fraction
    that was used.

    Args:
        agreed: what the processes of the run use, of what this one has read off its clock.
    """
    import numpy as np

    from toolkit.devices.meshes import put

    count, sharding = itertools.count(start + 1), compiled.template.fraction.sharding

    def setting(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(now: Paced, rows: Any, every: Any) -> Any:
            step = next(count)
            if pace.budget is None or (step - 1) % log_every == 0:
                used = np.float32(agreed(pace.fraction(step)))
                now = now._replace(fraction=put(used, sharding))
            return function(now, rows, every)

        return call

    reporting = compiled.reporting
    return compiled._replace(
        advance=setting(compiled.advance),
        reporting=None if reporting is None else setting(reporting),
        most=1,
    )


def with_fraction_of(rows: Sequence[Mapping[str, Any]], pace: Pace, step: int, now: Any) -> Any:
    """The state with the fraction that `step` had when it was first made.

    With a budget that fraction depended on the clock, so it is read from the row that `step` belongs to.
    """
    if not isinstance(now, Paced):
        return now
    import jax
    import numpy as np

    by_time = pace.budget is not None
    used = next(r[FRACTION] for r in rows if r["step"] >= step) if by_time else pace.fraction(step)
    return now._replace(fraction=jax.device_put(np.float32(used), now.fraction.sharding))


def by_fraction(schedule: Callable[[Any], Any], horizon: float = 1.0) -> Callable[[Any], Any]:
    """An optax schedule of `horizon` steps as a function of the fraction used.

    Args:
      schedule: from a step to a value.
      horizon: the step that the fraction 1 stands for.

    Example: `by_fraction(optax.cosine_decay_schedule(0.1, 1000), 1000)(fraction)`.
    """
    return lambda fraction: schedule(fraction * horizon)
