"""Label noise by a seeded rule."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array


def corrupt_labels(
    key: Array, labels: Array, fraction: float, num_classes: int
) -> tuple[Array, Array]:
    """Replace exactly `round(fraction * B)` labels, each by another class, uniformly.

    Args:
      key: chooses the examples and their new labels.
      labels: [B] int32 in [0, num_classes).
      fraction: in [0, 1].
      num_classes: at least 2; a corrupted label is never the true one.

    Returns: (labels [B] int32, corrupted [B] bool).

    Raises:
      ValueError: `fraction` or `num_classes` out of range.
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"`fraction` must be in [0, 1]: got {fraction}.")
    if num_classes < 2:
        raise ValueError(f"`num_classes` must be at least 2: got {num_classes}.")
    choice_key, label_key = jax.random.split(key)
    # `order` holds each of 0 to B - 1 once, so exactly as many entries as wanted lie below that number.
    order = jax.random.permutation(choice_key, len(labels))
    corrupted = order < round(fraction * len(labels))
    # A shift by 1 to C - 1, modulo C, never gives the same label and gives every other one equally often.
    shift = jax.random.randint(label_key, labels.shape, 1, num_classes, labels.dtype)
    return jnp.where(corrupted, (labels + shift) % num_classes, labels), corrupted
