"""Has a function changed between two steps by hand? A digest of all that it depends on tells."""

from __future__ import annotations

import zlib
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.read import text
from toolkit.types import Tree

LANES = 2  # words of a digest: two different trees have the same one by a chance of 2^-64


def digest(program: Any, constants: Tree, operands: Tree) -> Array:
    """`[LANES]` uint32 of a program, of the concrete arrays in it and of its arguments.

    A copy of the arguments would say the same, but they may hold a whole data set.

    Cost: one pass over all arrays; those in the program are read when it is traced.
    """
    with jax.ensure_compile_time_eval():
        known = _of_arrays(jax.tree.leaves(constants)) + jnp.uint32(
            zlib.crc32(text(program).encode())
        )
    return known + _of_arrays(jax.tree.leaves(tree.stop_gradient(operands)))


def _of_arrays(leaves: list[Any]) -> Array:
    total = jnp.zeros(LANES, jnp.uint32)
    for number, leaf in enumerate(leaves):
        words = _words(leaf)
        place = jnp.arange(words.size, dtype=jnp.uint32).reshape(words.shape)
        mask = _mixed(place + jnp.uint32((0x9E3779B9 * (number + 1)) % 2**32))
        for lane in range(LANES):
            # Each word is mixed with its place before the sum: so an exchange of two entries, or two
            # changes of sign, do not cancel.
            mixed = _mixed(_mixed(words ^ mask) + jnp.uint32(lane))
            total = total.at[lane].add(jnp.sum(mixed, dtype=jnp.uint32))
    return total


def _mixed(word: Array) -> Array:
    """Each bit of the result depends on all bits of the word (the end of MurmurHash3)."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def _words(leaf: Any) -> Array:
    """The bits of an array as uint32 words."""
    leaf = tree.gathered(jnp.asarray(leaf))
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    if jnp.iscomplexobj(leaf):
        leaf = jnp.stack([leaf.real, leaf.imag])
    if leaf.dtype.itemsize < 4 or leaf.dtype == bool:
        wider = jnp.float32 if jnp.issubdtype(leaf.dtype, jnp.floating) else jnp.int32
        leaf = leaf.astype(wider)
    return jax.lax.bitcast_convert_type(leaf, jnp.uint32)
