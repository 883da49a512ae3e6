"""Recursive momentum (STORM), and the single loops that correct both of their directions by it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.bilevel.parts.movers import StepSize, at
from toolkit.bilevel.parts.oracles import draw, inner_slope, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.bilevel.parts.stochastic_hypergradient import stochastic_hypergradient
from toolkit.bilevel.parts.stochastic_inverse import StochasticInverse
from toolkit.types import Tree


def storm(new: Tree, direction: Tree, old: Tree, weight: Any) -> Tree:
    """Recursive momentum: `new + (1 - weight) (direction - old)`, `new` and `old` of one sample.

    Weight 0 is SARAH's difference, weight 1 the sample. Source: Cutkosky & Orabona 2019, equation 2.
    """
    # With `D` the mean of the samples, at the two points: the error e = d - D obeys
    #   e_new = (1 - weight) e + weight (new - D_new) + (1 - weight) ((new - old) - (D_new - D_old)).
    # It fades by the factor 1 - weight. The last term is small because one sample at two close points
    # changes little; samples of different batches would add their full noise in every step.
    return jax.tree.map(
        lambda n, d, o: (n + (1 - weight) * (d - o)).astype(n.dtype), new, direction, old
    )


def fresh_at_first(momentum: StepSize, t: Array) -> Array:
    """The weight of `storm` at step `t`: 1 at step 0.

    The memory then holds zeros and no direction. A smaller weight would mix them in, and bias the first steps.
    """
    return jnp.where(t == 0, 1.0, at(momentum, t))


class DirectionPair(NamedTuple):
    """A direction for each variable."""

    y: Tree
    theta: Tree


class MomentumMemory(NamedTuple):
    """The directions that are carried on, and the point at which they were taken."""

    direction: DirectionPair
    y: Tree  # y and theta of the step before
    theta: Tree


class SampledPair(NamedTuple):
    """Both directions at a point, from the batches that a key draws."""

    losses: tuple[Array, Array]
    direction: DirectionPair
    hvps: Any


def sampled_pair(
    problem: Problem,
    y: Tree,
    theta: Tree,
    key: Array,
    batch_size: int | None,
    inverse: StochasticInverse,
) -> SampledPair:
    """`grad_y g_B` and the stochastic hypergradient; the same key draws the same batches at any point."""
    inner_key, outer_key = jax.random.split(key)
    loss, slope = inner_slope(problem, y, theta, draw(inner_key, problem.inner_data, batch_size))
    d = stochastic_hypergradient(problem, y, theta, outer_key, batch_size, inverse)
    return SampledPair((loss, d.outer_loss), DirectionPair(slope, d.theta), d.hvps)


def recursive_momentum(settings: Any, problem: Problem, inverse: StochasticInverse) -> Algorithm:
    """A method in which both variables move at once, each along its direction d.

    With a sample D of both directions, drawn from the same batches at this point and at the one before:

        d <- D + (1 - m) (d - D before);   the first step takes d = D
    """
    moves, batch_size = moves_of(settings, problem), settings.batch_size

    def step(s: State) -> tuple[State, Info]:
        (key,) = split_key(s, 1)
        new = sampled_pair(problem, s.y, s.theta, key, batch_size, inverse)
        old = sampled_pair(problem, s.memory.y, s.memory.theta, key, batch_size, inverse)
        weight = fresh_at_first(settings.momentum, s.step)
        d = storm(new.direction, s.memory.direction, old.direction, weight)
        said = info(*new.losses, d.theta, gradients=4, hvps=new.hvps + old.hvps)
        moved = moves.theta(moves.y(s, d.y), d.theta)
        return moved._replace(memory=MomentumMemory(d, s.y, s.theta)), said

    def start(y0: Tree, theta0: Tree) -> MomentumMemory:
        return MomentumMemory(DirectionPair(zeros_like(y0), zeros_like(theta0)), y0, theta0)

    return algorithm(settings, problem, moves, step, memory=start)
