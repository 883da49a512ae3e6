"""Where published files are looked for, and their checksums."""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path

import pytest

import toolkit as tk
from tests.data.image_files import ARCHIVE, IDX_NAMES, examples, write_idx
from toolkit.data import image_sets, originals
from toolkit.data.originals import CIFAR10, FASHION_MNIST, MNIST, Collection, Original

IMAGES, LABELS = IDX_NAMES["train"]
LOADERS = {collection.name: collection for collection in (MNIST, FASHION_MNIST, CIFAR10)}


def published(folder: Path) -> Collection:
    """A collection like MNIST whose checksums are those of the files that lie in `folder`."""
    files = tuple(
        Original(name, len(contents), hashlib.md5(contents).hexdigest())
        for name in (IMAGES, LABELS)
        for contents in [(folder / name).read_bytes()]
    )
    return MNIST._replace(parts={"train": files})


@pytest.mark.parametrize("name", LOADERS)
@pytest.mark.parametrize("part", ["train", "test"])
def test_missing_files_are_all_told(name: str, part: str, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as caught:
        getattr(tk.data, name)(part, tmp_path / "none")
    message = str(caught.value)
    words = [f"tk.data.{name}", str(tmp_path / "none"), LOADERS[name].page]
    for file in LOADERS[name].parts[part]:
        words += [file.name, f"{file.bytes:,} bytes", file.md5]
    for word in (*words, "TOOLKIT_DATA", "tk.data.digits"):
        assert word in message
    assert "\n" not in message
    for other in set(IDX_NAMES) - {part}:
        assert not any(name in message for name in IDX_NAMES[other])


def test_only_what_is_missing_is_named(tmp_path: Path) -> None:
    write_idx(tmp_path, *examples(0, 2, 2, 2))
    (tmp_path / LABELS).unlink()
    (tmp_path / LABELS).symlink_to(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=LABELS) as caught:
        tk.data.mnist(folder=tmp_path)
    assert IMAGES not in str(caught.value)


@pytest.mark.parametrize("name", LOADERS)
def test_folders_are_looked_up(name: str, tmp_path: Path, monkeypatch) -> None:
    def place(**given) -> str:
        with pytest.raises(FileNotFoundError) as caught:
            getattr(tk.data, name)(**given)
        return re.search(r"not in the folder (.*?): ", str(caught.value))[1]

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("TOOLKIT_DATA", raising=False)
    assert place() == str(tmp_path / ".cache/toolkit" / name)
    monkeypatch.setenv("TOOLKIT_DATA", "")
    assert place() == str(tmp_path / ".cache/toolkit" / name)
    monkeypatch.setenv("TOOLKIT_DATA", "~/mine")
    assert place() == str(tmp_path / "mine" / name)
    assert place(folder="~/here") == str(tmp_path / "here")
    monkeypatch.setenv("TOOLKIT_DATA", str(tmp_path / "data"))
    write_idx(tmp_path / "data" / "mnist", *examples(0, 2, 2, 2))
    assert len(tk.data.mnist(verify=False).labels) == 2


def test_a_file_in_place_of_the_folder_holds_nothing(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"not in the folder .*/file: train-images"):
        tk.data.mnist(folder=tmp_path / "file")


def test_an_unreadable_folder_is_no_empty_one(tmp_path: Path) -> None:
    write_idx(tmp_path / "data", *examples(0, 2, 2, 2)).chmod(0)
    user = os.geteuid()
    try:
        if user == 0:  # root may read everything
            os.seteuid(65534)
        with pytest.raises(PermissionError, match=str(tmp_path)):
            tk.data.mnist(folder=tmp_path / "data")
    finally:
        os.seteuid(user)
        (tmp_path / "data").chmod(0o700)


def test_right_checksums_pass_and_each_changed_bit_is_told(tmp_path: Path, monkeypatch) -> None:
    write_idx(tmp_path, *examples(0, 3, 2, 2))
    collection = published(tmp_path)
    monkeypatch.setattr(image_sets, "MNIST", collection)
    assert len(tk.data.mnist(folder=tmp_path).labels) == 3
    for file in collection.parts["train"]:
        path = tmp_path / file.name
        whole = path.read_bytes()
        for changed in (bytes([whole[0] ^ 1]) + whole[1:], whole[:-1], whole + b"\0", b""):
            path.write_bytes(changed)
            found = hashlib.md5(changed).hexdigest()
            expected = f"{file.bytes} bytes with md5 {file.md5}, found {len(changed)} bytes with md5 {found}"
            with pytest.raises(ValueError, match=f"{path} is damaged: expected {expected}"):
                tk.data.mnist(folder=tmp_path)
        path.write_bytes(whole)


def test_checksums_come_before_the_contents(tmp_path: Path) -> None:
    for name in (IMAGES, LABELS):
        (tmp_path / name).write_bytes(b"no gzip at all")
    with pytest.raises(ValueError, match=f"{IMAGES} is damaged: expected 9,912,422 bytes with md5"):
        tk.data.mnist(folder=tmp_path)


def test_a_file_of_another_collection_is_named(tmp_path: Path, monkeypatch) -> None:
    write_idx(tmp_path, *examples(0, 3, 2, 2))
    md5 = published(tmp_path).parts["train"][0].md5
    monkeypatch.setitem(originals._KNOWN, md5, f"{IMAGES} of mnist")
    with pytest.raises(ValueError, match=f"md5 {md5} \\({IMAGES} of mnist\\)"):
        tk.data.fashion_mnist(folder=tmp_path)


def test_what_is_no_regular_file_is_not_opened(tmp_path: Path) -> None:
    write_idx(tmp_path, *examples(0, 3, 2, 2))
    (tmp_path / IMAGES).unlink()
    os.mkfifo(tmp_path / IMAGES)  # would be waited for without end
    with pytest.raises(ValueError, match="expected a regular file"):
        tk.data.mnist(folder=tmp_path, verify=False)
    (tmp_path / ARCHIVE).mkdir()
    with pytest.raises(ValueError, match="expected a regular file"):
        tk.data.cifar10(folder=tmp_path)


@pytest.mark.parametrize("verify", [True, False])
def test_a_huge_file_is_not_read(verify: bool, tmp_path: Path) -> None:
    with (tmp_path / ARCHIVE).open("wb") as file:
        file.truncate(2**40)  # a hole: takes no room on the disk
    with pytest.raises(ValueError, match=r"at most 268,435,456 bytes .*found 1,099,511,627,776"):
        tk.data.cifar10(folder=tmp_path, verify=verify)
