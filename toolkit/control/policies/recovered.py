"""How far a recovered carry is from the one that the loop had, for `reversible` to judge.

A complex number counts as two real ones here (`tree.as_real`), each with a sign of its own.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.leaves.promotion import wide_type
from toolkit.types import Tree


def random_signs(carry: Tree) -> list[Array]:
    """Random signs, one for each floating number of a carry.

    The key is fixed, because the forward and the reverse pass must use the same signs.
    """
    leaves = jax.tree.leaves(tree.as_real(tree.split(carry).inexact))
    keys = jax.random.split(jax.random.key(0), len(leaves))
    signs = [
        jax.random.rademacher(key, leaf.shape, leaf.dtype)
        for key, leaf in zip(keys, leaves, strict=True)
    ]
    return vary(signs, varying_axes(carry))


def projection(carry: Tree, weights: list[Array]) -> Array:
    """The random projection of a carry: its numbers with random signs, summed up.

    An error `e` in the carry changes the sum by `s'e`. For random signs `s` the mean of `(s'e)^2` is
    `|e|^2`, so the change is about as large as the error, whatever its direction.
    """
    leaves = jax.tree.leaves(tree.as_real(tree.split(carry).inexact))
    total = no_error(carry)
    for leaf, signs in zip(leaves, weights, strict=True):
        total += jnp.sum((leaf * signs).astype(total.dtype))
    return total


def drift(carry: Tree, mark: Array, weights: list[Array]) -> Array:
    """How far the projection of a recovered carry is from `mark`, relative to the carry's norm.

    `mark` is the projection that the forward pass noted.
    """
    gap = jnp.abs(projection(carry, weights) - mark)
    return _relative(gap, tree.split(carry).inexact)


def distance(got: Tree, expected: Tree) -> Array:
    """The relative distance of two carries; infinite if an integer, boolean or key differs."""
    moving, fixed, _ = tree.split(got)
    expected_moving, expected_fixed, _ = tree.split(expected)
    difference = jax.tree.map(jnp.subtract, moving, expected_moving)
    error = _relative(tree.norm(difference).astype(no_error(got).dtype), expected_moving)
    # An integer that differs, such as a step counter, makes the carry another one altogether.
    pairs = zip(jax.tree.leaves(fixed), jax.tree.leaves(expected_fixed), strict=True)
    for a, b in pairs:
        error = jnp.where(jnp.all(a == b), error, jnp.inf)
    return error


def _relative(gap: Array, like: Tree) -> Array:
    # Without the `where`, two equal carries of zeros would give 0 / 0.
    return jnp.where(gap == 0, 0, gap / tree.norm(like).astype(gap.dtype))


def no_error(carry: Tree) -> Array:
    """Zero, in the precision in which carries are compared.

    That is float32 at least: in bfloat16 a sum of many numbers would round by more than the error.
    """
    leaves = jax.tree.leaves(tree.as_real(tree.split(carry).inexact))
    zero = jnp.zeros((), wide_type(*leaves))
    return vary(zero, varying_axes(carry))


def default_tolerance(carry: Tree) -> float:
    """The default tolerance: half of the digits of the coarsest floating type."""
    leaves = jax.tree.leaves(tree.split(carry).inexact)
    return max((float(jnp.finfo(leaf.dtype).eps) for leaf in leaves), default=0.0) ** 0.5
