"""StocBiO: a warm-started inner loop, and a Neumann series for the linear system."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.bilevel.descent import (
    StepSize,
    mover,
    require_batch_size,
    require_count,
    require_step_size,
)
from toolkit.bilevel.inner_loop import inner_steps
from toolkit.bilevel.linear_system import neumann_sum
from toolkit.bilevel.oracles import cross, draw, hvp, minus, outer_slopes
from toolkit.bilevel.problem import Algorithm, Info, Problem, info
from toolkit.types import Tree


class StocBiOState(NamedTuple):
    """All that a step needs."""

    y: Tree
    theta: Tree
    step: Array  # [] int32, steps made
    key: Array
    inner_optimizer: Any
    outer_optimizer: Any


@dataclass(frozen=True)
class StocBiO:
    """Stochastic bilevel optimizer: N steps of y, a Neumann series of Q products, one step of theta.

    Every batch B is drawn anew; B' is one batch of the outer data; `b = grad_y f_B'`:

        N times:  y <- y - a grad_y g_B(y, theta)
        v = e (b + P_1 b + ... + P_Q ... P_1 b),   P_q = I - e d2_yy g_{B_q}
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    `E v = (I - P^(Q+1)) H^{-1} b` with `P = I - e H`: the series is cut, and the fixed point of the
    full-batch form is off by a factor of order `(1 - e mu)^(Q+1)`.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: N.
      linear_steps: Q.
      linear_step_size: e, a number below 2 / L of every batch's Hessian; None takes a number for a.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes N inner gradients, 1 outer gradient, Q products with d2_yy and 1 with d2_thetay.

    Rate: E|grad F|^2 below eps in O(1 / eps) steps with batches of order 1 / eps and Q of order
    log(1 / eps), for strongly convex `g`.

    Source: Ji, Yang & Liang 2021, algorithm 2.
    """

    inner_step_size: StepSize
    outer_step_size: StepSize
    batch_size: int | None = None
    inner_steps: int = 10
    linear_steps: int = 10
    linear_step_size: float | None = None
    inner_optimizer: optax.GradientTransformation | None = None
    outer_optimizer: optax.GradientTransformation | None = None

    def __post_init__(self) -> None:
        require_step_size("inner_step_size", self.inner_step_size)
        require_step_size("outer_step_size", self.outer_step_size)
        if self.linear_step_size is None and callable(self.inner_step_size):
            raise ValueError(
                "`linear_step_size` must be given where `inner_step_size` is a schedule: a series with a "
                "shrinking step is no inverse."
            )
        if self.linear_step_size is not None:
            require_step_size("linear_step_size", self.linear_step_size)
        require_batch_size(self.batch_size)
        require_count("inner_steps", self.inner_steps)
        require_count("linear_steps", self.linear_steps, least=0)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        inner = mover(self.inner_step_size, self.inner_optimizer)
        outer = mover(self.outer_step_size, self.outer_optimizer)
        linear: Any = self.linear_step_size
        linear = self.inner_step_size if linear is None else linear
        gradients, hvps = self.inner_steps + 1, self.linear_steps + 1

        def init(key: Array, y0: Tree, theta0: Tree) -> StocBiOState:
            start = jnp.asarray(0, jnp.int32)
            return StocBiOState(y0, theta0, start, key, inner.init(y0), outer.init(theta0))

        def step(s: StocBiOState) -> tuple[StocBiOState, Info]:
            keys = jax.random.split(jax.random.fold_in(s.key, s.step), 4)
            inner_key, outer_key, linear_key, cross_key = keys
            y, inner_optimizer, loss = inner_steps(
                problem, inner, s.y, s.theta, s.inner_optimizer, s.step, inner_key,
                self.inner_steps, self.batch_size,
            )  # fmt: skip
            batch = lambda key: draw(key, problem.inner_data, self.batch_size)
            f = outer_slopes(
                problem, y, s.theta, draw(outer_key, problem.outer_data, self.batch_size)
            )
            product = lambda key, w: hvp(problem, y, s.theta, w, batch(key))
            linear_keys = jax.random.split(linear_key, self.linear_steps)
            v = neumann_sum(product, f.in_y, linear, linear_keys)
            direction = minus(f.in_theta, cross(problem, y, s.theta, v, batch(cross_key)))
            theta, outer_optimizer = outer.move(s.theta, direction, s.outer_optimizer, s.step)
            new = StocBiOState(y, theta, s.step + 1, s.key, inner_optimizer, outer_optimizer)
            return new, info(loss, f.loss, direction, gradients, hvps)

        return Algorithm(init, step)
