"""What the trials trace: small programs, and their equations."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, PartitionSpec

from toolkit.jaxprs import read

X = np.asarray([1.0, 2.0, 3.0], np.float32)


def traced(function: Callable[..., Any]) -> Any:
    """The program of a function of `X`."""
    return jax.make_jaxpr(function)(X)


def shaped(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, np.float32)


def first(function: Callable[..., Any], *arguments: Any) -> Any:
    """The first equation of a function of `arguments`, or of `X`."""
    return read.opened(jax.make_jaxpr(function)(*(arguments or (X,))))[0].eqns[0]


def last(function: Callable[..., Any], *arguments: Any) -> Any:
    """The last equation of a function of `arguments`."""
    return read.opened(jax.make_jaxpr(function)(*arguments))[0].eqns[-1]


def everything(computation: Any) -> Iterator[Any]:
    """All equations of a program, and of the programs within them."""
    for equation in read.opened(computation)[0].eqns:
        yield equation
        for program in read.inner(equation):
            yield from everything(program)


def on_one_device(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function under `jax.shard_map`, over a mesh of one device with the axis "i"."""
    mesh = jax.make_mesh((1,), ("i",), axis_types=(AxisType.Auto,), devices=jax.devices()[:1])
    spec = PartitionSpec("i")
    return jax.shard_map(function, mesh=mesh, in_specs=spec, out_specs=spec)
