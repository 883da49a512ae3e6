"""Sets that bound each entry by itself."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.array_arguments import spread
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import no_answer_unless, real, require_real, several
from toolkit.types import Tree


@standard_promotion
def non_negative(y: Tree, theta: Tree = None) -> Tree:
    """The nearest `u` with `u >= 0`: `max(y, 0)`.

    Args:
      y: real floating leaves of any shapes.
      theta: not used.

    Raises:
      ValueError: integer or complex leaves.

    Differentiation: 1 where `y > 0`, else 0; NaN entries are NaN, as value and as gradient.
    """
    del theta

    def clip(leaf: Array) -> Array:
        return no_answer_unless(~jnp.isnan(leaf), jnp.where(leaf > 0, leaf, 0), leaf)

    return jax.tree.map(clip, real(y))


@standard_promotion
def box(y: Tree, bounds: tuple[Tree, Tree]) -> Tree:
    """The nearest `u` with `lower <= u <= upper`: `min(max(y, lower), upper)`.

    Args:
      y: real floating leaves of any shapes.
      bounds: `(lower, upper)`, each an array that broadcasts against each leaf of `y`, or a tree of such
        with its structure; `-jnp.inf` and `jnp.inf` for no bound. One `lower > upper`: the set is
        empty, and the whole result NaN.

    Raises:
      ValueError: integer or complex leaves; `bounds` of another form.

    Differentiation: at a bound, that of the interior: 1 with respect to `y`, 0 to the bound.

    Source: Parikh & Boyd 2014, section 6.2.4.
    """
    y = real(y)
    lower, upper = several("bounds", bounds, "lower", "upper")
    require_real("bounds", (lower, upper))
    lower, upper = spread("bounds", lower, y), spread("bounds", upper, y)
    possible = [jnp.all(a <= b) for a, b in zip(*map(jax.tree.leaves, (lower, upper)), strict=True)]
    somewhere = jnp.all(jnp.stack(possible)) if possible else True

    def clip(leaf: Array, lower: Array, upper: Array) -> Array:
        clipped = jnp.where(leaf < lower, lower, jnp.where(leaf > upper, upper, leaf))
        known = ~jnp.isnan(leaf) & somewhere
        return no_answer_unless(known, clipped.astype(leaf.dtype), leaf, lower, upper)

    return jax.tree.map(clip, y, lower, upper)
