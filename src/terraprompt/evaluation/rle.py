"""Masks as COCO run lengths: small in a file, and countable without making them dense."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

__all__ = ["Rle"]


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
        """uint8 (H, W), 1 = target."""
        return np.ascontiguousarray(coco.decode(self._coco))

    @property
    def area(self) -> int:
        """Target pixels."""
        return int(coco.area(self._coco))

    @property
    def _coco(self) -> dict[str, object]:
        return {"size": list(self.size), "counts": self.counts}
