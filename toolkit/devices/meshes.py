"""Devices in a grid with named axes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Integral
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from toolkit.errors.readable import readable


@readable
def mesh(*, devices: Sequence[jax.Device] | None = None, **sizes: int) -> Mesh:
    """A grid of devices: `mesh(data=4, model=2)` has an axis `data` of 4 and an axis `model` of 2.

    `mesh()` has all devices on one axis, `data`. A grid of fewer devices than there are takes the first.

    Args:
      devices: what to choose from; `jax.devices()` when not given, those of all processes.
      sizes: of each axis, at least 1. One may be -1: as many as the others leave.

    Returns: a `jax.sharding.Mesh` whose axes are automatic: in `jit` the compiler divides the work and
      puts in what has to be sent. (The axes of `jax.make_mesh` are explicit unless it is told otherwise.)

    Raises:
      ValueError: there are fewer devices; a size is no int, or below 1 and not -1; two are -1; the
        others do not divide the devices where one is -1.
    """
    found = jax.devices() if devices is None else list(devices)
    shape = _shape(sizes or {"data": -1}, len(found))
    return jax.make_mesh(
        tuple(shape.values()),
        tuple(shape),
        axis_types=(AxisType.Auto,) * len(shape),
        devices=found[: math.prod(shape.values())],
    )


def sharding(mesh: Mesh, *axes: str) -> NamedSharding:
    """Leading dimensions over `axes`; without axes a copy on every device."""
    return NamedSharding(mesh, PartitionSpec(*axes))


def put(leaf: Any, where: NamedSharding) -> Any:
    """`jax.device_put`, and where `where` has devices of several processes, which all hand in the whole array.

    There JAX takes arrays of NumPy, and compares them over the processes; of its own arrays it refuses keys, and
    those that were put on a device of this process.
    """
    held = isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer)
    if where.is_fully_addressable or not held or not leaf.is_fully_addressable:
        return jax.device_put(leaf, where)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        data = jax.device_put(np.asarray(jax.random.key_data(leaf)), where)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    return jax.device_put(np.asarray(leaf), where)


def require_mesh(mesh: Any, axis: str | None = None) -> None:
    """Refuse what is no mesh, and one that lacks `axis`."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"`mesh` must be a jax.sharding.Mesh: got {type(mesh).__name__}; use tk.devices.mesh()."
        )
    if axis is not None and axis not in mesh.axis_names:
        named = ", ".join(map(repr, mesh.axis_names))
        raise ValueError(f"`axis` must be an axis of the mesh, which has {named}: got {axis!r}.")


def _shape(sizes: dict[str, int], there: int) -> dict[str, int]:
    """`sizes` with -1 worked out, for as many devices as there are."""
    for name, size in sizes.items():
        whole = isinstance(size, Integral) and not isinstance(size, bool)
        if not whole or (size < 1 and size != -1):
            raise ValueError(
                f"`{name}` must be an int of at least 1, or -1 for the rest: got {size!r}."
            )
    rest = [name for name, size in sizes.items() if size == -1]
    if len(rest) > 1:
        raise ValueError(f"only one size may be -1: got {' and '.join(f'`{n}`' for n in rest)}.")
    wanted = math.prod(int(size) for size in sizes.values() if size != -1)
    if wanted > there or (rest and not there):
        raise ValueError(
            f"{_printed(sizes)} needs {max(wanted, 1)} devices, there are {there}; on a CPU set "
            f"XLA_FLAGS=--xla_force_host_platform_device_count={max(wanted, 1)} before jax is imported."
        )
    if rest and there % wanted:
        raise ValueError(
            f"{_printed(sizes)} would leave {there % wanted} of {there} devices without work; write "
            f"{rest[0]}={there // wanted} if that is meant."
        )
    return {name: there // wanted if size == -1 else int(size) for name, size in sizes.items()}


def _printed(sizes: dict[str, int]) -> str:
    return f"mesh({', '.join(f'{name}={size}' for name, size in sizes.items())})"
