"""Small networks of every kind that the learning rules must train; float64.

Letters: `B` examples, 6 inputs or 8x8 images, 3 classes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen, nnx

import toolkit as tk

CLASSES = 3
X = jax.random.normal(jax.random.key(1), (5, 6))
IMAGES = jax.random.normal(jax.random.key(2), (3, 8, 8, 2))


def dense(units: int) -> tuple[Callable, Callable]:
    """A map `h W + b` as a plain pair; the biases are not zero, so that every leaf has a say."""

    def init(key: jax.Array, h: jax.Array) -> dict[str, jax.Array]:
        kernel = jax.random.normal(key, (h.shape[-1], units), h.dtype) / h.shape[-1] ** 0.5
        return {"kernel": kernel, "bias": 0.1 * jnp.arange(1.0, units + 1)}

    return init, lambda params, h: h @ params["kernel"] + params["bias"]


def network(activation: Callable = jnp.tanh, hidden: tuple[int, ...] = (7, 4)) -> Any:
    """Dense layers; the last one linear."""
    layers = [(dense(units), activation) for units in hidden]
    return tk.credit.layered([*layers, (dense(CLASSES), tk.credit.identity)])


def mixed(activation: Callable = jnp.tanh, pooled: bool = True) -> Any:
    """A linen convolution, pooling, an nnx layer, a plain pair: one layer of each kind."""
    pool = partial(linen.avg_pool, window_shape=(2, 2), strides=(2, 2))
    flatten = lambda h: h.reshape(len(h), -1)
    convolution = linen.Conv(3, (3, 3), param_dtype=jnp.float64)
    constructor = partial(nnx.Linear, 48 if pooled else 192, 5, param_dtype=jnp.float64)
    return tk.credit.layered(
        [
            (convolution, *([pool] if pooled else []), activation),
            (flatten, constructor, activation),
            (dense(CLASSES), tk.credit.identity),
        ]
    )


class ResidualBlock(linen.Module):
    """`h + tanh(LayerNorm(h) W)`, one map."""

    @linen.compact
    def __call__(self, h: jax.Array) -> jax.Array:
        normal = linen.LayerNorm(param_dtype=jnp.float64)(h)
        return h + jnp.tanh(linen.Dense(h.shape[-1], param_dtype=jnp.float64)(normal))


def residual(activation: Callable = jnp.tanh) -> Any:
    """Two residual blocks with normalisation between a plain pair and a linear last layer."""
    blocks = [(ResidualBlock(), activation), (ResidualBlock(), activation)]
    return tk.credit.layered(
        [(dense(4), activation), *blocks, (dense(CLASSES), tk.credit.identity)]
    )


def targets(count: int) -> jax.Array:
    """One-hot, `[count, 3]`."""
    return jax.nn.one_hot(jnp.arange(count) % CLASSES, CLASSES)


def half_squares(output: jax.Array, target: jax.Array) -> jax.Array:
    """Half the squared error, `[B]`."""
    return jnp.sum((output - target) ** 2, axis=1) / 2


def cross_entropy(output: jax.Array, target: jax.Array) -> jax.Array:
    """Of logits, `[B]`."""
    return optax.softmax_cross_entropy(output, target)
