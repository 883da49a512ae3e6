"""MNIST, Fashion-MNIST and CIFAR-10, from the files as they were published."""

from __future__ import annotations

import os

import numpy as np

from toolkit.data.cifar_binary import read_cifar
from toolkit.data.idx import read_idx
from toolkit.data.labelled import Labelled
from toolkit.data.originals import CIFAR10, FASHION_MNIST, MNIST, Collection, read_originals
from toolkit.data.packed import damaged

_CIFAR_PARTS = {
    "train": tuple(f"data_batch_{number}.bin" for number in range(1, 6)),
    "test": ("test_batch.bin",),
}
_NUM_CLASSES = 10  # of each of the three


def mnist(
    part: str = "train", folder: str | os.PathLike[str] | None = None, verify: bool = True
) -> Labelled:
    """28x28 gray images of handwritten digits: `B = 60000` (test: 10,000), labels 0 to 9.

    NumPy arrays: images `[B, 28, 28, 1]` uint8 in 0 to 255, labels `[B]` int32, in the order of the files.

    Args:
      part: `train` or `test`.
      folder: holds the published files, `train-images-idx3-ubyte.gz` and its like, gzipped as they are. None:
        `$TOOLKIT_DATA/mnist`, without that variable `~/.cache/toolkit/mnist`.
      verify: False admits files with other checksums: other images in the same format, of other numbers
        and sizes too. The files are still checked against their headers.

    Raises:
      FileNotFoundError: files are missing: which, their bytes and checksums, and where to get them.
      ValueError: a damaged file, with what was expected and found; another `part`.

    Cost: the files and the arrays in memory; nothing is written to disk, and nothing is downloaded.

    Source: LeCun, Bottou, Bengio & Haffner 1998.
    """
    return _from_idx(MNIST, part, folder, verify)


def fashion_mnist(
    part: str = "train", folder: str | os.PathLike[str] | None = None, verify: bool = True
) -> Labelled:
    """28x28 gray images of clothes: `B = 60000` (test: 10,000), labels 0 (T-shirt) to 9 (ankle boot).

    Arrays, arguments and errors are those of `mnist`; the folder is `fashion_mnist`. The files bear the
    names of MNIST's: the checksums tell them apart, so keep `verify=True`.

    Source: Xiao, Rasul & Vollgraf 2017.
    """
    return _from_idx(FASHION_MNIST, part, folder, verify)


def cifar10(
    part: str = "train", folder: str | os.PathLike[str] | None = None, verify: bool = True
) -> Labelled:
    """32x32 colour images of ten kinds of things: `B = 50000` (test: 10,000), labels 0 (airplane) to 9 (truck).

    NumPy arrays: images `[B, 32, 32, 3]` uint8 in 0 to 255 (red, green, blue), labels `[B]` int32. The file
    is `cifar-10-binary.tar.gz`, as it is; the Python form is a pickle and is not read. Arguments and errors
    are those of `mnist`; the folder is `cifar10`.

    Cost: 0.5 GB of memory while it loads; nothing is unpacked to disk.

    Source: Krizhevsky 2009.
    """
    ((path, packed),) = read_originals(CIFAR10, part, folder, verify)
    images, labels = read_cifar(packed, _CIFAR_PARTS[part], path)
    return Labelled(images, _classes(labels, path))


def _from_idx(
    collection: Collection, part: str, folder: str | os.PathLike[str] | None, verify: bool
) -> Labelled:
    (images_path, images_packed), (labels_path, labels_packed) = read_originals(
        collection, part, folder, verify
    )
    labels = _classes(read_idx(labels_packed, 1, labels_path), labels_path)
    images = read_idx(images_packed, 3, images_path)
    if len(images) != len(labels):
        expected = f"{len(labels):,} images, one for each label of {os.path.basename(labels_path)}"
        raise damaged(images_path, expected, f"{len(images):,}")
    return Labelled(images[..., None], labels)


def _classes(labels: np.ndarray, where: str) -> np.ndarray:
    if labels.max() >= _NUM_CLASSES:
        position = int(np.argmax(labels >= _NUM_CLASSES))
        label = f"{labels[position]} at position {position:,}"
        raise damaged(where, f"labels 0 to {_NUM_CLASSES - 1}", label)
    return labels.astype(np.int32)
