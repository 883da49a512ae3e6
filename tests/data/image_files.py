"""Small files in the formats of MNIST and CIFAR-10, valid and otherwise, written from their descriptions."""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np

IDX_NAMES = {
    "train": ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"),
    "test": ("t10k-images-idx3-ubyte.gz", "t10k-labels-idx1-ubyte.gz"),
}
CIFAR_NAMES = {
    "train": [f"data_batch_{number}.bin" for number in (1, 2, 3, 4, 5)],
    "test": ["test_batch.bin"],
}
ARCHIVE = "cifar-10-binary.tar.gz"


def examples(seed: int, *shape: int) -> tuple[np.ndarray, np.ndarray]:
    """Random images of a shape, and labels 0 to 9."""
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, shape[0], np.uint8)


def idx(entries: np.ndarray, sizes: tuple[int, ...] | None = None, kind: int = 8) -> bytes:
    """An IDX file; `sizes` and `kind` are what its header says, right or wrong."""
    sizes = entries.shape if sizes is None else sizes
    return struct.pack(f">4B{len(sizes)}I", 0, 0, kind, len(sizes), *sizes) + entries.tobytes()


def write_idx(folder: Path, images: np.ndarray, labels: np.ndarray, part: str = "train") -> Path:
    """Both files of a part."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, entries in zip(IDX_NAMES[part], (images, labels), strict=True):
        (folder / name).write_bytes(gzip.compress(idx(entries)))
    return folder


def records(images: np.ndarray, labels: np.ndarray) -> bytes:
    """CIFAR records: the label, then the red, the green and the blue plane of each image."""
    return b"".join(
        bytes([label]) + b"".join(image[:, :, colour].tobytes() for colour in range(3))
        for image, label in zip(images, labels, strict=True)
    )


def member(name: str, contents: bytes = b"", **fields) -> tuple[tarfile.TarInfo, bytes]:
    """A file of an archive; `fields` of its header that say something else."""
    info = tarfile.TarInfo(name if "/" in name else f"cifar-10-batches-bin/{name}")
    info.size = len(contents)
    for field, value in fields.items():
        setattr(info, field, value)
    return info, contents


def archive(*members: tuple[tarfile.TarInfo, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive, not packed yet, whose headers may say what is not so."""
    blocks = [
        info.tobuf(form) + contents + bytes(-len(contents) % tarfile.BLOCKSIZE)
        for info, contents in members
    ]
    return b"".join(blocks) + bytes(2 * tarfile.BLOCKSIZE)


def write_archive(folder: Path, contents: bytes) -> Path:
    """The archive of CIFAR-10 with the given contents."""
    folder.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / ARCHIVE, "wb", compresslevel=1) as file:
        file.write(contents)
    return folder


def write_cifar(folder: Path, files: dict[str, bytes]) -> Path:
    """As Python's own tarfile writes it, with the folder and the text beside the records."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        tar.addfile(member("", type=tarfile.DIRTYPE)[0])
        for name, contents in {**files, "batches.meta.txt": b"airplane\n"}.items():
            info, _ = member(name, contents)
            tar.addfile(info, io.BytesIO(contents))
    return write_archive(folder, buffer.getvalue())
