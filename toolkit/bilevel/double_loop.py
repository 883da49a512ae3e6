"""One outer step of a double loop: inner steps, a linear system, a step of theta."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
from jax import Array

from toolkit.bilevel.descent import Mover
from toolkit.bilevel.linear_system import Product
from toolkit.bilevel.oracles import cross, draw, hvp, inner_slope, minus, outer_slopes
from toolkit.bilevel.problem import Info, Problem, info
from toolkit.types import Tree

# (product, b, one key a product) -> v near H^{-1} b
Invert = Callable[[Product, Tree, Array], Tree]


class Outcome(NamedTuple):
    """What a step has moved."""

    y: Tree
    theta: Tree
    v: Tree
    inner_optimizer: Any
    outer_optimizer: Any
    info: Info


def double_step(
    problem: Problem, settings: Any, inner: Mover, outer: Mover, s: Any, invert: Invert
) -> Outcome:
    """With every inner batch B drawn anew and one outer batch B':

        inner_steps times:  y <- y - a grad_y g_B(y, theta)
        v = invert of grad_y f_B', from `linear_steps` products d2_yy g_B w
        theta <- theta - c (grad_theta f_B' - d2_thetay g_B v)

    `settings` has `inner_steps`, `linear_steps` and `batch_size`; `s` has y, theta, step, key and the
    optimizers' states. Step sizes are those of the outer step throughout.
    """
    keys = jax.random.split(jax.random.fold_in(s.key, s.step), 4)
    inner_key, outer_key, linear_key, cross_key = keys
    batch = lambda key: draw(key, problem.inner_data, settings.batch_size)

    def inner_step(carry: tuple[Tree, Any], key: Array) -> tuple[tuple[Tree, Any], Array]:
        y, optimizer = carry
        loss, slope = inner_slope(problem, y, s.theta, batch(key))
        return inner.move(y, slope, optimizer, s.step), loss

    inner_keys = jax.random.split(inner_key, settings.inner_steps)
    (y, inner_optimizer), losses = jax.lax.scan(inner_step, (s.y, s.inner_optimizer), inner_keys)
    f = outer_slopes(problem, y, s.theta, draw(outer_key, problem.outer_data, settings.batch_size))
    product = lambda key, w: hvp(problem, y, s.theta, w, batch(key))
    v = invert(product, f.in_y, jax.random.split(linear_key, settings.linear_steps))
    direction = minus(f.in_theta, cross(problem, y, s.theta, v, batch(cross_key)))
    theta, outer_optimizer = outer.move(s.theta, direction, s.outer_optimizer, s.step)
    costs = {"gradients": settings.inner_steps + 1, "hvps": settings.linear_steps + 1}
    said = info(losses[0], f.loss, direction, **costs)
    return Outcome(y, theta, v, inner_optimizer, outer_optimizer, said)
