"""One outer step of a double loop: inner steps, a linear system, a step of theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit.bilevel.parts.linear_system import Product, neumann_sample, neumann_sum
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
from toolkit.types import Tree


class Invert(NamedTuple):
    """How a linear system is solved with at most `products` products, each with a batch of its own."""

    products: int
    # (product, b, batches, key) -> (v near H^{-1} b, products used)
    apply: Callable[[Product, Tree, Array, Array], tuple[Tree, Any]]


class Direction(NamedTuple):
    """A stochastic hypergradient."""

    outer_loss: Array
    theta: Tree  # grad_theta f_B' - d2_thetay g_B v
    v: Tree
    hvps: Any  # products used


def hyperdirection(
    problem: Problem, y: Tree, theta: Tree, key: Array, batch_size: int | None, invert: Invert
) -> Direction:
    """`grad_theta f_B' - d2_thetay g_B v`, `v` = invert of `grad_y f_B'`, at any (y, theta).

    The batches are those of the key: with the same key, the same samples at another point.
    """
    outer_key, inner_key, invert_key = jax.random.split(key, 3)
    f = outer_slopes(problem, y, theta, draw(outer_key, problem.outer_data, batch_size))
    batches = rows(inner_key, problem.inner_data, batch_size, invert.products + 1)

    def product(batch: Array, w: Tree) -> Tree:
        return hvp(problem, y, theta, w, take(problem.inner_data, batch))

    v, products = invert.apply(product, f.in_y, batches[:-1], invert_key)
    mixed = cross(problem, y, theta, v, take(problem.inner_data, batches[-1]))
    return Direction(f.loss, minus(f.in_theta, mixed), v, products + 1)


def double_step(
    problem: Problem,
    moves: Moves,
    s: Any,
    inner_steps: int,
    batch_size: int | None,
    invert: Invert,
) -> tuple[Any, Tree, Info]:
    """(new state, v, info), with every inner batch B drawn anew and one outer batch B':

        inner_steps times:  y <- y - a grad_y g_B(y, theta)
        v = invert of grad_y f_B'
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    Step sizes are those of the outer step throughout.
    """
    inner_key, outer_key = split_key(s, 2)

    def inner_step(s: Any, batch: Array) -> tuple[Any, Array]:
        loss, slope = inner_slope(problem, s.y, s.theta, take(problem.inner_data, batch))
        return moves.y(s, slope), loss

    s, losses = jax.lax.scan(
        inner_step, s, rows(inner_key, problem.inner_data, batch_size, inner_steps)
    )
    d = hyperdirection(problem, s.y, s.theta, outer_key, batch_size, invert)
    said = info(losses[0], d.outer_loss, d.theta, gradients=inner_steps + 1, hvps=d.hvps)
    return moves.theta(s, d.theta), d.v, said


def by_sum(step_size: float, products: int) -> Invert:
    """The Neumann series of `products + 1` terms, each product with a batch of its own (SHIA)."""

    def apply(product: Product, b: Tree, batches: Array, _: Array) -> tuple[Tree, int]:
        return neumann_sum(product, b, step_size, batches), products

    return Invert(products, apply)


def by_sample(step_size: float, terms: int, exact: bool) -> Invert:
    """One random partial product of the Neumann series of `terms` terms (HIA); `exact`: their mean.

    With the whole data in each batch the length is all that is random, and `exact` averages it out.
    """
    if exact:
        return by_sum(step_size, terms - 1)

    def apply(product: Product, b: Tree, batches: Array, key: Array) -> tuple[Tree, Array]:
        length = jax.random.randint(key, (), 0, terms)
        return neumann_sample(product, b, step_size, length, batches), length

    return Invert(terms, apply)


def series_step_size(settings: Any) -> Any:
    """The step of a Neumann series: one number, `inner_step_size` where nothing else is given.

    Raises:
      ValueError: neither is a number.
    """
    step_size = settings.linear_step_size
    step_size = settings.inner_step_size if step_size is None else step_size
    if callable(step_size):
        raise ValueError(
            "`linear_step_size` must be a number, and given where `inner_step_size` is a schedule: a "
            "series with a shrinking step is no inverse."
        )
    return step_size
