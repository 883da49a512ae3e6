"""A sample of the hypergradient, and one outer step of a double loop along it."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit.bilevel.parts.oracles import (
    cross,
    draw,
    hvp,
    inner_slope,
    minus,
    outer_slopes,
    rows,
    take,
)
from toolkit.bilevel.parts.problem import Info, Problem, info
from toolkit.bilevel.parts.state import Moves, split_key
from toolkit.bilevel.parts.stochastic_inverse import StochasticInverse
from toolkit.types import Tree


class StochasticHypergradient(NamedTuple):
    """A sample of the hypergradient, and what it was made of."""

    outer_loss: Array
    theta: Tree  # grad_theta f_B' - d2_thetay g_B v
    v: Tree
    hvps: Any  # products used


def stochastic_hypergradient(
    problem: Problem,
    y: Tree,
    theta: Tree,
    key: Array,
    batch_size: int | None,
    inverse: StochasticInverse,
) -> StochasticHypergradient:
    """`grad_theta f_B' - d2_thetay g_B v`, `v` near `H^{-1} grad_y f_B'` by `inverse`, at any (y, theta).

    The key draws all batches: with the same key, the same samples at another point.
    """
    # grad_y g(y*(theta), theta) = 0  =>  H dy* + d2_ytheta g dtheta = 0, and so
    # dF/dtheta = grad_theta f - d2_thetay g H^{-1} grad_y f.
    outer_key, inner_key, inverse_key = jax.random.split(key, 3)
    f = outer_slopes(problem, y, theta, draw(outer_key, problem.outer_data, batch_size))
    batches = rows(inner_key, problem.inner_data, batch_size, inverse.products + 1)

    # The last batch is for d2_thetay alone. v is made of the others: one of them again would be correlated
    # with v, and the mean of the product would not be the product of the means.
    def product(batch: Array, w: Tree) -> Tree:
        return hvp(problem, y, theta, w, take(problem.inner_data, batch))

    v, products = inverse.apply(product, f.in_y, batches[:-1], inverse_key)
    mixed = cross(problem, y, theta, v, take(problem.inner_data, batches[-1]))
    return StochasticHypergradient(f.loss, minus(f.in_theta, mixed), v, products + 1)


def double_step(
    problem: Problem,
    moves: Moves,
    s: Any,
    inner_steps: int,
    batch_size: int | None,
    inverse: StochasticInverse,
) -> tuple[Any, Tree, Info]:
    """(new state, v, info), with every inner batch B drawn anew and one outer batch B':

        inner_steps times:  y <- y - a grad_y g_B(y, theta)
        v near H^{-1} grad_y f_B', by inverse
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    Schedules count outer steps: all inner steps have the same step size.
    """
    inner_key, outer_key = split_key(s, 2)

    def inner_step(s: Any, batch: Array) -> tuple[Any, Array]:
        loss, slope = inner_slope(problem, s.y, s.theta, take(problem.inner_data, batch))
        return moves.y(s, slope), loss

    s, losses = jax.lax.scan(
        inner_step, s, rows(inner_key, problem.inner_data, batch_size, inner_steps)
    )
    d = stochastic_hypergradient(problem, s.y, s.theta, outer_key, batch_size, inverse)
    said = info(losses[0], d.outer_loss, d.theta, gradients=inner_steps + 1, hvps=d.hvps)
    return moves.theta(s, d.theta), d.v, said
