"""A function for whole arrays, computed by all devices of an axis together."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import AxisType, Mesh, NamedSharding, auto_axes
from jax.tree_util import keystr

from toolkit import tree as trees
from toolkit.devices.meshes import put, require_mesh, sharding
from toolkit.errors.readable import readable
from toolkit.types import Tree


@readable
def data_parallel(fun: Callable[..., Any], mesh: Mesh, axis: str = "data") -> Callable[..., Any]:
    """`fun(state, *batch)`, compiled, its batch split by rows over the devices of an axis.

        step = tk.devices.data_parallel(lambda theta, x, z: theta - jax.grad(loss)(theta, x, z), mesh)
        theta = step(theta, x, z)

    `fun` is written for whole arrays, as for one device: a mean over rows is the mean over all of them.
    The compiler divides the work, and puts in the sums over devices that this needs.

    Args:
      fun: what it closes over becomes a constant of the program, whole on every device: hand data in.
      axis: of `mesh`, over which rows are split.

    Returns: `call(state, *batch)`. The state, scalars and all results are replicated. Other leaves of
      `batch` are split along their first axis, unless they lie on `mesh` already, as what
      `tk.devices.split` and `tk.devices.replicated` return. The result is that of one device, to rounding:
      sums are taken in another order.

    Raises:
      TypeError: `fun` is not callable.
      ValueError: `mesh` lacks `axis`; by the call, for rows that do not divide (`tk.devices.split`).

    Differentiation: as `fun`; inside `fun` as around the call.

    Cost: the arithmetic of `fun` divided by the devices, and a sum over them wherever rows are summed.
    """
    if not callable(fun):
        raise TypeError(f"`fun` must be callable: got {fun!r}.")
    require_mesh(mesh, axis)
    whole = sharding(mesh)
    # On explicit axes JAX asks of many an operation how its result is to be split. On automatic ones the
    # compiler finds it, so that `fun` can be what it is on one device.
    explicit = AxisType.Explicit in mesh.axis_types
    automatic = auto_axes(fun, out_sharding=whole) if explicit else fun
    compiled = jax.jit(automatic, out_shardings=whole)

    @functools.wraps(fun)
    def call(state: Tree, *batch: Tree) -> Any:
        placed = _placed(state, lambda path, leaf: whole)
        return compiled(
            placed, *_placed(batch, lambda path, leaf: _of_batch(path, leaf, mesh, axis))
        )

    return readable(call)


def _placed(tree: Tree, where: Callable[[Any, Any], NamedSharding | None]) -> Tree:
    """The arrays of a tree where `where(path, leaf)` says; None: where they are."""

    def one(path: Any, leaf: Any) -> Any:
        # A Python number has no place. As it is, `jit` gives it to every device, and it keeps its weak type.
        if not hasattr(leaf, "dtype") or not trees.is_numeric(leaf):
            return leaf
        target = where(path, leaf)
        return leaf if target is None else put(leaf, target)

    return jax.tree_util.tree_map_with_path(one, tree)


def _of_batch(path: Any, leaf: Any, mesh: Mesh, axis: str) -> NamedSharding | None:
    if not jnp.shape(leaf):
        return sharding(mesh)
    # While `jax.grad` differentiates the call, its tracer stands for an array that has a place.
    held = lax.stop_gradient(leaf)
    lies = None if isinstance(held, jax.core.Tracer) else getattr(held, "sharding", None)
    if getattr(lies, "mesh", None) == mesh:
        return None
    rows, size = jnp.shape(leaf)[0], mesh.shape[axis]
    if rows % size:
        raise ValueError(
            f"`batch{keystr(path)}` must have rows that {size} devices of {axis!r} can share equally: got "
            f"{trees.describe(leaf)}; split it by tk.devices.split, which repeats the last row, and take "
            "means by `rows.mean`."
        )
    return sharding(mesh, axis)
