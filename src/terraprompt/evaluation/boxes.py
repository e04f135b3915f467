"""Boxes of masks, for grounding metrics of systems that answer with masks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.geometry.connectivity import label
from terraprompt.geometry.types import Mask

__all__ = ["box_mask", "largest_component", "tight_rectangle"]


def tight_rectangle(mask: NDArray[np.generic]) -> tuple[int, int, int, int] | None:
    """``(x0, y0, x1, y1)`` around all non-zero pixels of a mask (H, W), x1 and y1 exclusive; None if there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def largest_component(mask: NDArray[np.generic]) -> Mask:
    """uint8 (H, W): the 8-connected component with the most pixels; of several, the one met first row by row."""
    labels, count = label(mask)
    if count < 2:
        return np.asarray(mask != 0, np.uint8)
    pixels = np.bincount(labels.ravel())
    pixels[0] = 0
    return np.asarray(labels == pixels.argmax(), np.uint8)


def box_mask(mask: NDArray[np.generic], *, largest: bool = False) -> Mask:
    """uint8 (H, W): the filled tightest rectangle of a mask, or of its largest component; empty for an empty mask."""
    out = np.zeros(mask.shape, np.uint8)
    box = tight_rectangle(largest_component(mask) if largest else mask)
    if box is not None:
        x0, y0, x1, y1 = box
        out[y0:y1, x0:x1] = 1
    return out
