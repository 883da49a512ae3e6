"""FSLA: a fully single loop, with the outer direction corrected by recursive momentum."""

from __future__ import annotations

from typing import NamedTuple

from jax import Array

from toolkit.bilevel.parts.method_settings import Momentum, Rate, TwoOptimizers
from toolkit.bilevel.parts.oracles import (
    cross,
    draw,
    hvp,
    inner_slope,
    minus,
    outer_slopes,
    zeros_like,
)
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.recursive_momentum import fresh_at_first, storm
from toolkit.bilevel.parts.state import LinearState, algorithm, moves_of, split_key
from toolkit.settings import settings
from toolkit.types import Tree


class FslaMemory(NamedTuple):
    """The direction of theta that is carried on, and the theta at which it was taken."""

    direction: Tree  # d, near the hypergradient
    theta: Tree  # theta of the step before


@settings("fsla")
class FSLA(TwoOptimizers):
    """Fully single loop algorithm: one step of y, then of v, then of theta, with momentum.

    Five fresh batches a step, B_k of the inner data and B'_k of the outer:

        y+ = y - a grad_y g_B1(y, theta)
        v+ = v - b (d2_yy g_B2 v - grad_y f_B'1)                              at (y+, theta)
        G  = grad_theta f_B'2 - d2_thetay g_B3 v+                             at (y+, theta)
        d  = G + (1 - m) (d - G at (y, theta_before, v), the same batches)
        theta+ = theta - c d

    The first step takes `d = G`. (Some benchmark codes start from d = 0 at theta = 0, which is biased.)
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

    linear_step_size: Rate | None = None
    momentum: Momentum = 0.1

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: LinearState) -> tuple[LinearState, Info]:
            keys = split_key(s, 5)
            inside = [draw(key, problem.inner_data, self.batch_size) for key in keys[:3]]
            outside = [draw(key, problem.outer_data, self.batch_size) for key in keys[3:]]
            loss, slope = inner_slope(problem, s.y, s.theta, inside[0])
            new = moves.y(s, slope)
            in_y = outer_slopes(problem, new.y, s.theta, outside[0]).in_y
            new = moves.v(new, minus(hvp(problem, new.y, s.theta, s.v, inside[1]), in_y))

            def sample(y: Tree, theta: Tree, v: Tree) -> tuple[Array, Tree]:
                f = outer_slopes(problem, y, theta, outside[1])
                return f.loss, minus(f.in_theta, cross(problem, y, theta, v, inside[2]))

            outer_loss, fresh = sample(new.y, s.theta, new.v)
            # The step before moved y and v first, to today's s.y and s.v, and took its sample there, with
            # theta not yet moved. The old sample must be taken at that same point, or d would drift.
            _, old = sample(s.y, s.memory.theta, s.v)
            weight = fresh_at_first(self.momentum, s.step)
            direction = storm(fresh, s.memory.direction, old, weight)
            said = info(loss, outer_loss, direction, gradients=4, hvps=3)
            memory = FslaMemory(direction, s.theta)
            return moves.theta(new, direction)._replace(memory=memory), said

        start = lambda y0, theta0: FslaMemory(zeros_like(theta0), theta0)
        return algorithm(self, problem, moves, step, linear=True, memory=start)
