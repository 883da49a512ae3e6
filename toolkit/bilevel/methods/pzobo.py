"""PZOBO: the response of the inner iterate, measured along random directions."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.method_settings import TwoOptimizers
from toolkit.bilevel.parts.movers import moved
from toolkit.bilevel.parts.oracles import draw, inner_slope, minus, outer_slopes, plus, rows, take
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


@settings("pzobo")
class PZOBO(TwoOptimizers):
    """Partial zeroth-order bilevel optimizer: differences of whole inner loops in place of d y / d theta.

    With `u_1 ... u_Q` standard normal in the shape of theta, and `Y_N(theta)` the end of N inner steps
    from y, on batches B_1 ... B_N that are drawn once for all trajectories:

        d_q = (Y_N(theta + r u_q) - Y_N(theta)) / r
        y <- Y_N(theta)
        theta <- theta - c (grad_theta f_B' + mean_q <d_q, grad_y f_B'> u_q)       at the new y

    The mean over u is the gradient of the unrolled loop, exactly so for any r if Y_N is affine in theta
    (quadratic `g`), else up to O(r). Its variance is of the order of (size of theta) / Q. The fixed
    point is that of the unrolled loop: off by a factor of order `(1 - a mu)^N`. Differences of size r
    carry a rounding error of order 1e-7 / r in float32: keep r at 1e-2 or above there.

    Args:
      inner_step_size: a; a number or an optax schedule of the outer step.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all.
      inner_steps: N.
      directions: Q.
      radius: r.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes N (Q + 1) inner gradients, 1 outer gradient and no product. Memory of Q more inner
    and outer variables.

    Rate: E|grad F|^2 below eps in O(size / eps) steps without noise.

    Source: Sow, Ji & Liang 2022, algorithm 1 (2 on batches).
    """

    inner_steps: Count = 10
    directions: Count = 10
    radius: Positive = 0.1

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves, size = moves_of(self, problem), self.batch_size

        def trained(s: State, batches: Array) -> tuple[State, Array]:
            def inner_step(s: State, batch: Array) -> tuple[State, Array]:
                loss, slope = inner_slope(problem, s.y, s.theta, take(problem.inner_data, batch))
                return moves.y(s, slope), loss

            return jax.lax.scan(inner_step, s, batches)

        def step(s: State) -> tuple[State, Info]:
            inner_key, outer_key, direction_key = split_key(s, 3)
            batches = rows(inner_key, problem.inner_data, size, self.inner_steps)
            new, losses = trained(s, batches)
            outside = draw(outer_key, problem.outer_data, size)
            f = outer_slopes(problem, new.y, s.theta, outside)

            def along(u: Tree) -> Tree:
                # The same batches as in the trajectory at theta: with others the two ends would differ
                # by their noise, and dividing by a small radius would blow that up.
                there, _ = trained(s._replace(theta=moved(s.theta, u, -self.radius)), batches)
                change = minus(tree.parts(there.y).inexact, tree.parts(new.y).inexact)
                response = tree.pairing(change, f.in_y) / self.radius
                return jax.tree.map(lambda leaf: (response * leaf).astype(leaf.dtype), u)

            normal = _normal(direction_key, f.in_theta, self.directions)
            total = jax.tree.map(lambda leaf: jnp.mean(leaf, 0), jax.vmap(along)(normal))
            direction = plus(f.in_theta, total)
            gradients = self.inner_steps * (self.directions + 1) + 1
            said = info(losses[0], f.loss, direction, gradients, hvps=0)
            return moves.theta(new, direction), said

        return algorithm(self, problem, moves, step)


def _normal(key: Array, like: Tree, count: int) -> Any:
    """`count` standard normal trees, stacked along a leading axis.

    Each leaf has a key of its own: with one key, leaves of the same shape would be copies of each other.
    """
    leaves, structure = jax.tree.flatten(like)
    keys = jax.random.split(key, len(leaves))
    draws = [
        jax.random.normal(key, (count, *leaf.shape), leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return structure.unflatten(draws)
