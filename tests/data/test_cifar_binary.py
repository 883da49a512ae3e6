"""CIFAR-10's archive: small ones come back as written, damaged and hostile ones are refused."""

from __future__ import annotations

import gzip
import tarfile
from pathlib import Path

import numpy as np
import pytest

import toolkit as tk
from tests.data.image_files import (
    ARCHIVE,
    CIFAR_NAMES,
    archive,
    examples,
    member,
    records,
    write_archive,
    write_cifar,
)
from toolkit.data import cifar_binary

ONE = records(*examples(0, 2, 32, 32, 3))


def test_records_come_back_in_the_order_of_their_files(tmp_path: Path) -> None:
    every = [*CIFAR_NAMES["train"], *CIFAR_NAMES["test"]]
    given = {name: examples(seed, 2 + seed % 2, 32, 32, 3) for seed, name in enumerate(every)}
    # The order in the archive is not that of their numbers.
    write_cifar(tmp_path, {name: records(*given[name]) for name in reversed(given)})
    for part, names in CIFAR_NAMES.items():
        data = tk.data.cifar10(part, tmp_path, verify=False)
        assert type(data.images) is type(data.labels) is np.ndarray
        assert (data.images.dtype, data.labels.dtype) == (np.uint8, np.int32)
        np.testing.assert_array_equal(data.images, np.concatenate([given[n][0] for n in names]))
        np.testing.assert_array_equal(data.labels, np.concatenate([given[n][1] for n in names]))
        assert data.images.flags.c_contiguous


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(form: int, tmp_path: Path) -> None:
    long = "x" * 70 + "/" + "y" * 60
    beside = member("test_batch.bin.old", ONE[:-1])
    found = member(f"./{long}/test_batch.bin", ONE)
    write_archive(tmp_path, archive(beside, found, member("._test_batch.bin", b"mac"), form=form))
    assert len(tk.data.cifar10("test", tmp_path, verify=False).labels) == 2


def refused(folder: Path, *words: str) -> None:
    with pytest.raises(ValueError, match=r"is damaged: expected .*, found ") as caught:
        tk.data.cifar10("test", folder, verify=False)
    message = str(caught.value)
    assert message.startswith(str(folder / ARCHIVE)), message
    for word in words:
        assert word in message, message


def negative_size() -> bytes:
    """A header that says its file has -512 bytes, so that the next header is this one again."""
    info, _ = member("test_batch.bin", size=-tarfile.BLOCKSIZE)
    return info.tobuf(tarfile.GNU_FORMAT)


NAME = "test_batch.bin"
ARCHIVES = [
    (archive(member(NAME, ONE[:-1])), (NAME, "records of 3,073 bytes", "6,145 bytes")),
    (archive(member(NAME, ONE + b"\0")), (NAME, "6,147 bytes")),
    (archive(member(NAME)), (NAME, "found 0 bytes")),
    (archive(member("data_batch_1.bin", ONE)), (f"one file {NAME}", "found 0")),
    (archive(), (f"one file {NAME}", "found 0")),
    (archive(member(NAME, ONE), member(NAME, ONE)), (f"one file {NAME}", "found 2")),
    (archive(member(NAME, b"\x0a" + ONE[1:])), ("labels 0 to 9", "10 at position 0")),
    (archive(member(NAME, type=tarfile.SYMTYPE, linkname="/etc/passwd")), ("plain file",)),
    (archive(member(NAME, type=tarfile.LNKTYPE, linkname="x")), ("plain file",)),
    (archive(member(NAME, type=tarfile.DIRTYPE)), ("plain file",)),
    (archive(member(NAME, type=tarfile.FIFOTYPE)), ("plain file",)),
    (archive(member(NAME, ONE, size=3073 * 2**20)), ("tar archive",)),
    (archive(member(NAME, ONE, size=3073 * 2**50)), ("tar archive",)),
    (archive(member(NAME, ONE))[: 512 + 3073], ("tar archive",)),
    (archive(member(NAME, ONE))[:100], ("tar archive",)),
    (archive(member("long", b"x", type=tarfile.GNUTYPE_LONGNAME, size=2**62)), ()),
    (archive(*[member("pax", b"11 path=ab\n", type=tarfile.XHDTYPE)] * 3000), ()),
    (archive(member("pax", b"99999999999999999999 path=ab\n", type=tarfile.XHDTYPE)), ()),
    (negative_size() + archive(member(NAME, ONE)), ("tar archive",)),
    (b"", ()),
    (b"no archive" * 100, ("tar archive",)),
    (bytes(10240), (f"one file {NAME}",)),
]


@pytest.mark.parametrize(("contents", "words"), ARCHIVES)
def test_hostile_archives_are_refused(contents: bytes, words, tmp_path: Path) -> None:
    refused(write_archive(tmp_path, contents), *words)
    assert [path.name for path in tmp_path.iterdir()] == [ARCHIVE]


def test_a_file_with_holes_is_refused(tmp_path: Path) -> None:
    """Its size counts the holes, which are not in the archive: what follows would be read as pixels."""
    holes = {
        "GNU.sparse.major": "1",
        "GNU.sparse.minor": "0",
        "GNU.sparse.name": NAME,
        "GNU.sparse.realsize": "3073",
    }
    table = b"1\n0\n10\n".ljust(tarfile.BLOCKSIZE, b"\0") + bytes(10)
    next_file = member("readme.html", bytes(4096))
    contents = archive(member(NAME, table, pax_headers=holes), next_file, form=tarfile.PAX_FORMAT)
    refused(write_archive(tmp_path, contents), "holes")


def test_wrong_packing_is_refused(tmp_path: Path) -> None:
    whole = gzip.compress(archive(member(NAME, ONE)))
    flipped = bytearray(whole)
    flipped[-7] ^= 1  # in gzip's own checksum
    for packed in (whole[:-1], whole[: len(whole) // 2], bytes(flipped), whole + b"more", b"BZh9"):
        (tmp_path / ARCHIVE).write_bytes(packed)
        refused(tmp_path, "gzip")


def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr(cifar_binary, "MAX_BYTES", 2**16)
    contents = archive(member(NAME, ONE))
    refused(write_archive(tmp_path, contents + bytes(2**16 + 1 - len(contents))), "at most 65,536")
    write_archive(tmp_path, contents + bytes(2**16 - len(contents)))
    assert len(tk.data.cifar10("test", tmp_path, verify=False).labels) == 2
