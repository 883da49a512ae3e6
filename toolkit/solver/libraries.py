"""What the solvers of other libraries share: how they are loaded, and how their end is told."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.types import Ended, Status, Tree


def load(library: str, who: str) -> Any:
    """The module, which only an extra brings; `who` needs it."""
    try:
        return import_module(library)
    except ImportError as error:
        raise ImportError(
            f'{who} needs {library}, which is not installed: pip install "toolkit-jax[solvers]".'
        ) from error


def ended(y: Tree, steps: Array, max_steps: int) -> Ended:
    """How an iteration ended that reached `y` and says nothing else."""
    stopped = jnp.where(steps < max_steps, int(Status.STALLED), int(Status.STEP_LIMIT))
    finite = tree.all_finite(y)
    return Ended(steps, jnp.where(finite, stopped, int(Status.NOT_FINITE)).astype(jnp.int32))
