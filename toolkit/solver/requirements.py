"""Checks that several solvers make of their settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any

import jax
import jax.numpy as jnp
import numpy as np

from toolkit import tree
from toolkit.array_arguments import broadcasts
from toolkit.types import InnerProblem, Kind, Tree
from toolkit.vocabulary.kinds import Given

PerStep = Annotated[
    Any,
    Given(
        "an array of shape () or [num_steps], or a callable (theta, step) -> array",
        fits=lambda value: (
            not isinstance(value, type) and (callable(value) or hasattr(value, "dtype"))
        ),
    ),
]


def require_kind(solver: object, kind: Kind, allowed: tuple[Kind, ...], instead: str) -> None:
    """Refuse a solver that does not solve this kind of problem, naming those that do."""
    if kind not in allowed:
        raise ValueError(
            f"`solver` must solve `{kind}`: got {type(solver).__name__}, which solves "
            f"{' and '.join(f'`{k}`' for k in allowed)}; use {instead}."
        )


def require_objective(solver: object, problem: InnerProblem) -> Callable:
    """The objective; refuse a solver that evaluates it where only its gradient is meaningful."""
    if problem.objective is None:
        raise ValueError(
            "`solver` must follow the gradient alone where the function is complex, under "
            f'Nudged(scheme="holomorphic"): got {type(solver).__name__}, which compares values; '
            'use tk.solver.GradientDescent, Newton or Optax(optax.sgd(...)), or scheme="centered".'
        )
    return problem.objective


def require_schedule(name: str, value: Any, num_steps: int) -> None:
    """Refuse an array that is neither of shape () nor has one real entry a step; None passes.

    Known step sizes must be nonnegative: a negative one climbs, and can settle on a maximum.
    """
    if value is None or callable(value) or isinstance(value, int | float):
        return  # its annotation has judged it
    if jnp.shape(value) not in ((), (num_steps,)):
        raise ValueError(
            f"`{name}` must be a number, an array of shape () or ({num_steps},), or a callable "
            f"(theta, step) -> array: got shape {jnp.shape(value)}."
        )
    if jnp.iscomplexobj(value):
        raise ValueError(f"`{name}` must be real: got {tree.describe(value)}.")
    if not isinstance(value, jax.core.Tracer):
        least = np.min(np.asarray(value, float), initial=np.inf)  # NaN where one is
        if np.isnan(least) or (name == "step_size" and least < 0):
            allowed = "nonnegative and not NaN" if name == "step_size" else "a number, not NaN"
            entry = "" if np.ndim(value) == 0 else "an entry "
            raise ValueError(f"`{name}` must be {allowed}: got {entry}{least}.")


def require_broadcast(name: str, value: Any, y: Tree) -> None:
    """Refuse a setting that would change the shape of a leaf of `y`."""
    shape = jnp.shape(value)
    if not all(broadcasts(shape, leaf.shape) for leaf in jax.tree.leaves(y)):
        raise ValueError(
            f"`{name}` must be a scalar at each step, or broadcast to every leaf of `y`: got shape "
            f"{shape} for {tree.describe(y)}."
        )
