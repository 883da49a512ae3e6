"""Gaussian directions in trees, and means over many samples in bounded memory."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.array_arguments import require_key
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.types import Tree


def split(key: Array, count: int) -> Array:
    """`count` keys from one; anything but a key is refused."""
    require_key("key", key)
    return jax.random.split(key, count)


def gaussian_like(key: Array, like: Tree) -> Tree:
    """Independent standard normal entries; real and imaginary part of a complex entry one each."""
    leaves, structure = jax.tree.flatten(tree.as_real(like))
    # One draw for all leaves: with one draw for each leaf of a large network XLA compiles for minutes.
    # In float32 at least: a draw in bfloat16 starts from uniform numbers of 8 bits, of which there are
    # 256 only, and is far from Gaussian.
    dtype = wide_type(*leaves)
    entries = jax.random.normal(key, (sum(leaf.size for leaf in leaves),), dtype)
    ends = np.cumsum([leaf.size for leaf in leaves])
    drawn = [
        entries[end - leaf.size : end].reshape(leaf.shape).astype(leaf.dtype)
        for end, leaf in zip(ends, leaves, strict=True)
    ]
    return tree.as_like(like, jax.tree.unflatten(structure, drawn))


def at_both_signs(fun: Callable[..., Tree], direction: Tree, *pairs: Tree) -> Tree:
    """`fun(direction, ...)` and `fun(-direction, ...)` along a leading axis `[2]`; `pairs` have it too."""
    signed = jax.tree.map(lambda d: jnp.stack([d, -d]), direction)
    return jax.vmap(fun, axis_size=2)(signed, *pairs)


@standard_promotion
def weighted(weight: Array, direction: Tree) -> Tree:
    """`weight * direction`, in the wider of the two types."""
    return jax.tree.map(lambda d: weight * d, direction)


def average(
    sample: Callable[[Tree], tuple[Tree, Tree]], xs: Tree, count: int, batch: int | None
) -> tuple[Tree, Tree]:
    """All observations and the mean contribution of `sample(x) -> (observation, contribution)`.

    Args:
      sample: pure; vectorized over `batch` entries of `xs`.
      xs: leaves with a leading axis of `count` entries.
      batch: samples at once, a divisor of `count`; None is all of them.

    Returns:
      observations with a leading axis `count`, and one contribution, in float32 at least.

    Cost: memory of `batch` samples and one contribution; observations are all kept.
    """
    batch = count if batch is None else batch

    def some(some_xs: Tree) -> tuple[Tree, Tree]:
        observed, contributions = jax.vmap(sample)(some_xs)
        # In 16 bits a sum over thousands stops growing: one more sample is below its rounding.
        total = jax.tree.map(
            lambda c: jnp.sum(c, axis=0, dtype=wide_type(c)),
            contributions,
        )
        return observed, total

    def next_batch(total: Tree, some_xs: Tree) -> tuple[Tree, Tree]:
        observed, more = some(some_xs)
        return jax.tree.map(jnp.add, total, more), observed

    if batch == count:
        observed, total = some(xs)
    else:
        batches = jax.tree.map(lambda x: x.reshape(-1, batch, *x.shape[1:]), xs)
        shapes = jax.eval_shape(some, jax.tree.map(lambda x: x[0], batches))[1]
        zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), shapes)
        total, observed = jax.lax.scan(next_batch, zeros, batches)
        observed = jax.tree.map(lambda o: o.reshape(count, *o.shape[2:]), observed)
    return observed, jax.tree.map(lambda leaf: leaf / count, total)
