"""A linear map as a matrix, and how much its inverse lengthens vectors; what the direct solvers share."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes

# Power iterations on the inverse. Where it is nearly singular one direction is lengthened far more than
# all others, and two or three iterations find it.
_POWER_STEPS = 3


def matrix_of(product: Callable[[Array], Array], like: Array) -> Array:
    """[N, N] the matrix of `product`, a map of vectors like `like`; one batched product."""
    identity = jnp.eye(like.size, dtype=like.dtype)
    columns = jax.vmap(product)(vary(identity, varying_axes(like)))
    return columns.T  # row j of `columns` is A e_j


def growth(solve: Callable[[Array], Array], like: Array) -> Array:
    """A lower bound of the 2-norm of the inverse: how much it lengthens some vector."""

    def power(_: Array, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        vector = solve(carry[0] / tree.norm(carry[0]))
        return vector, tree.norm(vector)

    if like.size == 0:
        return jnp.zeros((), jnp.finfo(like.dtype).dtype)
    start = jax.random.normal(jax.random.key(0), like.shape, like.dtype)
    start = vary(start, varying_axes(like))
    return jax.lax.fori_loop(0, _POWER_STEPS, power, (start, tree.norm(start)))[1]
