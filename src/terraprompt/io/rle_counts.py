"""Counts of coded mask pairs: apart, so that a process that only counts loads nothing but NumPy and pycocotools."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from pycocotools import mask as coco

__all__ = ["Coded", "count"]

#: (height, width) and compressed run lengths of the prediction, then of the truth; both of one size.
Coded = tuple[tuple[int, int], bytes, tuple[int, int], bytes]
#: Masks per call of ``coco.area``, which fails from 256 on.
_AT_ONCE = 128


def count(pairs: list[Coded]) -> NDArray[np.int64]:
    """int64 (3, pairs): pixels of the intersection, of the prediction, of the truth."""
    parts = [_some(pairs[first : first + _AT_ONCE]) for first in range(0, len(pairs), _AT_ONCE)]
    return np.concatenate(parts, axis=1)


def _some(pairs: list[Coded]) -> NDArray[np.int64]:
    left = [{"size": size, "counts": counts} for size, counts, _, _ in pairs]
    right = [{"size": size, "counts": counts} for _, _, size, counts in pairs]
    both = [coco.merge([p, t], intersect=True) for p, t in zip(left, right, strict=True)]
    return np.stack([np.asarray(coco.area(side), np.int64) for side in (both, left, right)])
