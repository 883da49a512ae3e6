"""StocBiO: a warm-started inner loop, and a Neumann series for the linear system."""

from __future__ import annotations

from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem
from toolkit.bilevel.parts.state import State, algorithm, moves_of
from toolkit.bilevel.parts.stochastic_hypergradient import double_step
from toolkit.bilevel.parts.stochastic_inverse import by_sum, series_step_size
from toolkit.settings import Count, Natural, Positive, settings


@settings("stocbio")
class StocBiO(TwoOptimizers):
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

    inner_steps: Count = 10
    linear_steps: Natural = 10
    linear_step_size: Positive | None = None

    def __post_init__(self) -> None:
        series_step_size(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)
        inverse = by_sum(series_step_size(self), self.linear_steps)

        def step(s: State) -> tuple[State, Info]:
            new, _, said = double_step(
                problem, moves, s, self.inner_steps, self.batch_size, inverse
            )
            return new, said

        return algorithm(self, problem, moves, step)
