"""FSLA: a fully single loop, with the outer direction corrected by recursive momentum."""

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
    require_step_size,
)
from toolkit.bilevel.oracles import (
    cross,
    draw,
    hvp,
    inner_slope,
    minus,
    outer_slopes,
    require_real,
    zeros_like,
)
from toolkit.bilevel.problem import Algorithm, Info, Problem, info
from toolkit.types import Tree


class FSLAState(NamedTuple):
    """All that a step needs."""

    y: Tree
    theta: Tree
    v: Tree  # near H^{-1} grad_y outer
    step: Array  # [] int32, steps made
    key: Array
    direction: Tree  # d, near the hypergradient
    previous: Tree  # theta of the step before
    inner_optimizer: Any
    outer_optimizer: Any


@dataclass(frozen=True)
class FSLA:
    """Fully single loop algorithm: one step of y, then of v, then of theta, with momentum.

    Five fresh batches a step, B_k of the inner data and B'_k of the outer:

        y+ = y - a grad_y g_B1(y, theta)
        v+ = v - b (d2_yy g_B2 v - grad_y f_B'1)                              at (y+, theta)
        G  = grad_theta f_B'2 - d2_thetay g_B3 v+                             at (y+, theta)
        d  = G + (1 - m) (d - G at (y, theta_before, v), the same batches)
        theta+ = theta - c d

    The first step takes `d = G`. (Benchmarks start from d = 0 at theta = 0: another, biased, start.)
    The fixed point of the full-batch form is the exact minimiser.

    Args:
      inner_step_size: a; a number or an optax schedule.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      linear_step_size: b; None takes a.
      momentum: m in (0, 1], the weight of the new sample; a number or a schedule. 1 is no memory.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 1 inner and 3 outer gradients, 1 product with d2_yy and 2 with d2_thetay.

    Rate: E|grad F|^2 below eps in O(eps^-2) steps, with steps and momentum of order 1 / sqrt(step).

    Source: Li, Gu & Huang 2022, algorithm 1.
    """

    inner_step_size: StepSize
    outer_step_size: StepSize
    batch_size: int | None = None
    linear_step_size: StepSize | None = None
    momentum: StepSize = 0.1
    inner_optimizer: optax.GradientTransformation | None = None
    outer_optimizer: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        require_settings(self)
        require_step_size("momentum", self.momentum)
        if isinstance(self.momentum, (int, float)) and self.momentum > 1:
            raise ValueError(f"`momentum` must be in (0, 1]: got {self.momentum!r}.")

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        inner = mover(self.inner_step_size, self.inner_optimizer)
        outer = mover(self.outer_step_size, self.outer_optimizer)
        linear = self.inner_step_size if self.linear_step_size is None else self.linear_step_size

        def init(key: Array, y0: Tree, theta0: Tree) -> FSLAState:
            require_real("y0", y0)
            require_real("theta0", theta0)
            v, start = zeros_like(y0), jnp.asarray(0, jnp.int32)
            moments = inner.init(y0), outer.init(theta0)
            return FSLAState(y0, theta0, v, start, key, zeros_like(theta0), theta0, *moments)

        def step(s: FSLAState) -> tuple[FSLAState, Info]:
            keys = jax.random.split(jax.random.fold_in(s.key, s.step), 5)
            inside = [draw(key, problem.inner_data, self.batch_size) for key in keys[:3]]
            outside = [draw(key, problem.outer_data, self.batch_size) for key in keys[3:]]
            loss, slope = inner_slope(problem, s.y, s.theta, inside[0])
            y, inner_optimizer = inner.move(s.y, slope, s.inner_optimizer, s.step)
            in_y = outer_slopes(problem, y, s.theta, outside[0]).in_y
            residual = minus(hvp(problem, y, s.theta, s.v, inside[1]), in_y)
            v = moved(s.v, residual, at(linear, s.step))

            def sample(y: Tree, theta: Tree, v: Tree) -> tuple[Array, Tree]:
                f = outer_slopes(problem, y, theta, outside[1])
                return f.loss, minus(f.in_theta, cross(problem, y, theta, v, inside[2]))

            outer_loss, new = sample(y, s.theta, v)
            _, old = sample(s.y, s.previous, s.v)
            weight = jnp.where(s.step == 0, 1.0, at(self.momentum, s.step))
            direction = jax.tree.map(
                lambda n, d, o: (n + (1 - weight) * (d - o)).astype(n.dtype), new, s.direction, old
            )
            theta, outer_optimizer = outer.move(s.theta, direction, s.outer_optimizer, s.step)
            state = FSLAState(
                y, theta, v, s.step + 1, s.key, direction, s.theta, inner_optimizer,
                outer_optimizer,
            )  # fmt: skip
            return state, info(loss, outer_loss, direction, gradients=4, hvps=3)

        return Algorithm(init, step)
