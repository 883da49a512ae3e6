"""Which leaves of a tree hold a NaN or an infinity, as one small array.

A process may keep the non-finite values that it starts with: the infinity of a best loss so far, the -inf
of a mask, a NaN that says "not measured yet".
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

NAN, INFINITY = "NaN", "infinity"  # in words, as in "NaN and infinity"


def can_fail(leaf: Any) -> bool:
    """Whether a leaf has entries that may be NaN or infinite."""
    dtype = getattr(leaf, "dtype", None)
    return isinstance(leaf, (float, complex)) or jnp.issubdtype(dtype or int, jnp.inexact)


@jax.jit
def spoilt(leaves: Sequence[Array], infinite: Any) -> Array:
    """Of each leaf whether it holds a NaN, or an infinity where `infinite` (bool `[leaves]`) is not set.

    One pass over each leaf.
    """
    found = [
        (jnp.isnan(leaf) | (jnp.isinf(leaf) & ~allowed)).any()
        for leaf, allowed in zip(leaves, infinite, strict=True)
    ]
    return jnp.stack(found) if found else jnp.zeros(0, bool)


def kinds(leaves: Sequence[Array]) -> Array:
    """Of each leaf whether it holds a NaN, and whether it holds an infinity: bool `[leaves, 2]`."""
    found = [jnp.stack([jnp.isnan(leaf).any(), jnp.isinf(leaf).any()]) for leaf in leaves]
    return jnp.stack(found) if found else jnp.zeros((0, 2), bool)


# It is jitted on its own and takes `before`, so that the outcome of many looks is one array on the device.
# The host waits for that array once, not once for each look.
@jax.jit
def any_spoilt(before: Any, leaves: Sequence[Array], infinite: Any) -> Array:
    """`before`, or whether `spoilt` says so of any leaf: bool `[]`."""
    return before | spoilt(leaves, infinite).any()


def held(leaves: Mapping[str, Any]) -> dict[str, str]:
    """What the leaves hold that is not finite, in words, by name; those that are finite are left out."""
    found = ((name, in_words(kinds([leaf])[0])) for name, leaf in leaves.items())
    return {name: words for name, words in found if words}


def in_words(found: Any) -> str:
    """What `kinds` says of a leaf: `NaN and infinity`, or nothing."""
    return " and ".join(word for word, there in zip((NAN, INFINITY), found, strict=True) if there)


def may_be_infinite(names: Sequence[str], start: Mapping[str, str]) -> Array:
    """For `spoilt`: which of these leaves started with an infinity, by what `held` said then."""
    return jnp.array([INFINITY in start.get(name, "") for name in names], bool)
