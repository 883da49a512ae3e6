"""A loop run again, compiled, which remembers when its carry was last free of what is not finite."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from toolkit.debug.nonfinite.origins import Value


def runner(
    advance: Callable[[Any, Sequence[Any]], Sequence[Any]],
    goes_on: Callable[[Sequence[Any]], Any],
    init: Sequence[Value],
) -> Callable[[int], tuple[int, list[Array], np.ndarray]]:
    """A function that runs the loop up to a step, and returns (steps made, carry, last free).

    The last is int32 `[leaves, 3]`, a column for each of NaN, +inf and -inf: the latest step before which the
    leaf had no such entry; -1 where it had one from the start.

    Args:
      advance: (number of the step, carry) -> the next carry.
      goes_on: whether the loop makes another step from this carry.
    """

    def free(carry: Sequence[Any]) -> Array:
        return jnp.stack([~_has_kinds(leaf) for leaf in carry])

    @jax.jit
    def run(limit: Any, carry: Sequence[Any]) -> Any:
        def cond(state: Any) -> Any:
            step, carry, _ = state
            return (step < limit) & goes_on(carry)

        def body(state: Any) -> Any:
            step, carry, last = state
            # Overwritten as long as the leaf is free of a kind. What stays is the last such step, so the
            # entries that the leaf has in the end were made in it.
            last = jnp.where(free(carry), step, last)
            return step + 1, list(advance(step, carry)), last

        last = jnp.full((len(carry), 3), -1, jnp.int32)
        return lax.while_loop(cond, body, (jnp.int32(0), list(carry), last))

    def run_to(step: int) -> tuple[int, list[Array], np.ndarray]:
        if not init:
            return step, [], np.zeros((0, 3), np.int32)
        made, carry, last = run(jnp.int32(step), [_strong(value.array) for value in init])
        return int(made), carry, np.asarray(last)

    return run_to


def _has_kinds(leaf: Any) -> Array:
    """As `origins.by_kind`, of the whole leaf: `[3]`."""
    if not jnp.issubdtype(leaf.dtype, jnp.inexact):
        return jnp.zeros(3, bool)
    nan, inf = jnp.isnan(leaf), jnp.isinf(leaf)
    # Complex numbers have no order: each of their infinities counts as +inf.
    below = jnp.zeros_like(inf) if jnp.iscomplexobj(leaf) else leaf < 0
    return jnp.stack([nan.any(), (inf & ~below & ~nan).any(), (inf & below).any()])


def _strong(array: Any) -> Any:
    """The array with a dtype that is not weak.

    A `while_loop` refuses a carry whose type changes, as a weak one does once a step adds an array to it.
    """
    return (
        lax.convert_element_type(array, array.dtype)
        if hasattr(array, "dtype")
        else jnp.asarray(array)
    )
