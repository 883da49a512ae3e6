"""Digits with a long tail, and what each of them may weigh: what `reweight_long_tail` is about."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

import toolkit as tk
from toolkit.data import Labelled

NUM_CLASSES = 10
# Losses at which a weight may rise or fall, from that of a learned digit to that of a missed one.
TURNS = np.geomspace(0.01, 3, 6)


class Data(NamedTuple):
    """Three parts without a digit in common, `N` training digits; stacked, each leaf is `[S, ...]`."""

    train: Labelled
    validation: Labelled
    test: Labelled
    by_frequency: jax.Array  # [10] labels, the most frequent first


def class_sizes(head_size: int, imbalance: float) -> np.ndarray:
    """`[10]` sizes from `head_size` down to `head_size / imbalance`, geometrically; none below 1."""
    falling = head_size * imbalance ** (-np.arange(NUM_CLASSES) / (NUM_CLASSES - 1))
    return np.maximum(1, np.round(falling)).astype(int)


def long_tails(
    seed: int, draws: int, sizes: np.ndarray, validation_size: int, test_size: int
) -> Data:
    """`draws` seeded long tails, stacked.

    Args:
      sizes: [10] training digits of each class, the most frequent first; see `class_sizes`.
      validation_size, test_size: digits of each class.
    """
    digits = tk.data.digits()
    drawn = []
    for key in jax.random.split(jax.random.key(seed), draws):
        order_key, class_key = jax.random.split(key)
        order = np.asarray(jax.random.permutation(order_key, len(digits.labels)))
        by_frequency = np.asarray(jax.random.permutation(class_key, NUM_CLASSES))
        parts = cut(
            order, np.asarray(digits.labels)[order], by_frequency, sizes, validation_size, test_size
        )
        labelled = (Labelled(digits.images[part], digits.labels[part]) for part in parts)
        drawn.append(Data(*labelled, jnp.asarray(by_frequency)))
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *drawn)


def cut(
    order: np.ndarray,
    labels: np.ndarray,
    by_frequency: np.ndarray,
    sizes: np.ndarray,
    validation_size: int,
    test_size: int,
) -> tuple[np.ndarray, ...]:
    """Indices (training, validation, test): of each class the first ones in `order` that it needs."""
    parts: tuple[list[np.ndarray], ...] = ([], [], [])
    for label, size in zip(by_frequency, sizes, strict=True):
        ends = np.cumsum([test_size, validation_size, size])
        test, validation, train, _ = np.split(order[labels == label], ends)
        for part, chosen in zip(parts, (train, validation, test), strict=True):
            part.append(chosen)
    return tuple(np.concatenate(part) for part in parts)


def inverse_frequency(labels: jax.Array) -> jax.Array:
    """[B] weights of mean 1 under which each class that is there counts alike."""
    weights = 1 / jnp.bincount(labels, length=NUM_CLASSES)[labels]
    return weights / jnp.mean(weights)


def fixed_weights(kind: str, theta: jax.Array, labels: jax.Array) -> jax.Array:
    """[N] positive weights of mean 1, from a logit a class or a digit.

    With a free mean, theta would also set how strong `l2` is beside the loss.
    """
    return len(labels) * jax.nn.softmax(theta[labels] if kind == "class" else theta)


def weight_of_loss(theta: jax.Array, loss: jax.Array) -> jax.Array:
    """`V(c) = 2 sum_k p_k c^2 / (c^2 + t_k^2) + q_k t_k^2 / (c^2 + t_k^2)`, `(p, q) = softmax(theta)`.

    Positive, and 1 everywhere at theta = 0; it may rise and fall at each turn `t_k`.
    """
    rise, fall = jnp.split(jax.nn.softmax(theta), 2)
    squares = loss[..., None] ** 2
    return 2 * jnp.sum((rise * squares + fall * TURNS**2) / (squares + TURNS**2), axis=-1)


def integral_of_weight(theta: jax.Array, loss: jax.Array) -> jax.Array:
    """`Phi`, with `Phi(0) = 0` and `Phi' = V`."""
    # Meta-Weight-Net steps along V(c) grad c, with V held fixed. This is the gradient of Phi(c); that of
    # V(c) c would have V'(c) c grad c besides.
    rise, fall = jnp.split(jax.nn.softmax(theta), 2)
    fallen = TURNS * jnp.arctan(loss[..., None] / TURNS)
    return 2 * jnp.sum(rise * (loss[..., None] - fallen) + fall * fallen, axis=-1)
