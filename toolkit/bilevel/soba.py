"""SOBA: one step of the inner iterate, of the linear system and of the outer iterate at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.bilevel.descent import (
    StepSize,
    at,
    moved,
    mover,
    require_settings,
)
from toolkit.bilevel.oracles import curved, draw, minus, outer_slopes, require_real, zeros_like
from toolkit.bilevel.problem import Algorithm, Info, Problem, info
from toolkit.types import Tree


class SOBAState(NamedTuple):
    """All that a step needs."""

    y: Tree
    theta: Tree
    v: Tree  # near H^{-1} grad_y outer
    step: Array  # [] int32, steps made
    key: Array
    inner_optimizer: Any
    outer_optimizer: Any


@dataclass(frozen=True)
class SOBA:
    """Stochastic bilevel algorithm: three simultaneous steps with one batch of each kind.

    With B of the inner data and B' of the outer, all at the same `(y, theta, v)`:

        y     <- y     - a grad_y g_B
        v     <- v     - b (d2_yy g_B v - grad_y f_B')
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    Linear in each sample: the mean of the direction over all batches is the full-batch direction.
    The fixed point of the full-batch form is the exact minimiser; with batches and constant steps the
    iterates keep a distance of the order of the steps.

    Args:
      inner_step_size: a; a number or an optax schedule. Below 2 / L of every batch's Hessian.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      linear_step_size: b; None takes a.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 1 inner and 1 outer gradient, and 1 product each with d2_yy and d2_thetay, from
    one linearisation. Memory of one more inner variable.

    Rate: E|grad F|^2 in O(1 / sqrt(steps)) for steps of order 1 / sqrt(step), for strongly convex `g`
    with smooth derivatives to third order.

    Source: Dagreou, Ablin, Vaiter & Moreau 2022.
    """

    inner_step_size: StepSize
    outer_step_size: StepSize
    batch_size: int | None = None
    linear_step_size: StepSize | None = None
    inner_optimizer: optax.GradientTransformation | None = None
    outer_optimizer: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        require_settings(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        inner = mover(self.inner_step_size, self.inner_optimizer)
        outer = mover(self.outer_step_size, self.outer_optimizer)
        linear = self.inner_step_size if self.linear_step_size is None else self.linear_step_size

        def init(key: Array, y0: Tree, theta0: Tree) -> SOBAState:
            require_real("y0", y0)
            require_real("theta0", theta0)
            start = jnp.asarray(0, jnp.int32)
            moments = inner.init(y0), outer.init(theta0)
            return SOBAState(y0, theta0, zeros_like(y0), start, key, *moments)

        def step(s: SOBAState) -> tuple[SOBAState, Info]:
            inner_key, outer_key = jax.random.split(jax.random.fold_in(s.key, s.step))
            g = curved(
                problem, s.y, s.theta, s.v, draw(inner_key, problem.inner_data, self.batch_size)
            )
            f = outer_slopes(
                problem, s.y, s.theta, draw(outer_key, problem.outer_data, self.batch_size)
            )
            direction = minus(f.in_theta, g.cross)
            y, inner_optimizer = inner.move(s.y, g.gradient, s.inner_optimizer, s.step)
            v = moved(s.v, minus(g.hvp, f.in_y), at(linear, s.step))
            theta, outer_optimizer = outer.move(s.theta, direction, s.outer_optimizer, s.step)
            new = SOBAState(y, theta, v, s.step + 1, s.key, inner_optimizer, outer_optimizer)
            return new, info(g.loss, f.loss, direction, gradients=2, hvps=2)

        return Algorithm(init, step)
