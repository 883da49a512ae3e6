"""SRBA: SOBA with the variance reduction of SARAH."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts import data_blocks
from toolkit.bilevel.parts.direction_triple import (
    DirectionTriple,
    SampledTriple,
    along,
    sampled_triple,
)
from toolkit.bilevel.parts.method_settings import Rate, TwoOptimizers
from toolkit.bilevel.parts.oracles import draw, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.recursive_momentum import storm
from toolkit.bilevel.parts.state import LinearState, algorithm, moves_of, split_key
from toolkit.settings import Count, Positive, settings
from toolkit.types import Tree


class SrbaMemory(NamedTuple):
    """The direction that is carried on, and the point at which it was taken."""

    direction: DirectionTriple
    y: Tree  # y, theta and v of the step before
    theta: Tree
    v: Tree


@settings("srba")
class SRBA(TwoOptimizers):
    """Stochastic recursive bilevel algorithm: SOBA's directions, summed up from differences.

    With u = (y, v, theta) and D the three directions of SOBA:

        every `period` steps:  d = D(u) on the whole data
        else:                  d <- d + D_B(u) - D_B(u_before), fresh batches B, the same at both points
        y <- y - a d_y;   v <- v - b d_v;   theta <- theta - c d_theta

    Between two steps on the whole data the mean of d - D(u) is 0 over all random draws, though not for a
    given past: an error of d stays until the next exact step. Constant steps arrive at the exact minimiser.

    Args:
      inner_step_size: a; a number or an optax schedule. Constant in theory.
      outer_step_size: c; likewise.
      batch_size: examples a batch, drawn with replacement; None takes all, and is full-batch SOBA.
      linear_step_size: b; None takes a.
      period: None takes half of the number of batches of both data sets, at least 1.
      radius: v is projected on the ball of this 2-norm, as the theorem asks, with `radius` at least
        |grad_y f| / mu; None leaves it.
      inner_optimizer, outer_optimizer: optax transformations in place of a and c.

    Cost: a step takes 2 inner and 2 outer gradients, 2 products each with d2_yy and d2_thetay; one that
    looks at the whole data, 1 of each on every batch of it. Memory of two more states.

    Under `vmap` each step pays for both branches.

    Rate: E|grad F|^2 below eps in O(sqrt(n + m) / eps) samples, which is optimal, if each sample is
    smooth (mean-squared smoothness).

    Source: Dagreou, Moreau, Vaiter & Ablin 2024, algorithm 1.
    """

    linear_step_size: Rate | None = None
    period: Count | None = None
    radius: Positive | None = None

    def __call__(self, problem: Problem) -> Algorithm:
        """The method on a problem."""
        moves, size = moves_of(self, problem), self.batch_size
        data = problem.inner_data, problem.outer_data
        period = self.period or data_blocks.default_period(*data, size, samples=1)

        def exact(s: LinearState) -> tuple[SampledTriple, Array]:
            counts = [data_blocks.count(part, size) for part in data]
            costs = jnp.asarray([sum(counts), 2 * counts[0]], jnp.int32)
            return sampled_triple(problem, s.y, s.theta, s.v, *data), costs

        def corrected(s: LinearState) -> tuple[SampledTriple, Array]:
            keys = split_key(s, 2)
            batch = [draw(key, part, size) for key, part in zip(keys, data, strict=True)]
            new = sampled_triple(problem, s.y, s.theta, s.v, *batch)
            old = sampled_triple(problem, s.memory.y, s.memory.theta, s.memory.v, *batch)
            # SARAH's recursion: with weight 0 the old direction is kept whole and moved by the difference.
            d = storm(new.direction, s.memory.direction, old.direction, 0.0)
            return SampledTriple(new.losses, d), jnp.asarray([4, 4], jnp.int32)

        def step(s: LinearState) -> tuple[LinearState, Info]:
            # A `cond` under `vmap` computes both branches; where every step is exact none is needed.
            if period == 1:
                sample, costs = exact(s)
            else:
                sample, costs = jax.lax.cond(s.step % period == 0, exact, corrected, s)
            d = sample.direction
            said = info(*sample.losses, d.theta, *costs)
            new = along(moves, s, d)
            if self.radius is not None:
                new = new._replace(v=_projected(new.v, self.radius))
            return new._replace(memory=SrbaMemory(d, s.y, s.theta, s.v)), said

        def start(y0: Tree, theta0: Tree) -> SrbaMemory:
            zeros = zeros_like(y0)
            return SrbaMemory(DirectionTriple(zeros, zeros, zeros_like(theta0)), y0, theta0, zeros)

        return algorithm(self, problem, moves, step, linear=True, memory=start)


def _projected(v: Tree, radius: Array | float) -> Tree:
    """The nearest point to v in the ball of that 2-norm; a division by max(|v|, radius) is never by 0."""
    scale = radius / jnp.maximum(tree.norm(v), radius)
    return jax.tree.map(lambda leaf: (scale * leaf).astype(leaf.dtype), v)
