"""Small linear maps that some rules keep beside the network, and learn as they go."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from toolkit.credit import passes
from toolkit.credit.layered import Layered
from toolkit.optimizers import built
from toolkit.types import Tree


class Linear(NamedTuple):
    """Sizes of a linear map."""

    inputs: int
    outputs: int
    dtype: Any


def drawn(key: Array, size: Linear) -> dict[str, Array]:
    """Gaussian weights of variance `1 / inputs`, no bias."""
    kernel = jax.random.normal(key, (size.inputs, size.outputs), size.dtype) / size.inputs**0.5
    return {"kernel": kernel, "bias": jnp.zeros(size.outputs, size.dtype)}


def zeros(size: Linear) -> dict[str, Array]:
    """The map to 0."""
    return {
        "kernel": jnp.zeros((size.inputs, size.outputs), size.dtype),
        "bias": jnp.zeros(size.outputs, size.dtype),
    }


def applied(linear: dict[str, Array], h: Array) -> Array:
    """`[B, ...]`, taken flat, as `[B, outputs]`."""
    return passes.flat(h) @ linear["kernel"] + linear["bias"]


def widths(model: Layered, params: Tree, x: Array) -> tuple[list[int], Any]:
    """(units `N_k` of each layer, the output's last; the output's dtype)."""
    shapes = passes.shapes(model, params, x)
    return [int(np.prod(a.shape[1:])) for a in shapes.pre], shapes.output.dtype


def learned(
    objective: Callable[[Tree], Array], values: Tree, optimizer: Any, moments: Any
) -> tuple[Tree, Any]:
    """One step of an optimizer on `objective(values)`: (new values, new state of the optimizer)."""
    updates, moments = built(optimizer).update(jax.grad(objective)(values), moments, values)
    return optax.apply_updates(values, updates), moments
