"""Features moved and scaled by the statistics of one part of the data."""

from __future__ import annotations

import jax.numpy as jnp

from toolkit.data.labelled import Labelled


def standardize(train: Labelled, *others: Labelled, scale: bool = True) -> tuple[Labelled, ...]:
    """`(x - mean) / std` in each part, mean and standard deviation of each feature from `train` alone.

    Args:
      train: `[B, F]`; the statistics are of this part alone, so that no other part leaks into them.
      others: parts that are moved and scaled by the same numbers.
      scale: False subtracts the mean only, for features of one unit.

    Returns: `(train, *others)`. A feature that is constant in `train` is not scaled.
    """
    mean = jnp.mean(train.images, axis=0)
    deviation = jnp.std(train.images, axis=0)
    # A constant feature has deviation 0, by which it must not be divided.
    unit = jnp.where(scale & (deviation > 0), deviation, 1)
    return tuple(part._replace(images=(part.images - mean) / unit) for part in (train, *others))
