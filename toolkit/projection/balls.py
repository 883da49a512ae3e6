"""Balls around 0."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion
from toolkit.projection.arguments import inexact, no_answer_unless, number, vector
from toolkit.projection.elementwise import box
from toolkit.projection.simplices import simplex_support
from toolkit.types import Tree


@standard_promotion
def l1_ball(y: Tree, radius: Tree = None) -> Tree:
    """The nearest `u` with `sum |u| <= radius`: `y` inside, else `sign(y) max(|y| - tau, 0)`.

    Args:
      y: floating or complex leaves of any shapes; a complex entry keeps its phase.
      radius: an array `[]`, at least 0; None is 1.

    Raises:
      ValueError: integer leaves; `radius` is no real number.

    Differentiation: as for `simplex`, of `|y|`; on the sphere, that of the inside.

    Cost: a sort.

    Source: Duchi et al. 2008, section 4.
    """
    radius = number("radius", radius, default=1.0)
    flat, back = vector(inexact(y), radius)
    size, sign = _polar(flat)
    radius = radius.astype(size.dtype)
    if not flat.size:
        return back(flat)
    inside = jnp.sum(size) <= radius
    support = simplex_support(size, radius)
    tau = (jnp.sum(jnp.where(support, size, 0)) - radius) / jnp.sum(support)
    outside = jnp.where(support, size - tau, 0)
    outside = sign * tree.graft(jnp.maximum(outside, 0), outside)
    possible = (radius >= 0) & jnp.all(jnp.isfinite(flat))
    return back(no_answer_unless(possible, jnp.where(inside, flat, outside), flat, radius))


@standard_promotion
def l2_ball(y: Tree, radius: Tree = None) -> Tree:
    """The nearest `u` with `norm(u) <= radius`: `y min(1, radius / norm(y))`.

    Args:
      y: floating or complex leaves of any shapes.
      radius: an array `[]`, at least 0; None is 1.

    Raises:
      ValueError: integer leaves; `radius` is no real number.

    Differentiation: on the sphere, that of the inside.

    Source: Parikh & Boyd 2014, section 6.5.1.
    """
    radius = number("radius", radius, default=1.0)
    flat, back = vector(inexact(y), radius)
    parts = jnp.stack([flat.real, flat.imag]) if jnp.iscomplexobj(flat) else flat
    radius = radius.astype(parts.dtype)
    # In units of the largest entry no square overflows or vanishes. The unit cancels: no derivative.
    unit = jax.lax.stop_gradient(tree.unit(parts))
    squares = jnp.sum(jnp.square(parts / unit))
    inside = jnp.sqrt(jax.lax.stop_gradient(squares)) <= radius / unit
    # The 1 keeps the derivative of the root finite at y = 0, where it is not used.
    size = jnp.sqrt(jnp.where(inside, 1, squares))
    nearest = jnp.where(inside, flat, flat / unit * (radius / size))
    possible = (radius >= 0) & jnp.all(jnp.isfinite(flat))
    return back(no_answer_unless(possible, nearest, flat, radius))


@standard_promotion
def linf_ball(y: Tree, radius: Tree = None) -> Tree:
    """The nearest `u` with `|u| <= radius` in each entry.

    Args:
      y: floating or complex leaves of any shapes; a complex entry keeps its phase.
      radius: an array `[]`, at least 0; None is 1.

    Raises:
      ValueError: integer leaves; `radius` is no real number.

    Differentiation: where `|y| = radius`, that of the inside.
    """
    radius = number("radius", radius, default=1.0)

    def clip(leaf: Array) -> Array:
        if not jnp.iscomplexobj(leaf):
            return box(leaf, (-radius, radius))
        size, sign = _polar(leaf)
        clipped = jnp.where(size > radius, (sign * radius).astype(leaf.dtype), leaf)
        known = ~jnp.isnan(leaf) & (radius >= 0)
        return no_answer_unless(known, clipped, leaf, radius)

    return jax.tree.map(clip, inexact(y))


def _polar(z: Array) -> tuple[Array, Array]:
    """`(|z|, z / |z|)`: (0, 0) at 0, with derivatives that are finite there."""
    if not jnp.iscomplexobj(z):
        return jnp.abs(z), jnp.sign(z)
    away = z != 0
    size = jnp.abs(jnp.where(away, z, 1))
    return jnp.where(away, size, 0), jnp.where(away, z / size, 0)
