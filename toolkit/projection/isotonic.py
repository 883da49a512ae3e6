"""Vectors whose entries never fall."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import no_answer_unless, real, vector
from toolkit.types import Tree


class _Blocks(NamedTuple):
    """A stack of blocks of neighbours; those below `top` count."""

    mean: Array  # [N]
    size: Array  # [N]
    top: Array  # []
    read: Array  # [] entries of y that are in a block


@standard_promotion
def isotonic(y: Tree, theta: Tree = None, *, increasing: bool = True) -> Tree:
    """The nearest `u` with `u[0] <= u[1] <= ...`: means of `y` over blocks of neighbours.

    Args:
      y: a vector of real floats `[N]`, or a tree with that one leaf.
      theta: not used.
      increasing: False: `u[0] >= u[1] >= ...`.

    Raises:
      ValueError: `y` is no such vector; `increasing` is no bool.

    Differentiation: the mean over the blocks, the blocks held. Neighbours of equal value that need not
      be joined are blocks of their own.

    Cost: at most 2 N steps of pooling, one after another.

    Source: Barlow et al. 1972, section 1.2 (pool adjacent violators).
    """
    del theta
    y = real(y)
    leaves = jax.tree.leaves(y)
    if len(leaves) != 1 or leaves[0].ndim != 1:
        raise ValueError(f"`y` must be one vector: got {tree.describe(y)}.")
    if not isinstance(increasing, bool):
        raise ValueError(f"`increasing` must be True or False: got {increasing!r}.")
    flat, back = vector(y)
    if not flat.size:
        return y
    rising = flat if increasing else -flat
    of = _block_of_each(jax.lax.stop_gradient(rising))
    total = jax.ops.segment_sum(rising, of, flat.size)
    size = jax.ops.segment_sum(jnp.ones_like(rising), of, flat.size)
    means = (total / jnp.maximum(size, 1))[of]
    # Rounding can bring a mean below that of the block before it by a last bit.
    means = tree.graft(jax.lax.cummax(means), means)
    nearest = means if increasing else -means
    return back(no_answer_unless(jnp.all(jnp.isfinite(flat)), nearest, flat))


def _block_of_each(y: Array) -> Array:
    """The number of the block that each entry belongs to, `[N]`."""

    def violated(s: _Blocks) -> Array:
        return (s.top >= 2) & (s.mean[s.top - 2] > s.mean[s.top - 1])

    def pool(s: _Blocks) -> _Blocks:
        # Joins the last two blocks where they violate the order, else opens one for the next entry.
        join = violated(s)
        left, right = s.top - 2, s.top - 1
        size = jnp.where(join, s.size[left] + s.size[right], 1)
        step = (s.mean[right] - s.mean[left]) * (s.size[right] / size)
        at = jnp.where(join, left, s.top)
        mean = jnp.where(join, s.mean[left] + step, y[jnp.minimum(s.read, y.size - 1)])
        return _Blocks(
            s.mean.at[at].set(mean), s.size.at[at].set(size), at + 1, s.read + jnp.where(join, 0, 1)
        )

    zero = jnp.asarray(0)
    start = _Blocks(jnp.zeros_like(y), jnp.zeros_like(y), zero, zero)
    blocks = jax.lax.while_loop(lambda s: (s.read < y.size) | violated(s), pool, start)
    # Above `top` lie sizes of blocks that were joined.
    sizes = jnp.where(jnp.arange(y.size) < blocks.top, blocks.size, 0)
    return jnp.searchsorted(jnp.cumsum(sizes), jnp.arange(y.size), side="right")
