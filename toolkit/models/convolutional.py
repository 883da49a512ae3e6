"""Small networks for images, made from flax modules."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
from flax import linen as nn
from jax import Array

from toolkit.models.flax_modules import pure
from toolkit.models.model import Model

Activation = Callable[[Array], Array]
SMALLEST = 16  # pixels of a side for which LeNet's second pooling leaves one pixel


class _LeNet(nn.Module):
    num_classes: int
    activation: Activation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        if x.ndim != 4 or min(x.shape[1:3]) < SMALLEST:
            raise ValueError(
                f"`x` must be images [B, H, W, C] of at least {SMALLEST} x {SMALLEST} pixels: got the shape "
                f"{x.shape}. tk.models.convnet takes smaller ones."
            )
        for channels in (6, 16):
            x = self.activation(nn.Conv(channels, (5, 5), padding="VALID")(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        x = x.reshape(len(x), -1)
        for units in (120, 84):
            x = self.activation(nn.Dense(units)(x))
        return nn.Dense(self.num_classes)(x)


class _ConvNet(nn.Module):
    num_classes: int
    channels: tuple[int, ...]
    activation: Activation

    @nn.compact
    def __call__(self, x: Array) -> Array:
        smallest = 2 ** len(self.channels)
        if x.ndim != 4 or min(x.shape[1:3]) < smallest:
            raise ValueError(
                f"`x` must be images [B, H, W, C] of at least {smallest} x {smallest} pixels, which are halved "
                f"{len(self.channels)} times: got the shape {x.shape}."
            )
        for channels in self.channels:
            x = self.activation(nn.Conv(channels, (3, 3))(x))
            x = nn.max_pool(x, (2, 2), (2, 2))
        return nn.Dense(self.num_classes)(x.mean(axis=(1, 2)))


def lenet(num_classes: int = 10, activation: Activation = jax.nn.relu) -> Model:
    """LeNet-5: two 5x5 convolutions of 6 and 16 channels, each halved by pooling, then 120, 84 and the classes.

    `init(key, x)` and `apply(params, x)` take images `[B, H, W, C]` of at least 16x16 pixels; the output is
    `[B, num_classes]`. The parameters are those of a flax module: `{"Conv_0": {"kernel", "bias"}, ...}`,
    kernels `lecun_normal`, biases zero. On 32x32x3 images and 10 classes there are 62,006.

    Raises:
      ValueError: from `init` and `apply`, for images that are too small.

    Source: LeCun, Bottou, Bengio & Haffner 1998. Unlike (LeCun et al., section II-B): pooling takes the
    largest value, all channels are connected, and the output is linear, as in later versions.
    """
    return pure(_LeNet(num_classes, activation))


def convnet(
    num_classes: int = 10, channels: Sequence[int] = (16, 32), activation: Activation = jax.nn.relu
) -> Model:
    """A small network for small images: 3x3 convolutions, each halved by pooling, then the mean over pixels.

    `init(key, x)` and `apply(params, x)` take images `[B, H, W, C]`; the output is `[B, num_classes]`.
    The parameters are those of a flax module, as in `lenet`.

    Args:
      num_classes: size of the output.
      channels: of each convolution. `k` of them need images of at least `2^k` pixels a side.
      activation: elementwise, after each convolution.

    Raises:
      ValueError: from `init` and `apply`, for images that are too small.
    """
    return pure(_ConvNet(num_classes, tuple(channels), activation))
