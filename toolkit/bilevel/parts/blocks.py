"""The data as a whole: how many examples, how many batches, and its fixed blocks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.types import Tree


def examples(data: Tree) -> int:
    """Examples; 1 for data without any."""
    leaves = jax.tree.leaves(data)
    return jnp.shape(leaves[0])[0] if leaves else 1


def count(data: Tree, batch_size: int | None) -> int:
    """Batches that the data has, the last maybe smaller."""
    return 1 if batch_size is None else -(-examples(data) // batch_size)


def weights(data: Tree, batch_size: int | None) -> Array:
    """[blocks] the share of each block among the examples."""
    if batch_size is None:
        return jnp.ones(1)
    starts = jnp.arange(count(data, batch_size)) * batch_size
    return jnp.minimum(batch_size, examples(data) - starts) / examples(data)


def on_block(fun: Callable[[Tree], Any], data: Tree, batch_size: int | None, index: Array) -> Any:
    """`fun` of a block of `batch_size` successive examples; of the rest for the last index.

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
    last = index == total // batch_size
    return jax.lax.cond(last, lambda: fun(block(rest)), lambda: fun(block(batch_size)))


def default_period(inner_data: Tree, outer_data: Tree, batch_size: int | None, samples: int) -> int:
    """Steps of `samples` samples between looks at the whole data: half of its batches in all."""
    if batch_size is None:
        return 1
    return max(1, (examples(inner_data) + examples(outer_data)) // (2 * batch_size * samples))
