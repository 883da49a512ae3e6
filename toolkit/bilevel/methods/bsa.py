"""BSA: inner steps, and one random partial product of the Neumann series."""

from __future__ import annotations

from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem
from toolkit.bilevel.parts.state import State, algorithm, moves_of
from toolkit.bilevel.parts.stochastic_hypergradient import double_step
from toolkit.bilevel.parts.stochastic_inverse import by_sample, series_step_size
from toolkit.settings import Count, Positive, settings


@settings("bsa")
class BSA(TwoOptimizers):
    """Bilevel stochastic approximation: N steps of y, a sampled Neumann series, one step of theta.

    Every batch B is drawn anew; B' is one batch of the outer data; `p` is uniform on 0 ... Q - 1:

        N times:  y <- y - a grad_y g_B(y, theta)
        v = Q e P_p ... P_1 grad_y f_B',   P_q = I - e d2_yy g_{B_q}
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    `E v = (I - P^Q) H^{-1} grad_y f` with `P = I - e H`, with a variance of order Q^2: the fixed point is
    off by a factor of order `(1 - e mu)^Q`. With `batch_size=None` only p would be random: v is then
    its mean, the series of Q terms.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: N. (The theorem lets it grow with the step.)
      linear_steps: Q, terms of the series.
      linear_step_size: e, a number below 1 / L of every batch's Hessian; None takes a number for a.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes N inner gradients, 1 outer gradient, p (on average (Q - 1) / 2; Q - 1 on the whole
    data) products with d2_yy and 1 with d2_thetay.

    Rate: E|grad F|^2 below eps with O(eps^-2) outer and O(eps^-3) inner gradients, for strongly convex
    `g`, Lipschitz second derivatives and Q of order log(1 / eps).

    Source: Ghadimi & Wang 2018, algorithms 2 and 3.
    """

    inner_steps: Count = 10
    linear_steps: Count = 10
    linear_step_size: Positive | None = None

    def __post_init__(self) -> None:
        series_step_size(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)
        # Unlike (Ghadimi & Wang 2018, algorithm 3): on the whole data the mean over p, see `by_sample`.
        exact = self.batch_size is None
        inverse = by_sample(series_step_size(self), self.linear_steps, exact)

        def step(s: State) -> tuple[State, Info]:
            new, _, said = double_step(
                problem, moves, s, self.inner_steps, self.batch_size, inverse
            )
            return new, said

        return algorithm(self, problem, moves, step)
