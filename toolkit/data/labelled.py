"""Examples and their labels."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from jax import Array


class Labelled(NamedTuple):
    """`B` examples: of `F` features, or images as their files have them.

    The loaders of files (`mnist`, `cifar10`, ...) give NumPy arrays, which stay on the host.
    """

    images: Array | np.ndarray  # [B, F] float32, or [B, height, width, channels] uint8
    labels: Array | np.ndarray  # [B] int32
