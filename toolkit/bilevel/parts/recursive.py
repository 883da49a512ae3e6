"""Single loops whose two directions are corrected by recursive momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit.bilevel.parts.descent import fresh_at_first, storm
from toolkit.bilevel.parts.double_loop import Invert, hyperdirection
from toolkit.bilevel.parts.oracles import draw, inner_slope, zeros_like
from toolkit.bilevel.parts.problem import Algorithm, Info, Problem, info
from toolkit.bilevel.parts.state import State, algorithm, moves_of, split_key
from toolkit.types import Tree


class Directions(NamedTuple):
    """Of both variables."""

    y: Tree
    theta: Tree


class Memory(NamedTuple):
    """What the momentum remembers."""

    direction: Directions
    y: Tree  # of the step before
    theta: Tree


class Sample(NamedTuple):
    """Both directions at a point, from the batches of a key."""

    losses: tuple[Array, Array]
    direction: Directions
    hvps: Any


def sampled(
    problem: Problem, y: Tree, theta: Tree, key: Array, batch_size: int | None, invert: Invert
) -> Sample:
    """`grad_y g_B` and the stochastic hypergradient; with one key, one sample at any point."""
    inner_key, outer_key = jax.random.split(key)
    loss, slope = inner_slope(problem, y, theta, draw(inner_key, problem.inner_data, batch_size))
    d = hyperdirection(problem, y, theta, outer_key, batch_size, invert)
    return Sample((loss, d.outer_loss), Directions(slope, d.theta), d.hvps)


def recursive_momentum(settings: Any, problem: Problem, invert: Invert) -> Algorithm:
    """Both variables move at once, along the `d` of

    d = D + (1 - m) (d - D at the point before, the same sample),   first d = D
    """
    moves, batch_size = moves_of(settings, problem), settings.batch_size

    def step(s: State) -> tuple[State, Info]:
        (key,) = split_key(s, 1)
        new = sampled(problem, s.y, s.theta, key, batch_size, invert)
        old = sampled(problem, s.memory.y, s.memory.theta, key, batch_size, invert)
        weight = fresh_at_first(settings.momentum, s.step)
        d = storm(new.direction, s.memory.direction, old.direction, weight)
        said = info(*new.losses, d.theta, gradients=4, hvps=new.hvps + old.hvps)
        moved = moves.theta(moves.y(s, d.y), d.theta)
        return moved._replace(memory=Memory(d, s.y, s.theta)), said

    def start(y0: Tree, theta0: Tree) -> Memory:
        return Memory(Directions(zeros_like(y0), zeros_like(theta0)), y0, theta0)

    return algorithm(settings, problem, moves, step, memory=start)
