"""AmIGO: warm-started double loops for the inner iterate and for the linear system."""

from __future__ import annotations

from jax import Array

from toolkit.bilevel.parts.method_settings import Rate, TwoOptimizers
from toolkit.bilevel.parts.movers import at
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem
from toolkit.bilevel.parts.state import LinearState, algorithm, moves_of
from toolkit.bilevel.parts.stochastic_hypergradient import double_step
from toolkit.bilevel.parts.stochastic_inverse import Product, StochasticInverse, descend
from toolkit.settings import Count, Natural, settings
from toolkit.types import Tree


@settings("amigo")
class AmIGO(TwoOptimizers):
    """Amortized implicit gradients: N steps of y, K of v, both from where they were, one of theta.

    Every batch B is drawn anew; B' is one batch of the outer data:

        N times:  y <- y - a grad_y g_B(y, theta)
        K times:  v <- v - b (d2_yy g_B v - grad_y f_B')
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    Given v at the start, `E v = P^K v + (I - P^K) H^{-1} grad_y f` with `P = I - b H`. The fixed point of
    the full-batch form is the exact minimiser: nothing is truncated, v only lags.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: N.
      linear_steps: K.
      linear_step_size: b; None takes a.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes N inner gradients, 1 outer gradient, K products with d2_yy and 1 with d2_thetay.

    Rate: that of an exact hypergradient without noise; E|grad F|^2 below eps in O(1 / eps) steps with
    batches that grow, for strongly convex `g`.

    Source: Arbel & Mairal 2022, algorithm 1.
    """

    inner_steps: Count = 10
    linear_steps: Natural = 10
    linear_step_size: Rate | None = None

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: LinearState) -> tuple[LinearState, Info]:
            def apply(product: Product, b: Tree, batches: Array, _: Array) -> tuple[Tree, int]:
                rate = at(moves.linear_step_size, s.step)
                return descend(product, b, s.v, rate, batches), self.linear_steps

            inverse = StochasticInverse(self.linear_steps, apply)
            new, v, said = double_step(
                problem, moves, s, self.inner_steps, self.batch_size, inverse
            )
            return new._replace(v=v), said

        return algorithm(self, problem, moves, step, linear=True)
