"""Schedules of a solver: a number, an array of one entry a step, or a callable `(theta, step)`."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import tree
from toolkit.errors.readable import call_as

# optax's schedules take the step alone. To try that in place of `(theta, step)` would give a schedule of theta
# alone the step, and a wrong number without a word: so both must be taken.
_EXPECTED = "(theta, step); of an optax schedule make lambda theta, step: schedule(step)"


def at_step(name: str, schedule: Any, theta: Any, t: Any) -> Any:
    """The value of a schedule at step `t`: a number, an array of one entry a step, or a callable."""
    if callable(schedule):
        value = call_as(name, schedule, _EXPECTED, theta, t)
        if not tree.is_numeric(value) or jnp.iscomplexobj(value):
            raise ValueError(
                f"`{name}` must return a real array from (theta, step): got {tree.describe(value)}."
            )
        return value
    if jnp.ndim(schedule) == 1:
        # With num_steps = 0 there is no entry to take. But the step is traced all the same, and needs a
        # number; it is never used.
        return jnp.asarray(schedule)[t] if len(schedule) else jnp.ones(())
    return schedule


def known_schedule(schedule: Any, num_steps: int) -> np.ndarray | None:
    """`[num_steps]` values of a schedule that is a number or an array, None where it is computed."""
    if callable(schedule) or isinstance(schedule, jax.core.Tracer):
        return None
    return np.broadcast_to(np.asarray(schedule), (num_steps,))
