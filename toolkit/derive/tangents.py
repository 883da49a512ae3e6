"""Tangents carried forward through a computation, in a form that transposes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit import tree
from toolkit.derive.symbolic_zeros import is_zero_tangent, zero_tangent
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree


def forward_rule(
    run: Callable[..., Tree], push: Callable[..., Tree], require: Callable[[int], None]
) -> Callable[..., Tree]:
    """`run` with the derivative of `push`, formed by one tangent for each scalar that moves.

    The tangent `J x_dot` is computed in two parts: the whole Jacobian `J`, one forward tangent for each
    scalar, and then a product with `x_dot`. JAX gets reverse mode by transposing what is linear in
    `x_dot`, which is the product alone. So reverse mode needs no more memory than forward mode.

    Args:
      run: what is computed; trees in, a tree out.
      push: the same function, run once more for each tangent.
      require: refuses a number of moving scalars, by an exception.
    """

    @jax.custom_jvp
    def solve(*primals: Tree) -> Tree:
        return run(*primals)

    def rule(primals: tuple, tangents: tuple) -> tuple[Tree, Tree]:
        result = solve(*primals)
        moves = jax.tree.map(lambda dot: not is_zero_tangent(dot), tangents)
        moving, fixed = tree.select(primals, moves)
        result_dot = _push(
            lambda moving: tree.split(push(*tree.merge(moving, fixed))).inexact,
            moving,
            tree.select(tangents, moves)[0],
            tree.split(result).inexact,
            require,
        )
        # Integer leaves of the result have no derivative, but JAX wants a tangent for each leaf.
        whole = jax.tree.map(zero_tangent, tree.split(result).arrays)
        return result, tree.merge(result_dot, whole)

    solve.defjvp(rule, symbolic_zeros=True)
    return solve


def _push(
    run: Callable[[Tree], Tree],
    moving: Tree,
    moving_dot: Tree,
    like: Tree,
    require: Callable[[int], None],
) -> Tree:
    if not jax.tree.leaves(moving):
        return optax.tree.zeros_like(like)
    # Derivatives are taken along real coordinates: a complex scalar has two.
    flat, unravel = tree.ravel(tree.as_real(moving))
    require(flat.size)

    def along(direction: Array) -> Tree:
        tangent = tree.as_like(moving, unravel(direction))
        return tree.as_real(jax.jvp(run, (moving,), (tangent,))[1])

    directions = vary(jnp.eye(flat.size, dtype=flat.dtype), varying_axes(flat))
    columns = jax.vmap(along)(directions)  # the Jacobian; its leading axis is the directions
    weights, _ = tree.ravel(tree.as_real(moving_dot))
    dot = jax.tree.map(lambda c: jnp.tensordot(weights, c, 1).astype(c.dtype), columns)
    return tree.as_like(like, dot)


def where_active(active: Array, operands: Tree) -> Tree:
    """`operands` unchanged; their tangents, and the cotangents that come to them, are 0 where not `active`."""
    axes = varying_axes(active)

    def one(leaf: Any) -> Any:
        # In `jax.shard_map` the tangent of what all devices share is shared as well, and has no mask of its own
        # on each device.
        shared = axes - varying_axes(leaf)
        return leaf if shared or not tree.is_inexact(leaf) else _masked(active, leaf)

    return jax.tree.map(one, operands)


@jax.custom_jvp
def _masked(active: Array, leaf: Array) -> Array:
    del active
    return leaf


@_masked.defjvp
def _masked_jvp(primals: tuple[Array, Array], tangents: tuple[Array, Array]) -> tuple[Array, Array]:
    active, leaf = primals
    return _masked(active, leaf), jnp.where(active, tangents[1], 0)
