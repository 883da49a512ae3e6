"""How many bytes a loop leaves for its derivative (its residuals), counted on abstract values.

JAX traces the forward pass of the derivative, and the arrays that this hands to the reverse pass are
counted; nothing is compiled or run.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import jax.numpy as jnp

from toolkit import tree
from toolkit.control.prepared import PreparedLoop
from toolkit.jaxprs.classes import Literal
from toolkit.types import Tree


def size(shapes: Tree) -> int:
    """Bytes of all arrays of a tree."""
    return sum(_bytes(leaf) for leaf in jax.tree.leaves(shapes))


def cotangents(loop: PreparedLoop) -> int:
    """Bytes of one cotangent for each floating array that the steps close over."""
    return size([leaf for leaf in loop.closed if _is_inexact(leaf)])


def moving(loop: PreparedLoop) -> list:
    """The floating arrays of a loop: what it closes over, its start and its inputs."""
    leaves = jax.tree.leaves((loop.closed, loop.init, loop.xs))
    return [leaf for leaf in leaves if _is_inexact(leaf)]


def outputs(loop: PreparedLoop) -> int:
    """Bytes of the floating outputs of all steps."""
    return loop.length * size([leaf for leaf in jax.tree.leaves(loop.y) if _is_inexact(leaf)])


def left_by(loop: PreparedLoop, steps: int) -> int:
    """Bytes that `steps` steps of a plain scan leave for their derivative, without the scan's inputs."""

    # What `jax.vjp` returns is a pytree, whose leaves are the arrays that its pullback holds.

    def left(*operands: Tree) -> list:
        moving, fixed, _ = tree.split(operands)

        def run(moving: Tree) -> Tree:
            closed, init, xs = tree.merge(moving, fixed)
            after = jax.lax.scan(lambda c, x: loop.step(closed, c, x), init, xs, steps)
            return tree.split(after).inexact

        return jax.tree.leaves(jax.vjp(run, moving)[1])

    xs = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((steps, *leaf.shape[1:]), leaf.dtype), loop.xs
    )
    # A result that is an input of the trace exists anyway, so it is not counted.
    traced = jax.make_jaxpr(left)(loop.closed, loop.init, xs).jaxpr
    kept = {out for out in traced.outvars if not isinstance(out, Literal)} - {*traced.invars}
    return size([out.aval for out in kept])


def _bytes(leaf: Any) -> int:
    return math.prod(leaf.shape) * leaf.dtype.itemsize


def _is_inexact(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jnp.inexact))
