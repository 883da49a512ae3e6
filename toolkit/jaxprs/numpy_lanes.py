"""NumPy arrays that `jax.vmap` hands on: `jax.custom_jvp` fails on them under `jax.jit`, so they are copied.

`jax.vmap(f)(numpy_array)` gives f a tracer that holds the NumPy array itself. Inside a `jax.jit` a call with a
derivative rule then ends in JAX's `AssertionError: non-canonical constant`. Any operation makes a JAX array of it.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


def as_jax_lanes(tree: Any) -> Any:
    """`tree`, its leaves copied where they are lanes of a NumPy array."""
    return jax.tree.map(lambda leaf: jnp.copy(leaf) if _holds_numpy(leaf) else leaf, tree)


def _holds_numpy(leaf: Any) -> bool:
    inner = leaf
    while isinstance(inner, jax.core.Tracer) and hasattr(inner, "val"):
        inner = inner.val
    return inner is not leaf and isinstance(inner, np.ndarray)
