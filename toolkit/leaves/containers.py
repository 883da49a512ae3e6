"""Trees of classes with a mind of their own: how are they taken apart without calling their constructors?

A class of weights that is registered with JAX may look at its fields in `__post_init__`: compare shapes,
convert with `jnp.asarray`, refuse None. JAX makes its instances of arrays, and so does a user. Inside the
library the same tree also holds None, booleans, types and descriptions in place of arrays, and the
constructor would fail on these, or change them. So such a tree is taken apart once, at the border, and its
class is called again with arrays only. So are trees of classes whose instances are equal to themselves alone,
modules of nnx among them: trees of shapes or types could not be compared.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from toolkit.types import Tree


@jax.tree_util.register_pytree_with_keys_class
class Leaves:
    """A tree as the row of its leaves, and how to make the tree of them again."""

    __slots__ = ("leaves", "paths", "structure")

    def __init__(self, leaves: Sequence[Any], structure: Any, paths: tuple[str, ...]) -> None:
        self.leaves, self.structure, self.paths = leaves, structure, paths

    def tree_flatten_with_keys(self) -> tuple[list[tuple[Any, Any]], Any]:
        """The leaves, each by its path in the tree."""
        keys = [_Path(path) for path in self.paths]
        return list(zip(keys, self.leaves, strict=True)), (self.structure, self.paths)

    @classmethod
    def tree_unflatten(cls, about: Any, leaves: Sequence[Any]) -> Leaves:
        """Undo `tree_flatten_with_keys`."""
        return cls(leaves, *about)

    def __eq__(self, other: object) -> bool:
        """Whether the leaves are equal too: shapes or types in their place are compared so."""
        if not isinstance(other, Leaves):
            return False
        about = (self.structure, self.paths) == (other.structure, other.paths)
        return about and list(self.leaves) == list(other.leaves)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        pairs = zip(self.paths, self.leaves, strict=True)
        return f"({', '.join(f'{path}: {leaf}' for path, leaf in pairs)})"


class _Path(str):
    """The path of a leaf as a key; `jax.tree_util.keystr` joins the texts of keys."""

    __slots__ = ()


def unpacked(tree: Tree) -> Tree:
    """`tree`, with `Leaves` in place of each class in it that takes arrays alone, or that does not compare."""
    leaves, structure = jax.tree.flatten(tree)
    if _takes_anything(structure):
        return tree
    if type(tree) in (dict, list, tuple):  # look for the class below, and keep the names of a dict
        return jax.tree.map(unpacked, tree, is_leaf=lambda node: node is not tree)
    paths = [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]
    return Leaves(leaves, structure, tuple(paths))


def packed(tree: Tree) -> Tree:
    """`tree` with each `Leaves` in it made the tree again that it was."""

    return jax.tree.map(_packed, tree, is_leaf=lambda node: isinstance(node, Leaves))


def _packed(node: Any) -> Any:
    if not isinstance(node, Leaves):
        return node
    try:
        return node.structure.unflatten(node.leaves)
    except Exception as error:
        missing = [path for path, leaf in zip(node.paths, node.leaves, strict=True) if leaf is None]
        if not missing:
            raise
        # A gradient has None where a leaf has no derivative.
        raise TypeError(
            f"a class of the tree must take None where a leaf has no derivative, at {missing[0]}: it raises "
            f"{type(error).__name__}: {error}; keep integers outside of it, or let it pass None."
        ) from error


def _takes_anything(structure: Any) -> bool:
    """Whether a tree of this structure holds whatever it is given, unchanged, and equals another that does."""
    # What stands for a leaf inside the library: nothing, some object, and an array of another shape and type.
    return all(_holds(structure, one) for one in (None, object(), np.zeros((1,) * 7, bool)))


def _holds(structure: Any, leaf: Any) -> bool:
    given = [leaf] * structure.num_leaves
    try:
        whole = structure.unflatten(given)
        found, again = jax.tree.flatten(whole)
        if leaf is None and not bool(whole == structure.unflatten(given)):
            return False
    except Exception:  # whatever the class raises about what it does not expect
        return False
    if leaf is None:  # JAX counts None as no leaf
        return not found
    return again == structure and all(a is b for a, b in zip(found, given, strict=True))
