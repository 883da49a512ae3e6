"""Devices that project errors onto hidden units: an ideal random matrix, and light in a scattering medium.

A device of one's own is any object with these two functions; `project` may call hardware through
`jax.pure_callback`.

    class Mine:
        def init(self, key, num_errors, num_units, dtype):
            return jax.random.normal(key, (num_errors, num_units), dtype)

        def project(self, medium, error, key):
            return jnp.sign(error) @ medium
"""

from __future__ import annotations

from typing import Annotated, Any, Protocol

import jax
import jax.numpy as jnp
from annotated_types import Ge
from jax import Array

from toolkit import tree
from toolkit.errors.frames import warn
from toolkit.settings import NonNegative, settings


class Projection(Protocol):
    """A device that projects errors onto hidden units."""

    def init(self, key: Array, num_errors: int, num_units: int, dtype: Any) -> Any:
        """The medium: arrays that stay as they are."""
        ...

    def project(self, medium: Any, error: Array, key: Array) -> Array:
        """Errors `[B, num_errors]` as signals `[B, num_units]`."""
        ...


@settings("gaussian_projection")
class GaussianProjection:
    """`error @ M`, with a fixed `M` of independent standard normal numbers."""

    def init(self, key: Array, num_errors: int, num_units: int, dtype: Any) -> Array:
        """`M`, `[num_errors, num_units]`."""
        return jax.random.normal(key, (num_errors, num_units), dtype)

    def project(self, medium: Array, error: Array, key: Array) -> Array:
        """`[B, num_errors]` to `[B, num_units]`; the key is not used."""
        return error @ medium


@settings("photonic_projection")
class PhotonicProjection:
    """A random projection by light: ternary input, a medium of variance 1, noise, a camera of few values.

        t = sign(e) where |e| > threshold, else 0
        p = t M + noise rms(t M) n,        n ~ N(0, I)
        p rounded to `levels` values between -max|p| and max|p|

    The root mean square and the largest value are those of each example: a camera exposes every image by
    itself.

    Args:
      threshold: below it an error sends nothing. It must exceed 1/classes: an untrained softmax has an
        error of 1/classes at every wrong class, so that a lower threshold fires at all of them, and
        drives all hidden units one way.
      levels: values that the camera tells apart; None keeps all.
      noise: standard deviation, relative to the signal.

    Source: Launay et al. 2020, Hardware Beyond Backpropagation: a Photonic Co-Processor for Direct
    Feedback Alignment.
    """

    threshold: NonNegative = 0.2
    levels: Annotated[int, Ge(2)] | None = 64
    noise: NonNegative = 0.0

    def init(self, key: Array, num_errors: int, num_units: int, dtype: Any) -> Array:
        """`M`, `[num_errors, num_units]`. Warns where `threshold` is at most `1 / num_errors`, of several."""
        known = not isinstance(self.threshold, jax.core.Tracer)
        # A single output is no softmax over classes.
        if known and num_errors > 1 and float(self.threshold) <= 1 / num_errors:
            warn(
                f"`threshold` {float(self.threshold):.3g} of PhotonicProjection is at most 1/classes = "
                f"{1 / num_errors:.3g}: an untrained softmax then fires at every wrong class, and the "
                "hidden units saturate; take a larger one, such as 0.2 for 10 classes.",
                UserWarning,
            )
        return jax.random.normal(key, (num_errors, num_units), dtype)

    def project(self, medium: Array, error: Array, key: Array) -> Array:
        """`[B, num_errors]` to `[B, num_units]`."""
        # NaN compares as False: without the last term an error that is not finite would send nothing.
        ternary = jnp.where(jnp.abs(error) > self.threshold, jnp.sign(error), 0) + 0 * error
        signal = ternary @ medium
        spread = jnp.sqrt(jnp.mean(signal**2, axis=1, keepdims=True))
        signal += self.noise * spread * jax.random.normal(key, signal.shape, signal.dtype)
        return signal if self.levels is None else _digitised(signal, self.levels)


def _digitised(signal: Array, levels: int) -> Array:
    """Each example's signal rounded to `levels` evenly spaced values, from minus to plus its largest."""
    largest = jnp.max(jnp.abs(signal), axis=1, keepdims=True)
    step = 2 * largest / (levels - 1)
    return tree.safe_divide(signal + largest, step).round() * step - largest
