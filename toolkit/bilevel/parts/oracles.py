"""Batches, and the derivatives of a batch loss that the methods are made of.

Directions (gradients, `v`) are trees like y or theta with None at leaves that are not differentiated.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.bilevel.parts.problem import BatchLoss, Problem
from toolkit.jaxprs.own_rules import Rules, rules
from toolkit.types import Tree


class Curved(NamedTuple):
    """The inner loss of a batch at (y, theta, v): one linearisation gives all of it."""

    loss: Array
    gradient: Tree  # grad_y g
    hvp: Tree  # d2_yy g v, like y
    cross: Tree  # d2_thetay g v, like theta


class Slopes(NamedTuple):
    """A loss of a batch at (y, theta)."""

    loss: Array
    in_y: Tree
    in_theta: Tree


def draw(key: Array, data: Tree, batch_size: int | None) -> Tree:
    """A batch of independent uniform examples, with replacement; all of the data for None."""
    return take(data, rows(key, data, batch_size, 1)[0])


def rows(key: Array, data: Tree, batch_size: int | None, count: int) -> Array:
    """[count, batch_size] the examples of `count` batches, drawn at once; for `take`."""
    leaves = jax.tree.leaves(data)
    # "All of the data" is said by rows without columns, not by None: loops over batches need an array to
    # run along, in this case too.
    if batch_size is None or not leaves:
        return jnp.zeros((count, 0), jnp.int32)
    return jax.random.randint(key, (count, batch_size), 0, len(leaves[0]))


def take(data: Tree, row: Array) -> Tree:
    """The examples of a row; all of the data for an empty one."""
    return jax.tree.map(lambda leaf: jnp.asarray(leaf)[row], data) if row.size else data


def curved(problem: Problem, y: Tree, theta: Tree, v: Tree, batch: Any) -> Curved:
    """The inner loss, its gradient in y, and the products of v with d2_yy and d2_thetay.

    Cost: one gradient and one product each, sharing the gradient.
    """
    y_parts, theta_parts = tree.parts(y), tree.parts(theta)

    def gradient(y: Tree, theta: Tree) -> tuple[Tree, Array]:
        whole_theta = tree.whole(theta, *theta_parts[1:])
        of_y = lambda y: problem.inner(tree.whole(y, *y_parts[1:]), whole_theta, batch)
        loss, slope = jax.value_and_grad(of_y)(y)
        return slope, loss

    # The pullback of `(y, theta) -> grad_y g` maps v to `(d2_yy g v, d2_thetay g v)`: both products come
    # from one backward pass, and the gradient is evaluated once.
    slope, pull, loss = jax.vjp(gradient, y_parts.inexact, theta_parts.inexact, has_aux=True)
    return Curved(loss, slope, *pull(v))


def inner_slope(problem: Problem, y: Tree, theta: Tree, batch: Any) -> tuple[Array, Tree]:
    """(inner loss, its gradient in y)."""
    parts = tree.parts(y)
    of_y = lambda y: problem.inner(tree.whole(y, *parts[1:]), theta, batch)
    return jax.value_and_grad(of_y)(parts.inexact)


def inner_slopes(problem: Problem, y: Tree, theta: Tree, batch: Any) -> Slopes:
    """The inner loss and both its gradients."""
    return _slopes(problem.inner, y, theta, batch)


def outer_slopes(problem: Problem, y: Tree, theta: Tree, batch: Any) -> Slopes:
    """The outer loss and both its gradients."""
    return _slopes(problem.outer, y, theta, batch)


def _slopes(loss: BatchLoss, y: Tree, theta: Tree, batch: Any) -> Slopes:
    y_parts, theta_parts = tree.parts(y), tree.parts(theta)

    def of_both(y: Tree, theta: Tree) -> Array:
        return loss(tree.whole(y, *y_parts[1:]), tree.whole(theta, *theta_parts[1:]), batch)

    value, slopes = jax.value_and_grad(of_both, (0, 1))(y_parts.inexact, theta_parts.inexact)
    return Slopes(value, *slopes)


def theta_slope(problem: Problem, y: Tree, theta: Tree, batch: Any) -> Tree:
    """The gradient of the inner loss in theta."""
    parts = tree.parts(theta)
    of_theta = lambda t: problem.inner(y, tree.whole(t, *parts[1:]), batch)
    return jax.grad(of_theta)(parts.inexact)


def rules_of_inner(problem: Problem, y: Tree, theta: Tree, batch: Any) -> Rules:
    """The functions in `inner` that have derivative rules of their own.

    Cost: one trace of `inner`; nothing is run.
    """
    parts = [tree.parts(part) for part in (y, theta, batch)]

    def inner(*arrays: Tree) -> Array:
        whole = [tree.whole(*own, part[2]) for own, part in zip(arrays, parts, strict=True)]
        return problem.inner(*whole)

    return rules(jax.make_jaxpr(inner)(*(part[:2] for part in parts)))


def minus(a: Tree, b: Tree) -> Tree:
    """`a - b`, leaf by leaf."""
    return jax.tree.map(lambda x, y: x - y, a, b)


def plus(a: Tree, b: Tree, scale: Any = 1.0) -> Tree:
    """`a + scale b`, leaf by leaf, in the types of `a`."""
    return jax.tree.map(lambda x, y: (x + scale * y).astype(x.dtype), a, b)


def zeros_like(y: Tree) -> Tree:
    """A direction of zeros."""
    return jax.tree.map(jnp.zeros_like, tree.parts(y).inexact)


def hvp(problem: Problem, y: Tree, theta: Tree, v: Tree, batch: Any) -> Tree:
    """`d2_yy g v` for a batch, like y; where `inner` has no true gradient, the pullback of v through it."""
    if rules_of_inner(problem, y, theta, batch).own:
        return curved(problem, y, theta, v, batch).hvp
    parts = tree.parts(y)
    # A derivative along v of a gradient: for the cost of about two gradients, and without storing the
    # gradient's own intermediate values, as the reverse of a reverse pass would.
    slope = lambda y: jax.grad(lambda y: problem.inner(tree.whole(y, *parts[1:]), theta, batch))(y)
    return jax.jvp(slope, (parts.inexact,), (v,))[1]


def cross(problem: Problem, y: Tree, theta: Tree, v: Tree, batch: Any) -> Tree:
    """`d2_thetay g v` for a batch, like theta: the derivative along v of the gradient in theta."""
    # Second derivatives are symmetric: moving y along v in grad_theta g gives the pullback of v through
    # grad_y g, without a second reverse pass. Functions with derivative rules of their own are no part of
    # that: their rule may be no derivative, and one with a backward pass alone refuses a moving y.
    if any(rules_of_inner(problem, y, theta, batch)):
        return curved(problem, y, theta, v, batch).cross
    parts = tree.parts(y)
    slope = lambda y: theta_slope(problem, tree.whole(y, *parts[1:]), theta, batch)
    return jax.jvp(slope, (parts.inexact,), (v,))[1]
