"""The problems of the suites: plain functions `inner(y, theta)`, `outer(y, theta)` and where they start."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

import toolkit as tk
from toolkit.data import Labelled

STEPS, STEP_SIZE, MOMENTUM = 100, 0.1, 0.9
Product = Callable[[jax.Array, jax.Array], jax.Array]


class Problem(NamedTuple):
    """A bilevel problem without randomness."""

    inner: Callable[[Any, Any], jax.Array]
    outer: Callable[[Any, Any], jax.Array]
    y0: Any
    theta: Any
    steps: int = STEPS


def drawn(
    distribution: Callable[..., jax.Array], key: jax.Array, shape: Any, *bounds: float
) -> jax.Array:
    """The same numbers in either precision: float64 would be drawn from other bits."""
    given = dict(zip(("minval", "maxval"), bounds, strict=False))
    return distribution(key, shape, jnp.float32, **given).astype(jnp.result_type(float))


def _cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
    return optax.softmax_cross_entropy_with_integer_labels(scores, labels)


def digits() -> tuple[Labelled, Labelled]:
    """1,000 to train on and 500 to validate."""
    parts = tk.data.split(jax.random.key(0), tk.data.digits(), 1000, 500)
    as_default = lambda leaf: leaf.astype(jnp.result_type(float)) if leaf.ndim > 1 else leaf
    return tuple(jax.tree.map(as_default, part) for part in parts[:2])  # float64 for the truth


def by_transpose(x: jax.Array, w: jax.Array) -> jax.Array:
    """`x @ w`, so that derivatives are products `[few, examples] @ [examples, features]`: fast on CPUs."""
    return jax.lax.dot_general(x, jax.lax.optimization_barrier(w.T), (((1,), (1,)), ((), ())))


def penalties(
    cross_entropy: Callable[..., jax.Array] = _cross_entropy,
    steps: int = STEPS,
    product: Product = jnp.matmul,
) -> Problem:
    """P1: logistic regression on 1,000 digits, 640 weights, a log-penalty for each of 64 features."""
    train, validation = digits()

    def inner(y: jax.Array, theta: jax.Array) -> jax.Array:
        loss = jnp.mean(cross_entropy(product(train.images, y), train.labels))
        return loss + 0.5 * jnp.sum(jnp.exp(theta)[:, None] * y**2)

    def outer(y: jax.Array, theta: jax.Array) -> jax.Array:
        return jnp.mean(_cross_entropy(validation.images @ y, validation.labels))

    return Problem(inner, outer, jnp.zeros((64, 10)), jnp.full(64, -4.0), steps)


def penalties_examples_last() -> Problem:
    """P1 with the weights as `[10, 64]` and the examples as the last axis."""
    train, validation = digits()
    images, others = (jnp.asarray(part.images.T) for part in (train, validation))

    def cross_entropy(scores: jax.Array, labels: jax.Array) -> jax.Array:
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels, axis=0)

    def inner(y: jax.Array, theta: jax.Array) -> jax.Array:
        loss = jnp.mean(cross_entropy(y @ images, train.labels))
        return loss + 0.5 * jnp.sum(jnp.exp(theta) * y**2)

    def outer(y: jax.Array, theta: jax.Array) -> jax.Array:
        return jnp.mean(cross_entropy(y @ others, validation.labels))

    return Problem(inner, outer, jnp.zeros((10, 64)), jnp.full(64, -4.0))


def noisy_digits() -> tuple[Labelled, Labelled, dict[str, jax.Array]]:
    """`digits()` with 40 % of the labels to train on wrong, and an MLP 64-128-10 to start from."""
    train, validation = digits()
    labels, _ = tk.data.corrupt_labels(jax.random.key(1), train.labels, 0.4, 10)
    first, second = jax.random.split(jax.random.key(2))
    y0 = {
        "w1": drawn(jax.random.normal, first, (64, 128)) / 8,
        "b1": jnp.zeros(128),
        "w2": drawn(jax.random.normal, second, (128, 10)) / 128**0.5,
        "b2": jnp.zeros(10),
    }
    return Labelled(train.images, labels), validation, y0


def cleaning(l2: float = 0.0, product: Product = jnp.matmul) -> Problem:
    """P2: a weight for each of 1,000 digits, MLP 64-128-10 tanh, 40 % of the labels wrong."""
    train, validation, y0 = noisy_digits()

    def scores(y: dict[str, jax.Array], images: jax.Array) -> jax.Array:
        return product(jnp.tanh(images @ y["w1"] + y["b1"]), y["w2"]) + y["b2"]

    def inner(y: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
        weights = jax.nn.sigmoid(theta)
        loss = jnp.mean(weights * _cross_entropy(scores(y, train.images), train.labels))
        return loss + 0.5 * l2 * optax.tree.norm(y, squared=True)

    def outer(y: dict[str, jax.Array], theta: jax.Array) -> jax.Array:
        return jnp.mean(_cross_entropy(scores(y, validation.images), validation.labels))

    return Problem(inner, outer, y0, jnp.zeros(1000))
