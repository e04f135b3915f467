"""Masks as COCO run lengths: small in a file, and countable without making them dense."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

from terraprompt.errors import DatasetError
from terraprompt.geometry.types import Ints
from terraprompt.io.rle import RunLengths
from terraprompt.io.rle_counts import Coded, count

__all__ = ["Overlaps", "Rle", "overlaps"]

#: Pairs that a process gets at a time.
_PER_TASK = 2048


@dataclass(frozen=True, slots=True)
class Rle:
    """A mask in COCO's compressed run lengths (column by column, zeros first).

    Attributes:
        size: (height, width).
        counts: the compressed lengths, ASCII; ``counts.decode()`` is what COCO's JSON files hold.
    """

    size: tuple[int, int]
    counts: bytes

    @classmethod
    def encode(cls, mask: NDArray[np.generic]) -> Rle:
        """A mask (H, W), non-zero = target."""
        found = coco.encode(np.asfortranarray(mask != 0).view(np.uint8))
        height, width = (int(side) for side in found["size"])
        return cls((height, width), bytes(found["counts"]))

    def decode(self) -> NDArray[np.uint8]:
        """uint8 (H, W), 1 = target.

        Raises:
            DatasetError: the lengths are damaged, or do not add up to the size.
        """
        # Not coco.decode: it takes ten times as long, and where the runs end early it returns unset memory.
        return RunLengths(*self.size, self.counts.decode("latin-1")).load()

    @property
    def area(self) -> int:
        """Target pixels; the lengths are taken on trust."""
        return int(coco.area({"size": self.size, "counts": self.counts}))


@dataclass(frozen=True, slots=True)
class Overlaps:
    """Pixel counts of many mask pairs.

    Attributes:
        intersection, predicted, truth: int64 (pairs,).
    """

    intersection: Ints
    predicted: Ints
    truth: Ints

    @property
    def union(self) -> Ints:
        """int64 (pairs,)."""
        return self.predicted + self.truth - self.intersection


def overlaps(pairs: Iterable[tuple[Rle, Rle]], *, processes: int = 1) -> Overlaps:
    """Count (predicted, truth) pairs from their run lengths, in time proportional to the runs and not to the pixels.

    The lengths are taken on trust: what a stranger wrote is decoded first, which checks it.

    Args:
        pairs: taken one by one.
        processes: how many share the work; more than one pays from some 20,000 pairs on.

    Raises:
        DatasetError: the two masks of a pair differ in size.
    """
    if processes == 1:
        parts = [count(task) for task in _tasks(pairs)]
    else:
        # Spawned, not forked: the caller may hold threads.
        with ProcessPoolExecutor(processes, mp_context=get_context("spawn")) as pool:
            parts = list(pool.map(count, _tasks(pairs)))
    columns = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
    return Overlaps(*columns)


def _tasks(pairs: Iterable[tuple[Rle, Rle]]) -> Iterator[list[Coded]]:
    remaining = iter(pairs)
    while some := list(islice(remaining, _PER_TASK)):
        for predicted, truth in some:
            if predicted.size != truth.size:  # coco.merge would answer with an empty mask
                raise DatasetError(
                    "Two run-length masks of a pair differ in size.", received=(predicted.size, truth.size)
                )
        yield [(p.size, p.counts, t.size, t.counts) for p, t in some]
