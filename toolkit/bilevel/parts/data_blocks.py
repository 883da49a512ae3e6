"""Data cut into blocks of successive examples: their number, their weights, and functions of one block."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.types import Tree


def examples(data: Tree) -> int:
    """The number of examples; 1 for data without leaves."""
    leaves = jax.tree.leaves(data)
    return jnp.shape(leaves[0])[0] if leaves else 1


def count(data: Tree, batch_size: int | None) -> int:
    """The number of blocks, the last of which may be smaller."""
    return 1 if batch_size is None else -(-examples(data) // batch_size)


def weights(data: Tree, batch_size: int | None) -> Array:
    """[blocks] the share of the examples that each block has; they add up to 1."""
    if batch_size is None:
        return jnp.ones(1)
    starts = jnp.arange(count(data, batch_size)) * batch_size
    return jnp.minimum(batch_size, examples(data) - starts) / examples(data)


def on_block(fun: Callable[[Tree], Any], data: Tree, batch_size: int | None, index: Array) -> Any:
    """`fun` of block `index`: of `batch_size` successive examples, and for the last index of the rest.

    A rest of another size makes `fun` compile twice.
    """
    total = examples(data)
    if batch_size is None or batch_size >= total:
        return fun(data)

    def block(size: int) -> Tree:
        take = lambda leaf: jax.lax.dynamic_slice_in_dim(jnp.asarray(leaf), start, size)
        return jax.tree.map(take, data)

    start = index * batch_size
    rest = total % batch_size
    if not rest:
        return fun(block(batch_size))
    # Shapes are fixed in compiled code, so that a smaller last block needs a branch of its own. Without it
    # `dynamic_slice` would move the start back into the data, and repeat examples of the block before.
    last = index == total // batch_size
    return jax.lax.cond(last, lambda: fun(block(rest)), lambda: fun(block(batch_size)))


def default_period(inner_data: Tree, outer_data: Tree, batch_size: int | None, samples: int) -> int:
    """Steps from one pass over the whole data to the next: as many as sample half of its batches.

    A step has `samples` samples, each of one batch of both data sets.
    """
    if batch_size is None:
        return 1
    return max(1, (examples(inner_data) + examples(outer_data)) // (2 * batch_size * samples))
