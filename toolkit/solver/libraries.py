"""How the end of a solve by another library is told."""

from __future__ import annotations

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.types import Ended, Status, Tree


def ended(y: Tree, steps: Array, max_steps: int) -> Ended:
    """How an iteration ended that reached `y` and says nothing else."""
    stopped = jnp.where(steps < max_steps, int(Status.STALLED), int(Status.STEP_LIMIT))
    finite = tree.all_finite(y)
    return Ended(steps, jnp.where(finite, stopped, int(Status.NOT_FINITE)).astype(jnp.int32))
