"""Gzip, with a bound on what it may unpack, and what is said of a damaged file."""

from __future__ import annotations

import gzip
import io
import zlib

# Of a file, packed or not. CIFAR-10, the largest here, has 184 MB. A gzip file of 1 MB may unpack to 1 GB,
# so a bound on the packed file alone would not keep the memory from being filled.
MAX_BYTES = 2**28
_PIECE = 2**20


def damaged(where: str, expected: str, found: str) -> ValueError:
    """The error of a file that is not what it should be."""
    return ValueError(f"{where} is damaged: expected {expected}, found {found}.")


def unpacking(packed: bytes) -> gzip.GzipFile:
    """The contents of a gzip file, to be read by `take`."""
    return gzip.GzipFile(fileobj=io.BytesIO(packed))


def take(stream: gzip.GzipFile, size: int, where: str) -> io.BytesIO:
    """The next `size` bytes, or fewer where the stream ends. At its end gzip compares its own checksum.

    Memory grows with the bytes that are there: `size` may be what a damaged header says.

    Raises:
      ValueError: not a gzip stream, a truncated one, or a wrong checksum.
    """
    taken = io.BytesIO()
    try:
        while piece := stream.read(min(_PIECE, size - taken.tell())):
            taken.write(piece)
    except (EOFError, OSError, zlib.error) as error:
        raise damaged(where, "a whole gzip stream", str(error).rstrip(".")) from error
    return taken
