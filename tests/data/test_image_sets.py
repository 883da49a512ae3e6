"""MNIST and Fashion-MNIST: small files of their format come back as written; damaged ones are refused by name."""

from __future__ import annotations

import gzip
import re
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest

import toolkit as tk
from tests.data.image_files import IDX_NAMES, examples, idx, write_idx

LOADERS = (tk.data.mnist, tk.data.fashion_mnist)
IMAGES, LABELS = IDX_NAMES["train"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six valid images of 4 x 3 pixels."""
    return write_idx(tmp_path, *examples(0, 6, 4, 3))


@pytest.mark.parametrize("loader", LOADERS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_files_come_back_as_they_were_written(loader, part: str, tmp_path: Path) -> None:
    for seed, name in enumerate(IDX_NAMES):
        write_idx(tmp_path, *examples(seed, 5 + seed, 28, 28), part=name)
    seed = list(IDX_NAMES).index(part)
    images, labels = examples(seed, 5 + seed, 28, 28)
    data = loader(part, folder=tmp_path, verify=False)
    assert isinstance(data, tk.data.Labelled)
    assert type(data.images) is type(data.labels) is np.ndarray
    assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int32)
    assert data.images.shape == (len(images), 28, 28, 1)
    np.testing.assert_array_equal(data.images[..., 0], images)
    np.testing.assert_array_equal(data.labels, labels)


def test_what_is_loaded_may_be_changed_split_and_standardized(folder: Path) -> None:
    data = tk.data.mnist(folder=str(folder), verify=False)
    before = data.images.astype(np.float32).reshape(6, -1)
    parts = tk.data.split(jax.random.key(0), data._replace(images=before), 4)
    assert [part.images.shape for part in parts] == [(4, 12), (2, 12)]
    assert parts[0].labels.dtype == np.int32
    assert tk.data.standardize(*parts)[0].images.shape == (4, 12)
    data.images[:] = 0
    assert not data.images.any()


def refused(folder: Path, damaged: str, *words: str) -> None:
    """The error names the file that is damaged, and no other, and says all of `words`."""
    with pytest.raises(ValueError, match=r"is damaged: expected .*, found ") as caught:
        tk.data.mnist(folder=folder, verify=False)
    message = str(caught.value)
    assert message.startswith(str(folder / damaged)), message
    assert "\n" not in message
    for word in words:
        assert word in message, message


# Name, contents before they are packed, and what must be said.
CONTENTS = [
    (IMAGES, b"", ("magic number 00000803", "none")),
    (IMAGES, b"\0\0\x08", ("magic number 00000803", "found 000008.")),
    (IMAGES, b"\0\0\x08\x03\0\0", ("a header of 16 bytes", "found 6.")),
    (IMAGES, idx(examples(0, 6, 4, 3)[0], kind=9), ("00000803", "00000903")),
    (IMAGES, idx(examples(0, 6, 4, 3)[0])[::-1], ("00000803",)),
    (IMAGES, idx(examples(0, 6, 4, 3)[0], sizes=(6, 12)), ("00000803", "00000802")),
    (IMAGES, idx(examples(0, 6, 4, 3)[0])[:-1], ("72 entries", "found 71.")),
    (IMAGES, idx(examples(0, 6, 4, 3)[0]) + b"\0", ("72 entries", "found more.")),
    (IMAGES, idx(examples(0, 5, 4, 3)[0]), ("6 images", LABELS, "found 5.")),
    (IMAGES, idx(examples(0, 0, 4, 3)[0]), ("(0, 4, 3)",)),
    # 2**96 entries, and as many as wrap to 0 in 64 bits.
    (IMAGES, idx(examples(0, 6, 4, 3)[0], sizes=(2**32 - 1,) * 3), ("268,435,456 entries",)),
    (IMAGES, idx(examples(0, 6, 4, 3)[0], sizes=(2**31, 2**31, 4)), ("268,435,456 entries",)),
    (LABELS, idx(np.array([0, 9, 10, 3, 255, 0], np.uint8)), ("labels 0 to 9", "10 at position 2")),
    (LABELS, idx(examples(0, 6, 4, 3)[1])[:-2], ("6 entries", "found 4.")),
    (LABELS, idx(np.zeros((), np.uint8)), ("00000801", "00000800")),
]


@pytest.mark.parametrize(("name", "contents", "words"), CONTENTS)
def test_wrong_contents_are_refused(folder: Path, name: str, contents: bytes, words) -> None:
    (folder / name).write_bytes(gzip.compress(contents))
    refused(folder, name, *words)


def test_images_and_labels_in_each_others_place_are_refused(folder: Path) -> None:
    images = (folder / IMAGES).read_bytes()
    (folder / IMAGES).write_bytes((folder / LABELS).read_bytes())
    refused(folder, IMAGES, "magic number 00000803", "found 00000801")
    (folder / LABELS).write_bytes(images)
    refused(folder, LABELS, "magic number 00000801", "found 00000803")


def test_wrong_packing_is_refused(folder: Path) -> None:
    whole = (folder / IMAGES).read_bytes()
    flipped = bytearray(whole)
    flipped[-7] ^= 1  # in gzip's own checksum
    for packed in (whole[:-9], whole[:30], whole[:5], bytes(flipped), whole + b"more"):
        (folder / IMAGES).write_bytes(packed)
        refused(folder, IMAGES, "gzip")
    (folder / IMAGES).write_bytes(idx(examples(0, 6, 4, 3)[0]))
    refused(folder, IMAGES, "Not a gzipped file")
    (folder / IMAGES).write_bytes(b"")
    refused(folder, IMAGES, "none")


def peak_bytes(folder: Path, *words: str) -> int:
    """The most memory that Python held while the images were refused."""
    tracemalloc.start()
    refused(folder, IMAGES, *words)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def test_a_header_allocates_nothing_and_a_bomb_is_not_unpacked(folder: Path) -> None:
    promise = idx(np.zeros(9, np.uint8), sizes=(2**14, 2**7, 2**7))  # 256 MiB
    (folder / IMAGES).write_bytes(gzip.compress(promise))
    assert peak_bytes(folder, "268,435,456 entries", "found 9.") < 2**23
    with gzip.open(folder / IMAGES, "wb", compresslevel=1) as bomb:
        bomb.write(idx(np.zeros(2**26, np.uint8), sizes=(6, 4, 3)))
    assert (folder / IMAGES).stat().st_size < 2**20
    assert peak_bytes(folder, "72 entries", "found more") < 2**23


@pytest.mark.parametrize(
    "part", ["Train", "", None, 0, ["train"], b"train", np.array(["train"] * 2)]
)
def test_other_parts_are_refused(part, folder: Path) -> None:
    with pytest.raises(ValueError, match=re.escape('`part` must be "train" or "test": got')):
        tk.data.mnist(part, folder)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"verify": "no"}, "`verify` must be a bool: got 'no'"),
        ({"verify": 0}, "`verify` must be a bool: got 0"),
        ({"folder": 3}, "`folder` must be a path: got 3"),
        ({"folder": b"data"}, "`folder` must be a path: got b'data'"),
    ],
)
def test_arguments_of_other_types_are_refused(given, message: str) -> None:
    with pytest.raises(TypeError, match=message):
        tk.data.cifar10(**given)
