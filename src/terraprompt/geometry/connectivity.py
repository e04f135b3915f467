"""Which pixels of a mask are one object: the only place where this is decided."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import ndimage

from terraprompt.geometry.types import Mask

__all__ = ["CONNECTIVITY", "STRUCTURE", "label", "largest_component"]

#: Pixels that touch by an edge or a corner belong to one object, in outputs, truth, training and instructions.
CONNECTIVITY = 8
#: bool (3, 3), the same as a structuring element of :mod:`scipy.ndimage`.
STRUCTURE: NDArray[np.bool_] = np.ones((3, 3), bool)
STRUCTURE.flags.writeable = False


def label(mask: ArrayLike) -> tuple[NDArray[np.int32], int]:
    """Number the objects of a mask (H, W), non-zero = target.

    Returns:
        (labels, count): int32 (H, W), 0 = background, objects from 1 in raster order of their first pixels.
    """
    labels, count = ndimage.label(np.asarray(mask) != 0, STRUCTURE)
    return labels.astype(np.int32, copy=False), int(count)


def largest_component(mask: NDArray[np.generic]) -> Mask:
    """uint8 (H, W): the object with the most pixels; of several, the one met first row by row."""
    labels, count = label(mask)
    if count < 2:
        return np.asarray(mask != 0, np.uint8)
    pixels = np.bincount(labels.ravel())
    pixels[0] = 0
    return np.asarray(labels == pixels.argmax(), np.uint8)
