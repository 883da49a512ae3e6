"""Layers of units, each connected to all units of the layer below."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.models.model import Model


def mlp(sizes: Sequence[int], activation: Callable[[Array], Array] = jnp.tanh) -> Model:
    """A multilayer perceptron: `h_k = activation(h_(k-1) W_k + b_k)`, the last layer linear.

    `init(key)` draws Gaussian weights of variance `1 / sizes[k-1]` and sets the biases to zero. It takes
    an `example` like every model's `init`, but does not look at it: `sizes` say all. Its result is

        {"w1": [sizes[0], sizes[1]], "b1": [sizes[1]], "w2": ..., "b2": ...}

    in JAX's default float type. `apply(params, x)` maps `[..., sizes[0]]` to `[..., sizes[-1]]`.

    Args:
      sizes: units of each layer, the input first; at least two numbers, each at least 1.
      activation: elementwise, of the hidden layers.

    Raises:
      ValueError: `sizes` has fewer than two entries, or one below 1.
    """
    sizes = tuple(sizes)
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(
            f"`sizes` must be two or more positive numbers, from the input to the output: got {sizes}."
        )
    layers = range(1, len(sizes))

    def init(key: Array, example: Array | None = None) -> dict[str, Array]:
        keys = jax.random.split(key, len(layers))
        params = {}
        for k, layer_key, (below, here) in zip(layers, keys, pairwise(sizes), strict=True):
            params[f"w{k}"] = jax.random.normal(layer_key, (below, here)) / below**0.5
            params[f"b{k}"] = jnp.zeros(here)
        return params

    def apply(params: dict[str, Array], x: Array) -> Array:
        for k in layers[:-1]:
            x = activation(x @ params[f"w{k}"] + params[f"b{k}"])
        last = layers[-1]
        return x @ params[f"w{last}"] + params[f"b{last}"]

    return Model(init, apply)
