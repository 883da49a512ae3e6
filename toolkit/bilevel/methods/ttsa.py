"""TTSA: one step of y and one of theta, on two time scales."""

from __future__ import annotations

from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem
from toolkit.bilevel.parts.state import State, algorithm, moves_of
from toolkit.bilevel.parts.stochastic_hypergradient import double_step
from toolkit.bilevel.parts.stochastic_inverse import by_sample, series_step_size
from toolkit.settings import Count, Positive, settings


@settings("ttsa")
class TTSA(TwoOptimizers):
    """Two-timescale stochastic approximation: a single loop in which y moves faster than theta.

    Every batch B is drawn anew; B' is one batch of the outer data; `p` is uniform on 0 ... Q - 1:

        y <- y - a grad_y g_B(y, theta)
        v = Q e P_p ... P_1 grad_y f_B',   P_q = I - e d2_yy g_{B_q}
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    Given y, the mean of the direction is that of the series of Q terms; y itself is exact in the limit.
    (Codes that reuse the batch of y for d2_thetay add a bias of order a.) With
    `batch_size=None` v is its mean over p, the series of Q terms.

    Args:
      inner_step_size: a; a number or an optax schedule. In theory of order 1 / step^(2/5).
      outer_step_size: c; likewise, of order 1 / step^(3/5).
      batch_size: examples a batch, drawn with replacement; None takes all.
      linear_steps: Q, terms of the series.
      linear_step_size: e, a number below 1 / L of every batch's Hessian; None takes a number for a.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c; one that projects
        theta gives the paper's constrained form.

    Cost: a step takes 1 inner and 1 outer gradient, p (on average (Q - 1) / 2; Q - 1 on the whole data)
    products with d2_yy and 1 with d2_thetay.

    Rate: E|grad F|^2 below eps in O(eps^-5/2) steps; for strongly convex F, in O(1 / eps^(3/2)).

    Source: Hong, Wai, Wang & Yang 2023, algorithm 1.
    """

    linear_steps: Count = 10
    linear_step_size: Positive | None = None

    def __post_init__(self) -> None:
        series_step_size(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)
        # Unlike (Hong et al. 2023, algorithm 1): on the whole data the mean over p, see `by_sample`.
        exact = self.batch_size is None
        inverse = by_sample(series_step_size(self), self.linear_steps, exact)

        def step(s: State) -> tuple[State, Info]:
            new, _, said = double_step(problem, moves, s, 1, self.batch_size, inverse)
            return new, said

        return algorithm(self, problem, moves, step)
