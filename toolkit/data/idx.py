"""IDX, the format of MNIST: bytes 0, 0, a type and a rank, the sizes as big-endian uint32, then the entries."""

from __future__ import annotations

import math
import struct

import numpy as np

from toolkit.data.packed import MAX_BYTES, damaged, take, unpacking

_UINT8 = 8  # the type of all the files that are read here


def read_idx(packed: bytes, rank: int, where: str) -> np.ndarray:
    """The array of a gzipped IDX file, uint8, of the given rank.

    The header is checked first: it must name the right rank, sizes from 1 on, and not more than `MAX_BYTES`.

    Raises:
      ValueError: another header, or more or fewer entries than it says.
    """
    stream = unpacking(packed)
    header = take(stream, 4 + 4 * rank, where).getvalue()
    magic = bytes([0, 0, _UINT8, rank])
    if header[:4] != magic:
        raise damaged(
            where, f"an IDX file of magic number {magic.hex()}", header[:4].hex() or "none"
        )
    if len(header) < 4 + 4 * rank:
        raise damaged(where, f"a header of {4 + 4 * rank} bytes", f"{len(header)}")
    sizes = struct.unpack(f">{rank}I", header[4:])
    total = math.prod(sizes)
    if not 0 < total <= MAX_BYTES:
        raise damaged(where, f"1 to {MAX_BYTES:,} entries", f"a header of sizes {sizes}")
    # One byte more than there should be, so that what follows the last entry is noticed.
    entries = np.frombuffer(take(stream, total + 1, where).getbuffer(), np.uint8)
    if entries.size != total:
        found = "more" if entries.size > total else f"{entries.size:,}"
        raise damaged(where, f"{total:,} entries, as of its sizes {sizes}", found)
    return entries.reshape(sizes)
