"""A projection in the form of a proximal map."""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.projection.arguments import no_answer_unless, number
from toolkit.types import Tree


def from_projection(projection: Callable[[Tree, Tree], Tree]) -> Callable[..., Tree]:
    """`projection(y, theta)` as a proximal map `(y, theta, step_size)`: of 0 on the set, else infinity.

    Args:
      projection: such as `tk.projection.simplex`.

    Returns:
      `prox(y, theta=None, step_size=1.0)`. The step size is without effect, as long as it is not
      negative or NaN: then the result is NaN.

    Raises:
      ValueError: `projection` is no callable.

    Source: Parikh & Boyd 2014, section 1.2.
    """
    if not callable(projection):
        raise ValueError(
            f"`projection` must be a callable (y, theta) -> tree like y, such as "
            f"tk.projection.simplex: got {tree.describe(projection)}."
        )

    @functools.wraps(projection, assigned=("__doc__",), updated=())
    def prox(y: Tree, theta: Tree = None, step_size: Array | float = 1.0) -> Tree:
        step = number("step_size", step_size)
        nearest = projection(y, theta)
        moving = [jnp.asarray(x) for x in jax.tree.leaves((y, theta)) if tree.is_inexact(x)]
        spoil = lambda leaf: no_answer_unless(step >= 0, leaf, *moving, step)
        return jax.tree.map(spoil, nearest)

    return prox
