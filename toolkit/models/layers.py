"""Networks as rows of layers `(*maps, activation)`, for `tk.credit.layered`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax.numpy as jnp
from flax import linen as nn
from jax import Array

Activation = Callable[[Array], Array]
LayerParts = tuple[Any, ...]  # (*maps, activation)


def identity(a: Array) -> Array:
    """The activation that does nothing, for a last layer whose output are logits or real numbers."""
    return a


def flatten(h: Array) -> Array:
    """`[B, ...]` as `[B, N]`, a map without parameters."""
    return h.reshape(len(h), -1)


def dense_layers(units: Sequence[int], activation: Activation = jnp.tanh) -> list[LayerParts]:
    """Layers of units that see all units below, the last one linear.

        model = tk.credit.layered(tk.models.dense_layers((128, 128, 10)))

    Kernels are drawn by flax's `lecun_normal`, of variance `1 / inputs`; biases are zero.

    Args:
      units: of each layer, without the input.
      activation: elementwise, of all layers but the last.

    Raises:
      ValueError: `units` is empty, or one of them is below 1.
    """
    *hidden, last = _sizes("units", units)
    return [*((nn.Dense(size), activation) for size in hidden), (nn.Dense(last), identity)]


def conv_layers(
    channels: Sequence[int], num_classes: int = 10, activation: Activation = jnp.tanh
) -> list[LayerParts]:
    """3x3 convolutions, each halved by the mean over 2x2 pixels, then a linear layer of all that is left.

    The mean is taken before the activation and is linear: signals come back through it as they are,
    where the largest of four would let each rule choose its own pixel.

    Args:
      channels: of each convolution. `k` of them need images `[B, H, W, C]` of at least `2^k` pixels a side.
      num_classes: units of the last layer.
      activation: elementwise, of the convolutions.

    Raises:
      ValueError: `channels` is empty, or a number is below 1.
    """
    halve = partial(nn.avg_pool, window_shape=(2, 2), strides=(2, 2))
    sizes = _sizes("channels", channels)
    (last,) = _sizes("num_classes", (num_classes,))
    convolutions = [(nn.Conv(size, (3, 3)), halve, activation) for size in sizes]
    return [*convolutions, (flatten, nn.Dense(last), identity)]


def _sizes(name: str, sizes: Sequence[int]) -> tuple[int, ...]:
    sizes = tuple(sizes)
    if not sizes or min(sizes) < 1:
        raise ValueError(f"`{name}` must be one or more numbers of at least 1: got {sizes}.")
    return sizes
