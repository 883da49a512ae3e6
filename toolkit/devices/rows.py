"""Rows of data over the devices of an axis, whether or not their number divides."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.sharding import Mesh
from jax.tree_util import keystr, tree_flatten_with_path

from toolkit import tree as trees
from toolkit.devices.meshes import put, require_mesh, sharding
from toolkit.errors.readable import readable
from toolkit.leaves.promotion import standard_promotion, wide_type
from toolkit.types import Tree


@dataclass(frozen=True, eq=False)
class Rows:
    """Rows over devices: `R` of them, of which the first `count` are true and the others repeat the last.

    A pytree: an argument of `jax.jit`, of `tk.devices.data_parallel`, of `jax.grad` as far as `tree` goes.
    """

    tree: Tree  # leaves [R, ...]
    mask: Array  # [R] bool, true rows
    count: (
        int | Array
    )  # of the true rows; a traced number inside `jit` where the rows are an argument

    @readable
    @standard_promotion
    def mean(self, values: Array) -> Array:
        """The mean over the true rows of `values`, one value a row: `sum_i mask_i values_i / count`.

        Args:
          values: `[R, ...]`, real or complex; integers and booleans count as numbers.

        Returns: `[...]`, in the type of `jnp.mean(values)`. The sum is taken in float32 at least.

        Raises:
          ValueError: `values` does not have `R` rows; or inside `jax.shard_map` or `jax.pmap`, where a
            device sees its own rows only.

        Differentiation: every mode and order; the derivative in the other rows is 0, whatever stands
          there. What computes `values` is fed that 0, and 0 times an infinite slope is NaN. The other
          rows repeat the last true one, so that a slope that is finite in the true rows is finite there.
        """
        if not trees.is_numeric(values) or jnp.shape(values)[:1] != self.mask.shape:
            raise ValueError(
                f"`values` must have one value for each of the {self.mask.shape[0]} rows, those that were "
                f"added included: got {trees.describe(values)}."
            )
        if jax.sharding.get_abstract_mesh().manual_axes:
            raise ValueError(
                "`Rows.mean` is of all rows, and inside jax.shard_map or jax.pmap a device has its own only: "
                "write lax.psum(jnp.sum(values * rows.mask), axis) / rows.count, or use jax.jit, as "
                "tk.devices.data_parallel does."
            )
        values = jnp.asarray(values)
        mask = jnp.expand_dims(self.mask, tuple(range(1, values.ndim)))
        result = jax.eval_shape(jnp.mean, values).dtype
        total = jnp.sum(values, axis=0, where=mask, dtype=wide_type(values, result))
        return (total / self.count).astype(result)

    @readable
    def unpad(self, tree: Tree) -> Tree:
        """The first `count` rows of each leaf, outside `jit`: what belongs to the true rows.

        Raises:
          ValueError: a leaf does not have `R` rows; or inside `jit`, where `count` is not known.
        """
        if isinstance(self.count, jax.core.Tracer):
            raise ValueError(
                "`Rows.unpad` belongs outside jax.jit: how many rows it keeps is a shape, and inside that "
                "number is traced. Use `rows.mask` or `rows.mean` there."
            )
        if jax.tree.leaves(tree) and _rows("tree", tree) != self.mask.shape[0]:
            raise ValueError(
                f"`tree` must have leaves of {self.mask.shape[0]} rows, those that were added included: got "
                f"{trees.describe(tree)}."
            )
        return jax.tree.map(lambda leaf: leaf[: int(self.count)], tree)


jax.tree_util.register_dataclass(Rows, data_fields=("tree", "mask", "count"), meta_fields=())


@readable
def split(tree: Tree, mesh: Mesh, axis: str = "data") -> Rows:
    """The rows of a tree over the devices of an axis; where they do not divide, the last one is repeated.

        rows = tk.devices.split({"x": x, "z": z}, mesh)     # 63 rows on 8 devices: 64
        loss = lambda theta, rows: rows.mean((rows.tree["x"] @ theta - rows.tree["z"]) ** 2)

    Args:
      tree: leaves `[rows, ...]` of any type that JAX has, keys too: of JAX, or of NumPy, which go to
        their devices without a copy of the whole on one. Over several processes each hands in the whole
        tree.
      axis: of `mesh`; the other axes hold copies.

    Returns: `Rows(tree, mask, count)`.

    Raises:
      ValueError: a leaf without rows, leaves with unequal numbers, a tree without leaves; `mesh` lacks
        `axis`.
    """
    require_mesh(mesh, axis)
    count = _rows("tree", tree)
    size = mesh.shape[axis]
    total = -(-count // size) * size
    # Zeros in place of the last row would do for the value. A logarithm's slope there is infinite, and 0 times
    # it NaN: the gradient of the mean would be NaN.
    index = np.minimum(np.arange(total), count - 1)
    padded = tree if total == count else jax.tree.map(lambda leaf: leaf[index], tree)
    over = sharding(mesh, axis)
    placed, mask = jax.tree.map(lambda leaf: put(leaf, over), (padded, np.arange(total) < count))
    return Rows(placed, mask, count)


@readable
def replicated(tree: Tree, mesh: Mesh) -> Tree:
    """A copy of each array of a tree on every device of the mesh; what is no array stays as it is."""
    require_mesh(mesh)
    whole = sharding(mesh)
    return jax.tree.map(lambda leaf: put(leaf, whole) if trees.is_numeric(leaf) else leaf, tree)


def _rows(name: str, tree: Any) -> int:
    """How many rows the leaves of the argument `name` have; refuses leaves that do not agree."""
    found: dict[str, int] = {}
    for path, leaf in tree_flatten_with_path(tree)[0]:
        if not trees.is_numeric(leaf) or not jnp.shape(leaf)[:1] or not jnp.shape(leaf)[0]:
            raise ValueError(
                f"`{name}` must have leaves [rows, ...] with at least one row: got {trees.describe(leaf)}"
                f"{_at(path)}; hand what has no rows over apart."
            )
        found[keystr(path)] = jnp.shape(leaf)[0]
    if not found:
        raise ValueError(f"`{name}` must have a leaf, whose rows are split: got {tree!r}.")
    first, count = next(iter(found.items()))
    for place, other in found.items():
        if other != count:
            raise ValueError(
                f"`{name}` must have leaves with equal numbers of rows: got {count} at {first} and {other} "
                f"at {place}; split what differs by a call of its own."
            )
    return count


def _at(path: tuple[Any, ...]) -> str:
    return f" at {keystr(path)}" if path else ""
