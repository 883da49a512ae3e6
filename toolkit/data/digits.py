"""The 1,797 handwritten digits of scikit-learn, and seeded splits."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from toolkit.data.labelled import Labelled


def digits() -> Labelled:
    """8x8 gray images of handwritten digits: `B = 1797`, `F = 64` in [0, 1], labels 0 to 9.

    Raises:
      ImportError: scikit-learn, which ships the images, is not installed.

    Source: Alpaydin & Kaynak 1998 (UCI, optical recognition of handwritten digits, test part).
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImportError(
            "tk.data.digits needs scikit-learn, which ships the images: "
            "pip install 'toolkit-jax[data]'."
        ) from None
    images, labels = load_digits(return_X_y=True)
    return Labelled(jnp.asarray(images / 16, jnp.float32), jnp.asarray(labels, jnp.int32))


def split(key: Array, data: Labelled, *sizes: int) -> tuple[Labelled, ...]:
    """Shuffle, then cut parts of the given sizes and one of what remains.

    Raises:
      ValueError: a size is not positive, or nothing remains.
    """
    total = len(data.labels)
    if min(sizes) < 1 or sum(sizes) >= total:
        raise ValueError(
            f"`sizes` must be positive and leave at least one of {total} examples: got {sizes}."
        )
    order = jax.random.permutation(key, total)
    ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
    return tuple(Labelled(data.images[part], data.labels[part]) for part in jnp.split(order, ends))
