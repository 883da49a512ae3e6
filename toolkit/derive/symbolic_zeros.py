"""How custom derivative rules hear of zeros that JAX knows: inputs that are not differentiated, and outputs unused.

A rule of `jax.custom_vjp` or `jax.custom_jvp` made with `symbolic_zeros=True` is handed such marks in place of
arrays of zeros, and can leave out what only they would need.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.custom_derivatives import SymbolicZero

from toolkit.tree import is_inexact
from toolkit.types import Tree


def is_zero_tangent(tangent: Any) -> bool:
    """Whether a tangent, as `symbolic_zeros=True` hands it over, is zero by construction."""
    return isinstance(tangent, SymbolicZero) or tangent.dtype == jax.dtypes.float0


def values_and_wanted(primals: Tree) -> tuple[Tree, Tree]:
    """(values, which of them are differentiated) of what `symbolic_zeros=True` hands over."""
    values = jax.tree.map(lambda leaf: leaf.value, primals)
    wanted = jax.tree.map(lambda leaf: leaf.perturbed and is_inexact(leaf.value), primals)
    return values, wanted


def instantiate_zeros(cotangent: Tree, like: Tree) -> Tree:
    """Cotangents of the floating leaves of `like`, symbolic zeros written out; None elsewhere."""

    def one(bar: Any, leaf: Any) -> Any:
        if not is_inexact(leaf):
            return None
        return jnp.zeros_like(leaf) if isinstance(bar, SymbolicZero) else bar

    return jax.tree.map(one, cotangent, like, is_leaf=lambda bar: isinstance(bar, SymbolicZero))


def zero_tangent(like: Array) -> SymbolicZero:
    """The tangent of what has none, as a rule with `symbolic_zeros=True` may return it.

    In `jax.shard_map` an integer and its tangent, zeros of the type `float0`, vary over the same device axes.
    """
    return SymbolicZero(jax.typeof(like).to_tangent_aval())
