"""SUSTAIN: recursive momentum on both directions, with a sampled Neumann series."""

from __future__ import annotations

from toolkit.bilevel.parts.method_settings import Momentum, TwoOptimizers
from toolkit.bilevel.parts.problem import Algorithm, Problem
from toolkit.bilevel.parts.recursive_momentum import recursive_momentum
from toolkit.bilevel.parts.stochastic_inverse import by_sample, series_step_size
from toolkit.settings import Count, Positive, settings


@settings("sustain")
class SUSTAIN(TwoOptimizers):
    """Single-timescale double-momentum method: TTSA's samples, corrected by recursive momentum.

    With u = (y, theta), a batch B of the inner data and a sampled hypergradient h (batches B', B_1 ...
    B_Q, B'' and length p, all drawn anew), both taken at u and at the u of the step before:

        h(u) = grad_theta f_B' - d2_thetay g_B'' v,   v = Q e P_p ... P_1 grad_y f_B',   P_q = I - e d2_yy g_{B_q}
        d_y     <- grad_y g_B(u) + (1 - m) (d_y     - grad_y g_B(u_before))
        d_theta <- h(u)          + (1 - m) (d_theta - h(u_before))
        y <- y - a d_y;   theta <- theta - c d_theta

    The first step takes d = the sample. (Some benchmark codes start from d = 0 at u = 0, which is biased.)
    Over all random draws d has the mean of its full-batch value; the series is cut, so that the fixed point is
    off by a factor of order `(1 - e mu)^Q`. With `batch_size=None` v is its mean over p.

    Args:
      inner_step_size: a; a number or an optax schedule. In theory of order 1 / step^(1/3).
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      linear_steps: Q, terms of the series.
      linear_step_size: e, a number below 1 / L of every batch's Hessian; None takes a number for a.
      momentum: m in (0, 1], the weight of the new sample; in theory of order 1 / step^(2/3).
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 2 inner and 2 outer gradients, 2p (on average Q - 1; 2 (Q - 1) on the whole data)
    products with d2_yy and 2 with d2_thetay.

    Rate: E|grad F|^2 below eps in O(eps^-3/2) steps, if each sample is smooth (mean-squared smoothness).

    Source: Khanduri et al. 2021, algorithm 1.
    """

    linear_steps: Count = 10
    linear_step_size: Positive | None = None
    momentum: Momentum = 0.5

    def __post_init__(self) -> None:
        series_step_size(self)

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        # Unlike (Khanduri et al. 2021, algorithm 1): on the whole data the mean over p, see `by_sample`.
        exact = self.batch_size is None
        inverse = by_sample(series_step_size(self), self.linear_steps, exact)
        return recursive_momentum(self, problem, inverse)
