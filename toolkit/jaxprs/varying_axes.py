"""Over which axes of an enclosing `jax.shard_map` a value differs between devices."""

from __future__ import annotations

from typing import Any

import jax

from toolkit.types import Tree


def varying_axes(tree: Tree) -> frozenset[str]:
    """The axes of an enclosing `jax.shard_map` over which some leaf differs between devices."""

    def of(leaf: Any) -> frozenset[str]:
        # `jax.ShapeDtypeStruct`s and the types of a program's variables have the attribute themselves; of
        # an array `jax.typeof` gives the type that has it.
        typed = leaf if hasattr(leaf, "manual_axis_type") else jax.typeof(leaf)
        manual = getattr(typed, "manual_axis_type", None)
        return manual.varying if manual else frozenset()

    return frozenset().union(*map(of, jax.tree.leaves(tree)))


def vary(tree: Tree, axes: frozenset[str]) -> Tree:
    """Mark each array as differing between devices along `axes`; the values stay."""

    def one(leaf: Any) -> Any:
        missing = tuple(sorted(axes - varying_axes(leaf)))
        return jax.lax.pcast(leaf, missing, to="varying") if missing else leaf

    return jax.tree.map(one, tree)
