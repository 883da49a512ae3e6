"""Several steps of the inner iterate, each with a batch of its own."""

from __future__ import annotations

from typing import Any

import jax
from jax import Array

from toolkit.bilevel.descent import Mover
from toolkit.bilevel.oracles import draw, inner_slope
from toolkit.bilevel.problem import Problem
from toolkit.types import Tree


def inner_steps(
    problem: Problem,
    mover: Mover,
    y: Tree,
    theta: Tree,
    optimizer: Any,
    t: Array,
    key: Array,
    steps: int,
    batch_size: int | None,
) -> tuple[Tree, Any, Array]:
    """`y <- y - a grad_y g_B(y, theta)`, `steps` times; (y, optimizer state, first batch's loss).

    The step size is that of the outer step `t` throughout.
    """

    def one(carry: tuple[Tree, Any], key: Array) -> tuple[tuple[Tree, Any], Array]:
        y, optimizer = carry
        loss, slope = inner_slope(problem, y, theta, draw(key, problem.inner_data, batch_size))
        return mover.move(y, slope, optimizer, t), loss

    (y, optimizer), losses = jax.lax.scan(one, (y, optimizer), jax.random.split(key, steps))
    return y, optimizer, losses[0]
