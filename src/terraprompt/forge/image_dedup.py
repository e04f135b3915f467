"""Patches that are the same picture: equal pixels, or nearly equal by perceptual hash and thumbnail."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

__all__ = ["repeated"]

_BANDS = 4  # 16 bits each: hashes that differ in up to three bits agree in at least one


def repeated(
    shas: Sequence[str | bytes], hashes: NDArray[np.uint64], thumbs: NDArray[np.uint8], *, bits: int, levels: float
) -> tuple[list[int], list[int]]:
    """Patches to leave out; the first of each set of equals stays.

    Args:
        shas: of the pixels.
        hashes: (n,) perceptual hashes.
        thumbs: (n, 192) thumbnails.
        bits: hashes differ in at most so many (up to 3).
        levels: and thumbnails by at most so many grey levels on average.

    Returns:
        Indexes of exact and of near duplicates, ascending.
    """
    seen: set[str | bytes] = set()
    exact = [i for i, sha in enumerate(shas) if sha in seen or seen.add(sha)]  # type: ignore[func-returns-value]
    out = set(exact)
    left = np.array([i for i in range(len(shas)) if i not in out], np.int64)
    near: set[int] = set()
    for band in range(_BANDS):
        keys = (hashes[left] >> np.uint64(16 * band)) & np.uint64(0xFFFF)
        order = np.argsort(keys, kind="stable")
        cuts = np.flatnonzero(np.diff(keys[order])) + 1
        for group in np.split(left[order], cuts):
            if len(group) > 1:
                _mark(np.sort(group), hashes, thumbs, bits, levels, near)
    return exact, sorted(near)


def _mark(
    group: NDArray[np.int64],
    hashes: NDArray[np.uint64],
    thumbs: NDArray[np.uint8],
    bits: int,
    levels: float,
    near: set[int],
) -> None:
    """Add the members of a group that come after one they equal.

    What equals a patch that is left out itself is left out too: the outcome does not depend on the order of groups.
    """
    pictures = thumbs[group].astype(np.int16)
    for place, index in enumerate(group[:-1].tolist()):
        later = group[place + 1 :]
        apart = np.bitwise_count(hashes[later] ^ hashes[index])
        hits = np.flatnonzero(apart <= bits)
        if hits.size == 0:
            continue
        shift = np.abs(pictures[place + 1 :][hits] - pictures[place]).mean(1)
        near.update(later[hits[shift <= levels]].tolist())
