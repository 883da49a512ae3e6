"""The three directions of a single loop, from one inner and one outer batch."""

from __future__ import annotations

from typing import Any, NamedTuple

from jax import Array

from toolkit.bilevel.parts.oracles import Curved, Slopes, curved, minus, outer_slopes
from toolkit.bilevel.parts.problem import Problem
from toolkit.bilevel.parts.state import LinearState, Moves
from toolkit.types import Tree


class DirectionTriple(NamedTuple):
    """A direction for each variable."""

    y: Tree  # grad_y g
    v: Tree  # d2_yy g v - grad_y f
    theta: Tree  # grad_theta f - d2_thetay g v


class SampledTriple(NamedTuple):
    """The three directions from an inner and an outer batch, and the losses of the two."""

    losses: tuple[Array, Array]  # inner, outer
    direction: DirectionTriple


def sampled_triple(
    problem: Problem, y: Tree, theta: Tree, v: Tree, inner_batch: Any, outer_batch: Any
) -> SampledTriple:
    """Linear in each batch: the mean over all batches is the direction of the whole data."""
    g = curved(problem, y, theta, v, inner_batch)
    f = outer_slopes(problem, y, theta, outer_batch)
    return SampledTriple((g.loss, f.loss), triple(g, f))


def triple(g: Curved, f: Slopes) -> DirectionTriple:
    """The directions that are made of an inner and an outer batch."""
    return DirectionTriple(g.gradient, minus(g.hvp, f.in_y), minus(f.in_theta, g.cross))


def along(moves: Moves, s: LinearState, direction: DirectionTriple) -> LinearState:
    """One step of all three variables; the directions are given, so that the order does not matter."""
    s = moves.theta(s, direction.theta)
    return moves.v(moves.y(s, direction.y), direction.v)
