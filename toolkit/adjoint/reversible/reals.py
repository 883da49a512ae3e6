"""Trees as lists of real arrays, on which the exact descent works."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit import tree
from toolkit.jaxprs.varying_axes import vary, varying_axes
from toolkit.types import Tree

_FEW = 256  # numbers: fewer than these get a leaf of zeros beside them, see `to_reals`


def to_reals(values: Tree) -> list[Array]:
    """The leaves in float32 at least, real and imaginary parts apart; zeros are added to few numbers.

    XLA on CPU compiles a loop over few bytes as one piece, and rounds differently in it. The forward
    and the reverse loop hold different amounts of data, so one could be compiled that way and the other
    not, and their bits would differ. With a leaf of zeros added, neither loop is small enough for that.
    """
    leaves = jax.tree.leaves(tree.widened(tree.as_real(values)))
    if sum(leaf.size for leaf in leaves) < _FEW:
        few = jnp.zeros(_FEW, leaves[0].dtype)
        leaves.append(vary(few, varying_axes(leaves[0])))
    return leaves


def from_reals(leaves: list[Array], like: Tree) -> Tree:
    """Undo `to_reals`: a tree like `like`."""
    templates, structure = jax.tree.flatten(tree.as_real(like))
    # Not strict: a leaf of zeros that `to_reals` has added is last, and is left out here.
    leaves = [leaf.astype(t.dtype) for leaf, t in zip(leaves, templates, strict=False)]
    return tree.as_like(like, jax.tree.unflatten(structure, leaves))
