"""Whether a TIFF is whole: every block it speaks of lies inside the file.

A full disk may go unnoticed while GDAL closes a file, and a block that was never written reads as background:
a blank mask that nobody explains. The directory of a TIFF says where each block lies, so the check costs no
decoding.
"""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import OutputError

__all__ = ["verify_tiff"]

# Tags of the TIFF 6.0 specification: strip and tile offsets and byte counts.
_OFFSETS, _COUNTS = (273, 324), (279, 325)
_TYPES = {3: "u2", 4: "u4", 16: "u8"}


def verify_tiff(path: Path) -> None:
    """Check that every block of a TIFF or BigTIFF, and of its overviews, was written in full.

    Raises:
        OutputError: a directory is broken, a block is missing or reaches beyond the end of the file.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(16)
        order = {b"II": "<", b"MM": ">"}.get(head[:2])
        if order is None or len(head) < 16:
            raise _broken(path)
        is_big = int(np.frombuffer(head, order + "u2", 1, 2)[0]) == 43
        word = order + ("u8" if is_big else "u4")
        following = int(np.frombuffer(head, word, 1, 8 if is_big else 4)[0])
        if following == 0:
            raise _broken(path)
        while following:
            offsets, counts, following = _blocks(file, path, following, order, is_big)
            if len(offsets) == 0 or len(offsets) != len(counts):
                raise _broken(path)
            # Zero means "never written"; sparse files would have it on purpose, ours never do.
            if (offsets == 0).any() or (counts == 0).any() or (offsets + counts).max() > size:
                raise _broken(path)


def _blocks(
    file: BinaryIO, path: Path, position: int, order: str, is_big: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """(offsets, byte counts, next directory) of the directory at ``position``."""

    def read(at: int, kind: str, count: int = 1) -> NDArray[np.int64]:
        file.seek(at)
        data = file.read(np.dtype(kind).itemsize * count)
        if len(data) < np.dtype(kind).itemsize * count:
            raise _broken(path)
        return np.frombuffer(data, order + kind).astype(np.int64)

    word, entry = ("u8", 20) if is_big else ("u4", 12)
    entries = int(read(position, "u8" if is_big else "u2")[0])
    first = position + (8 if is_big else 2)
    found: dict[int, NDArray[np.int64]] = {}
    for k in range(entries):
        at = first + k * entry
        tag, kind = (int(v) for v in read(at, "u2", 2))
        if tag not in (*_OFFSETS, *_COUNTS) or kind not in _TYPES:
            continue
        count = int(read(at + 4, word)[0])
        value = at + (12 if is_big else 8)
        if count * int(_TYPES[kind][1]) > (8 if is_big else 4):
            value = int(read(value, word)[0])
        found[tag] = read(value, _TYPES[kind], count)
    nothing = np.empty(0, np.int64)
    offsets = next((found[t] for t in _OFFSETS if t in found), nothing)
    counts = next((found[t] for t in _COUNTS if t in found), nothing)
    return offsets, counts, int(read(first + entries * entry, word)[0])


def _broken(path: Path) -> OutputError:
    return OutputError(
        "The file was not written in full.",
        received=path,
        hint="The disk may be full. What was there before is untouched.",
    )
