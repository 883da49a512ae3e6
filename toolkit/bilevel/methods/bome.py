"""BOME: first-order, the lower level as a constraint with a computed multiplier."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.movers import at, moved
from toolkit.bilevel.parts.oracles import (
    draw,
    inner_slope,
    inner_slopes,
    minus,
    outer_slopes,
    plus,
    theta_slope,
)
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


@settings("bome")
class BOME(TwoOptimizers):
    """Bilevel optimization made easy: both variables descend f under the constraint that q descends too.

    With `q(y, theta) = g(y, theta) - g(w, theta)`, w held constant, and one batch of each data:

        w = T times  w <- w - a grad_y g(w, theta), from y
        grad q = (grad_y g(y, theta), grad_theta g(y, theta) - grad_theta g(w, theta))
        l = max(0, k - <grad f, grad q> / |grad q|^2);   l = 0 where grad q = 0
        y <- y - a (grad_y f + l grad_y q);   theta <- theta - c (grad_theta f + l grad_theta q)

    At constant steps it stays in a cycle of a size of the order of the steps, with l of the order of
    their inverse; as the steps go to 0 it arrives where the hypergradient with the series of T terms,
    `(I - (I - a H)^T) H^{-1}`, vanishes. On batches l is a ratio of random numbers, and biased.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all, as the paper does.
      inner_steps: T.
      control: k > 0; q must descend at a rate of at least k |grad q|^2.
      inner_optimizer, outer_optimizer: optax transformations in place of the last line's a and c.

    Cost: a step takes T + 2 inner gradients and 1 outer gradient, and no product.

    Rate: a measure of the Karush-Kuhn-Tucker conditions in O(steps^-1/4) for `g` that is
    Polyak-Lojasiewicz in y, not only convex.

    Source: Ye, Liu, Wright, Stone & Liu 2022, algorithm 1.
    """

    inner_steps: Count = 10
    control: Positive = 0.5

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves = moves_of(self, problem)

        def step(s: State) -> tuple[State, Info]:
            inner_key, outer_key = split_key(s, 2)
            inside = draw(inner_key, problem.inner_data, self.batch_size)
            outside = draw(outer_key, problem.outer_data, self.batch_size)
            rate = at(self.inner_step_size, s.step)

            def descend(w: Tree, _: None) -> tuple[Tree, None]:
                return moved(w, inner_slope(problem, w, s.theta, inside)[1], rate), None

            w, _ = jax.lax.scan(descend, s.y, length=self.inner_steps)
            f = outer_slopes(problem, s.y, s.theta, outside)
            g = inner_slopes(problem, s.y, s.theta, inside)
            q_theta = minus(g.in_theta, theta_slope(problem, w, s.theta, inside))
            multiplier = _multiplier((f.in_y, f.in_theta), (g.in_y, q_theta), self.control)
            direction = plus(f.in_theta, q_theta, multiplier)
            said = info(g.loss, f.loss, direction, gradients=self.inner_steps + 3, hvps=0)
            new = moves.y(s, plus(f.in_y, g.in_y, multiplier))
            return moves.theta(new, direction), said

        return algorithm(self, problem, moves, step, symmetric="SOBA, StocBiO or ITD")


def _multiplier(f: Tree, q: Tree, control: Array | float) -> Array:
    """`max(0, control - <f, q> / |q|^2)`, and 0 where q is 0.

    The direction d nearest to f with `<q, d> >= control |q|^2` is `f + l q` with this l: 0 where f itself
    lets q descend enough, else what makes the constraint an equality.
    """
    squared = tree.norm(q) ** 2
    along = tree.pairing(f, q) / jnp.where(squared == 0, 1, squared)
    # Where q is 0 the quotient would be 0 / 0, hence the 1 above. A NaN in q is not equal to 0, and
    # `maximum` passes it on: it shows in l, and is not taken for a constraint that holds.
    return jnp.where(squared == 0, 0, jnp.maximum(control - along, 0))
