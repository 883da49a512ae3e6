"""The files of a data set as they were published: where they lie, and whether they are the right ones."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from toolkit.data.packed import MAX_BYTES, damaged


class Original(NamedTuple):
    """One published file."""

    name: str
    bytes: int
    md5: str


class Collection(NamedTuple):
    """A data set, in files."""

    name: str  # of the loader, and of the folder
    page: str  # where the files are published
    parts: Mapping[str, tuple[Original, ...]]


MNIST = Collection(
    "mnist",
    "http://yann.lecun.com/exdb/mnist/",
    {
        "train": (
            Original("train-images-idx3-ubyte.gz", 9_912_422, "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
            Original("train-labels-idx1-ubyte.gz", 28_881, "d53e105ee54ea40749a09fcbcd1e9432"),
        ),
        "test": (
            Original("t10k-images-idx3-ubyte.gz", 1_648_877, "9fb629c4189551a2d022fa330f9573f3"),
            Original("t10k-labels-idx1-ubyte.gz", 4_542, "ec29112dd5afa0611ce80d1b7f02629c"),
        ),
    },
)
FASHION_MNIST = Collection(
    "fashion_mnist",
    "https://github.com/zalandoresearch/fashion-mnist",
    {
        "train": (
            Original("train-images-idx3-ubyte.gz", 26_421_880, "8d4fb7e6c68d591d4c3dfef9ec88bf0d"),
            Original("train-labels-idx1-ubyte.gz", 29_515, "25c81989df183df01b3e8a0aad5dffbe"),
        ),
        "test": (
            Original("t10k-images-idx3-ubyte.gz", 4_422_102, "bef4ecab320f06d8554ea6380940ec79"),
            Original("t10k-labels-idx1-ubyte.gz", 5_148, "bb300cfdad3c16e7a12a480ee83cd310"),
        ),
    },
)
_CIFAR10 = (Original("cifar-10-binary.tar.gz", 170_052_171, "c32a1d4ab5d03f1284b67883e8d87530"),)
CIFAR10 = Collection(
    "cifar10", "https://www.cs.toronto.edu/~kriz/cifar.html", {"train": _CIFAR10, "test": _CIFAR10}
)

# Files that are taken for each other: those of MNIST and of Fashion-MNIST bear the same names.
_KNOWN = {
    "c58f30108f718f92721af3b95e74349a": "cifar-10-python.tar.gz, a pickle, which is not read",
    **{
        file.md5: f"{file.name} of {collection.name}"
        for collection in (MNIST, FASHION_MNIST, CIFAR10)
        for files in collection.parts.values()
        for file in files
    },
}


def read_originals(
    collection: Collection, part: str, folder: str | os.PathLike[str] | None, verify: bool
) -> list[tuple[str, bytes]]:
    """(path, contents) of each file of a part, its checksum compared.

    Raises:
      FileNotFoundError: files are missing; all of them are named.
      ValueError: another `part`, or a file with another checksum.
      TypeError: `verify` is not a bool.
    """
    if not isinstance(part, str) or part not in collection.parts:
        raise ValueError(f'`part` must be "train" or "test": got {part!r}.')
    if not isinstance(verify, bool):
        raise TypeError(f"`verify` must be a bool: got {verify!r}.")
    place = _place(collection.name, folder)
    files = collection.parts[part]
    missing = [file for file in files if not _is_there(place / file.name)]
    if missing:
        raise FileNotFoundError(_how_to_get(collection, missing, place))
    return [(str(place / file.name), _read(place / file.name, file, verify)) for file in files]


def _place(name: str, folder: str | os.PathLike[str] | None) -> Path:
    if folder is None:
        # An empty variable is one that is not set: it would mean the present folder.
        root = os.environ.get("TOOLKIT_DATA") or os.path.join("~", ".cache", "toolkit")
        folder = os.path.join(root, name)
    elif not isinstance(folder, str | os.PathLike):
        raise TypeError(f"`folder` must be a path: got {folder!r}.")
    return Path(os.path.expanduser(folder))


def _is_there(path: Path) -> bool:
    """Not `path.exists()`, which says no also of a folder that may not be read."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _how_to_get(collection: Collection, missing: list[Original], place: Path) -> str:
    files = ", ".join(f"{file.name} ({file.bytes:,} bytes, md5 {file.md5})" for file in missing)
    return (
        f"tk.data.{collection.name}: not in the folder {place}: {files}. Nothing is downloaded: get what is "
        f"missing from {collection.page} (or a mirror: the checksum decides), and put it into that folder, "
        f"into `folder`, or into {collection.name}/ below the folder named by the variable TOOLKIT_DATA. "
        "Without files, tk.data.digits() has 1,797 small images of digits."
    )


def _read(path: Path, file: Original, verify: bool) -> bytes:
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):  # a pipe would be waited for without end
        raise damaged(str(path), "a regular file", "a folder, a pipe or a device")
    if status.st_size > MAX_BYTES:
        expected = f"at most {MAX_BYTES:,} bytes (as published: {file.bytes:,})"
        raise damaged(str(path), expected, f"{status.st_size:,}")
    contents = path.read_bytes()
    if verify:
        md5 = hashlib.md5(contents, usedforsecurity=False).hexdigest()
        if md5 != file.md5:
            known = f" ({_KNOWN[md5]})" if md5 in _KNOWN else ""
            raise damaged(
                str(path),
                f"{file.bytes:,} bytes with md5 {file.md5}",
                f"{len(contents):,} bytes with md5 {md5}{known}; `verify=False` admits other files",
            )
    return contents
