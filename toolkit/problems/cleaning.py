"""Data hyper-cleaning of a linear classifier, as in the bilevel benchmark.

`B` training examples, `F` features, `C` classes; y [F, C], one weight `sigmoid(x_i)` a training example:

    g = mean_i sigmoid(x_i) CE(a_i'y, l_i) + 0.2 |y|^2;      f = mean_j CE(a_j'y, l_j), clean

Source: the data-cleaning problem of the public bilevel benchmark (Dagreou et al. 2022).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

from toolkit.data import Labelled
from toolkit.problems.instance import Instance
from toolkit.solve.maps import argmin
from toolkit.solver import LBFGS

L2 = 0.2  # the benchmark's penalty is 0.2 |y|^2, not 0.2 |y|^2 / 2


class Indexed(NamedTuple):
    """Training examples with their positions: a batch of them finds its own weights in x."""

    images: Array  # [B, F]
    labels: Array  # [B] int32
    position: Array  # [B] int32


def cleaning(
    key: Array,
    train: Labelled,
    validation: Labelled,
    test: Labelled,
    corrupted: float,
    num_classes: int,
) -> Instance:
    """Each training label is replaced, with probability `corrupted`, by a uniform one (maybe itself).

    Starts at y = 0, x = -2. `measure` gives `test_error` and `validation_error` of y, fractions, and
    `value` = F(x), with y*(x) computed until |grad_y g| is below 1e-5.

    Raises:
      ValueError: `corrupted` outside [0, 1].
    """
    if not 0 <= corrupted <= 1:
        raise ValueError(f"`corrupted` must be in [0, 1]: got {corrupted}.")
    flip_key, label_key = jax.random.split(key)
    count, features = train.images.shape
    flipped = jax.random.bernoulli(flip_key, corrupted, (count,))
    drawn = jax.random.randint(label_key, (count,), 0, num_classes, train.labels.dtype)
    labels = jnp.where(flipped, drawn, train.labels)
    data = Indexed(jnp.asarray(train.images), labels, jnp.arange(count))

    known = data, validation, test

    def measure(
        y: Array, x: Array, known: tuple[Indexed, Labelled, Labelled] = known
    ) -> dict[str, Array]:
        data, validation, test = known
        # F is a function of x alone, so y is only where the solve for y*(x) starts.
        solve = argmin(lambda y, x: inner(y, x, data), LBFGS(1000, 1e-5))
        return {
            "value": outer(solve(y, x).value, x, validation),
            "test_error": _error(y, test),
            "validation_error": _error(y, validation),
        }

    y0, x0 = jnp.zeros((features, num_classes)), jnp.full(count, -2.0)
    return Instance(inner, outer, data, validation, y0, x0, measure, known)


def inner(y: Array, x: Array, batch: Indexed) -> Array:
    """Weighted training loss."""
    weights = jax.nn.sigmoid(x[batch.position])
    return jnp.mean(weights * _losses(y, batch)) + L2 * jnp.sum(y**2)


def outer(y: Array, x: Array, batch: Labelled) -> Array:
    """Clean validation loss."""
    return jnp.mean(_losses(y, batch))


def _losses(y: Array, batch: Any) -> Array:
    return optax.softmax_cross_entropy_with_integer_labels(batch.images @ y, batch.labels)


def _error(y: Array, data: Labelled) -> Array:
    return jnp.mean(jnp.argmax(data.images @ y, axis=1) != data.labels)
