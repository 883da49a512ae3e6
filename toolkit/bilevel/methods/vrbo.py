"""VRBO: a double loop whose directions are summed up from differences."""

from __future__ import annotations

from typing import NamedTuple

import jax
from jax import Array

from toolkit.bilevel.parts import data_blocks
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.oracles import zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.recursive_momentum import DirectionPair, sampled_pair, storm
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.bilevel.parts.stochastic_inverse import by_sum, series_step_size
from toolkit.settings import Count, Natural, Positive, settings
from toolkit.types import Tree


class VrboMemory(NamedTuple):
    """Both directions, as estimated at the y and theta of the state."""

    direction: DirectionPair


@settings("vrbo")
class VRBO(TwoOptimizers):
    """Variance-reduced bilevel optimizer: SPIDER's differences along every move of y and of theta.

    With D = (grad_y g, hypergradient by the Neumann series of StocBiO), with fresh batches for each
    difference, the same at both of its points:

        every `period` steps:  d = D(y, theta) on the whole data
        theta+ = theta - c d_theta;   d <- d + D_B(y, theta+) - D_B(y, theta)
        N times:  y+ = y - a d_y;     d <- d + D_B(y+, theta+) - D_B(y, theta+);   y <- y+

    d is always an estimate of D at the carried (y, theta), and equal to D there with `batch_size=None`.
    (Published codes leave out the first difference, or pair d with the y of the next move: their d
    drifts away from D.) The series is cut, so that the fixed point is off by a factor of order
    `(1 - e mu)^(Q+1)`.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: N.
      linear_steps: Q.
      linear_step_size: e, a number below 2 / L of every batch's Hessian; None takes a number for a.
      period: outer steps between looks at the whole data; None takes as many as sample half of it.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 2 (N + 1) inner and as many outer gradients, 2 Q (N + 1) products with d2_yy and
    2 (N + 1) with d2_thetay; a look at the whole data 1, 1, Q and 1 on every batch of it.

    Under `vmap` each step pays for both branches.

    Rate: E|grad F|^2 below eps in O(eps^-3/2) samples, if each sample is smooth.

    Source: Yang, Ji & Liang 2021, algorithm 2.
    """

    inner_steps: Count = 10
    linear_steps: Natural = 10
    linear_step_size: Positive | None = None
    period: Count | None = None

    def __post_init__(self) -> None:
        series_step_size(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves, size, products = moves_of(self, problem), self.batch_size, self.linear_steps
        data = problem.inner_data, problem.outer_data
        inner_blocks, outer_blocks = (data_blocks.count(part, size) for part in data)
        samples = self.inner_steps + 1
        period = self.period or data_blocks.default_period(*data, size, samples)
        inverse = by_sum(series_step_size(self), products)

        def difference(
            new: State, old: State, key: Array
        ) -> tuple[DirectionPair, tuple[Array, Array]]:
            """The direction at `new`, and the losses at `old`."""
            at_new = sampled_pair(problem, new.y, new.theta, key, size, inverse)
            at_old = sampled_pair(problem, old.y, old.theta, key, size, inverse)
            # The same key gives both points the same batches. They are close to each other, so that what
            # is random in the two samples nearly cancels in the difference; fresh batches would not.
            direction = storm(at_new.direction, old.memory.direction, at_old.direction, 0.0)
            return direction, at_old.losses

        def exact(s: State) -> DirectionPair:
            # On the whole data no batch is drawn: the key is not used.
            return sampled_pair(problem, s.y, s.theta, s.key, None, inverse).direction

        def inner_step(s: State, key: Array) -> tuple[State, None]:
            new = moves.y(s, s.memory.direction.y)
            direction, _ = difference(new, s, key)
            return new._replace(memory=VrboMemory(direction)), None

        def step(s: State) -> tuple[State, Info]:
            outer_key, inner_key = split_key(s, 2)
            due = s.step % period == 0
            d = jax.lax.cond(due, exact, lambda s: s.memory.direction, s)
            s = s._replace(memory=VrboMemory(d))
            # The direction is brought along with every move of a variable, theta's included. Without this
            # difference d would stay behind at the old theta, and its error would add up over the steps.
            new = moves.theta(s, d.theta)
            direction, losses = difference(new, s, outer_key)
            new = new._replace(memory=VrboMemory(direction))
            new, _ = jax.lax.scan(inner_step, new, jax.random.split(inner_key, self.inner_steps))
            due = due.astype("int32")
            gradients = 4 * samples + due * (inner_blocks + outer_blocks)
            hvps = (products + 1) * (2 * samples + due * inner_blocks)
            return new, info(*losses, d.theta, gradients, hvps)

        def start(y0: Tree, theta0: Tree) -> VrboMemory:
            return VrboMemory(DirectionPair(zeros_like(y0), zeros_like(theta0)))

        return algorithm(self, problem, moves, step, memory=start)
