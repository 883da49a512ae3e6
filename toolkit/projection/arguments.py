"""What the maps share: their arguments checked, a tree as one vector, NaN where there is no answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from toolkit import tree
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.types import Tree


def inexact(y: Tree) -> Tree:
    """`y` with arrays as leaves; refused where a result would be rounded to integers."""
    if not all(map(tree.is_inexact, jax.tree.leaves(y))):
        raise ValueError(
            f"`y` must have floating or complex leaves: got {tree.describe(y)}; cast it to float."
        )
    return jax.tree.map(jnp.asarray, y)


def real(y: Tree) -> Tree:
    """`inexact(y)`, refused where it is complex: its entries have no order."""
    y = inexact(y)
    if any(map(jnp.iscomplexobj, jax.tree.leaves(y))):
        raise ValueError(f"`y` must be real: got {tree.describe(y)}.")
    return y


def vector(y: Tree, *parameters: Array) -> tuple[Array, Callable[[Array], Tree]]:
    """All leaves as one vector `[N]`, in a type that holds `parameters` too, and the way back."""
    leaves, structure = jax.tree.flatten(y)
    dtype = wide_type(*leaves, *(x for x in parameters if not _weak(x)))
    flat = [jnp.ravel(leaf).astype(dtype) for leaf in leaves] or [jnp.zeros(0, dtype)]
    cuts = np.cumsum([leaf.size for leaf in leaves])[:-1]

    def back(x: Array) -> Tree:
        parts = jnp.split(x, cuts) if leaves else []
        same = [
            part.reshape(leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(parts, leaves, strict=True)
        ]
        return jax.tree.unflatten(structure, same)

    return jnp.concatenate(flat), back


def _weak(x: Any) -> bool:
    """Whether `x` comes from a Python number, whose type says nothing."""
    return isinstance(x, Array) and x.aval.weak_type


def number(name: str, value: Any, default: float | None = None) -> Array:
    """`value` as a real array `[]`; None is `default`, where there is one."""
    value = default if value is None else value
    if not tree.is_numeric(value) or jnp.shape(value) or jnp.iscomplexobj(value):
        raise ValueError(
            f"`{name}` must be a real number, or an array of shape (): got {tree.describe(value)}."
        )
    return jnp.asarray(value)


def several(name: str, value: Any, *parts: str) -> Any:
    """`value`, refused unless it is a tuple or a list with as many entries as `parts` has names."""
    if not isinstance(value, (tuple, list)) or len(value) != len(parts):
        kind = "a pair" if len(parts) == 2 else f"a tuple of {len(parts)}"
        raise ValueError(
            f"`{name}` must be {kind}: got {tree.describe(value)}; expected ({', '.join(parts)})."
        )
    return value


def require_real(name: str, parameter: Tree) -> None:
    """Refuse complex entries of `parameter`."""
    if any(map(jnp.iscomplexobj, jax.tree.leaves(parameter))):
        raise ValueError(f"`{name}` must be real: got {tree.describe(parameter)}.")


@standard_promotion
def no_answer_unless(condition: Array, value: Array, *inputs: Array) -> Array:
    """`value` where `condition` holds; elsewhere NaN, and so are its derivatives in `inputs`.

    `where(condition, value, nan)` alone has a derivative of 0 where it is NaN: a training loop would
    stand still there and say nothing.

    Args:
      condition: broadcasts against `value`.
      inputs: what `value` was made of. Those that do not broadcast against `condition` are summed.
    """
    shape = jnp.shape(condition)
    terms = [x if jnp.broadcast_shapes(x.shape, shape) == shape else jnp.sum(x) for x in inputs]
    return value + _spoiling(condition, tuple(terms)).astype(value.dtype)


@jax.custom_jvp
def _spoiling(condition: Array, inputs: tuple[Array, ...]) -> Array:
    """0 where `condition` holds, else NaN: as are all derivatives in `inputs`."""
    del inputs
    return tree.nan_unless(condition, jnp.zeros(jnp.shape(condition), jnp.float32))


@_spoiling.defjvp
def _spoiling_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    condition, inputs = primals
    spoiling = _spoiling(condition, inputs)
    moved = jnp.zeros_like(spoiling)
    for tangent in tangents[1]:
        moved = moved + spoiling * jnp.real(tangent).astype(spoiling.dtype)
    return spoiling, moved
