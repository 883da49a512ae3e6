"""Checks of arguments that are arrays, or trees of arrays: shapes and kinds, never values."""

from __future__ import annotations

import reprlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit.tree import describe, is_numeric
from toolkit.types import Tree


def spread(name: str, parameter: Any, like: Tree) -> Tree:
    """`parameter` for each leaf of `like`: a tree of that structure, or one array for all leaves.

    Raises:
      ValueError: it is neither, or does not broadcast to the leaves' shapes.
    """
    structure = jax.tree.structure(like)
    numeric = all(is_numeric(value) for value in jax.tree.leaves(parameter))
    if jax.tree.structure(parameter) != structure and jax.tree_util.all_leaves([parameter]):
        parameter = jax.tree.unflatten(structure, [parameter] * structure.num_leaves)
    if (
        not numeric
        or jax.tree.structure(parameter) != structure
        or not all(
            broadcasts(jnp.shape(value), leaf.shape)
            for value, leaf in zip(jax.tree.leaves(parameter), jax.tree.leaves(like), strict=True)
        )
    ):
        raise ValueError(
            f"`{name}` must be one array, or a tree of arrays, that broadcasts to {describe(like)}: "
            f"got {describe(parameter)}."
        )
    return jax.tree.map(jnp.asarray, parameter)


def broadcasts(shape: tuple[int, ...], to: tuple[int, ...]) -> bool:
    """Whether `shape` broadcasts to `to` and leaves it as it is."""
    padded = (1,) * (len(to) - len(shape)) + tuple(shape)
    return len(padded) == len(to) and all(a in (1, b) for a, b in zip(padded, to, strict=True))


def require_key(name: str, value: Any) -> None:
    """Refuse what is not one key, of `jax.random.key` or `jax.random.PRNGKey`."""
    is_array = isinstance(value, (Array, np.ndarray))
    typed = is_array and jnp.issubdtype(value.dtype, jax.dtypes.prng_key)
    old = is_array and value.dtype == np.uint32
    if not (typed or old) or value.ndim != int(old):
        raise TypeError(
            f"`{name}` must be one key, such as jax.random.key(0): got {reprlib.repr(value)}."
        )


def require_scalar(name: str, value: Any) -> None:
    """Refuse what is no real number and no real array of shape (); its value is not looked into."""
    numeric = isinstance(value, (int, float, np.number, np.ndarray, Array))
    if not numeric or isinstance(value, bool) or jnp.shape(value) or jnp.iscomplexobj(value):
        raise ValueError(
            f"`{name}` must be a real number, or an array of shape (): got {describe(value)}."
        )
