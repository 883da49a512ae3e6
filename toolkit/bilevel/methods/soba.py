"""SOBA: one step of the inner iterate, of the linear system and of the outer iterate at once."""

from __future__ import annotations

from toolkit.bilevel.parts.direction_triple import along, sampled_triple
from toolkit.bilevel.parts.method_settings import Rate, TwoOptimizers
from toolkit.bilevel.parts.oracles import draw
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import LinearState, algorithm, moves_of, split_key
from toolkit.settings import settings


@settings("soba")
class SOBA(TwoOptimizers):
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

    linear_step_size: Rate | None = None

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: LinearState) -> tuple[LinearState, Info]:
            inner_key, outer_key = split_key(s, 2)
            inside = draw(inner_key, problem.inner_data, self.batch_size)
            outside = draw(outer_key, problem.outer_data, self.batch_size)
            sample = sampled_triple(problem, s.y, s.theta, s.v, inside, outside)
            direction = sample.direction
            said = info(*sample.losses, direction.theta, gradients=2, hvps=2)
            return along(moves, s, direction), said

        return algorithm(self, problem, moves, step, linear=True)
