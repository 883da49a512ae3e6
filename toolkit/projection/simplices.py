"""Simplices: nonnegative entries of a given sum."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import no_answer_unless, number, real, vector
from toolkit.types import Tree


@standard_promotion
def simplex(y: Tree, total: Tree = None) -> Tree:
    """The nearest `u` with `u >= 0` and `sum(u) = total`: `max(y - tau, 0)`.

    Args:
      y: real floating leaves of any shapes, N entries in all.
      total: an array `[]`, at least 0; None is 1.

    Raises:
      ValueError: integer or complex leaves; `total` is no real number.

    Differentiation: `tau = (sum of y over the support - total) / size of the support`, with the
      support held. An entry that just reaches 0 does not belong to it.

    Cost: a sort.

    Source: Held, Wolfe & Crowder 1974; Duchi et al. 2008, figure 1.
    """
    total = number("total", total, default=1.0)
    flat, back = vector(real(y), total)
    return back(onto_simplex(flat, total))


@standard_promotion
def sparse_simplex(y: Tree, total: Tree = None, *, max_nonzero: int) -> Tree:
    """A nearest `u` with `u >= 0`, `sum(u) = total` and at most `max_nonzero` nonzero entries.

    The set is not convex. The largest `max_nonzero` entries of `y`, projected onto the simplex, are a
    nearest point; of equal entries the first are taken.

    Args:
      y, total: as for `simplex`.
      max_nonzero: at least 1.

    Raises:
      ValueError: as for `simplex`; `max_nonzero` is no such integer.

    Differentiation: as for `simplex`, of the entries that were kept; 0 in the others.

    Cost: two sorts.

    Source: Kyrillidis et al. 2013, "Sparse projections onto the simplex", algorithm 1.
    """
    whole = isinstance(max_nonzero, (int, np.integer)) and not isinstance(max_nonzero, bool)
    if not whole or max_nonzero < 1:
        raise ValueError(f"`max_nonzero` must be an int of at least 1: got {max_nonzero!r}.")
    total = number("total", total, default=1.0)
    flat, back = vector(real(y), total)
    if max_nonzero >= flat.size:
        return back(onto_simplex(flat, total))
    kept = jax.lax.top_k(jax.lax.stop_gradient(flat), max_nonzero)[1]
    sparse = jnp.zeros_like(flat).at[kept].set(onto_simplex(flat[kept], total))
    return back(no_answer_unless(_has_answer(flat, total), sparse, flat, total))


def onto_simplex(flat: Array, total: Array) -> Array:
    """The projection of a vector onto the simplex of sum `total`; NaN where that is empty."""
    if not flat.size:
        return flat
    total = total.astype(flat.dtype)
    # One number added to all entries changes nothing. Without this, 1e8 in each entry would leave half
    # of the digits.
    moved = flat - jax.lax.stop_gradient(jnp.max(flat))
    support = simplex_support(moved, total)
    size = jnp.sum(support)
    tau = (jnp.sum(jnp.where(support, moved, 0)) - total) / size
    nearest = jnp.where(support, moved - tau, 0)
    # Rounding can bring an entry of the support below 0 by a last bit.
    nearest = tree.graft(jnp.maximum(nearest, 0), nearest)
    return no_answer_unless(_has_answer(flat, total), nearest, flat, total)


def _has_answer(flat: Array, total: Array) -> Array:
    """Whether the simplex has a point, and the vector one that is nearest to it."""
    # `-inf` is only far outside, but beside `inf` all differences are lost.
    return (total >= 0) & (total < jnp.inf) & jnp.isfinite(jnp.max(flat))


def simplex_support(flat: Array, total: Array) -> Array:
    """Which entries of the projection onto the simplex are positive; the largest in any case."""
    flat, total = jax.lax.stop_gradient((flat, total))
    falling = jnp.sort(flat)[::-1]
    counts = jnp.arange(1, flat.size + 1)
    inside = total + counts * falling - jnp.cumsum(falling) > 0
    last = jnp.maximum(jnp.sum(inside), 1) - 1
    return flat >= falling[last]
