"""How far inside a mask a pixel lies."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

__all__ = ["interior_distance"]


def interior_distance(mask: NDArray[np.generic]) -> NDArray[np.float64]:
    """Euclidean distance of each pixel of a mask (H, W) to the nearest pixel outside of it, between centres; 0 outside.

    What lies beyond the array counts as outside.
    """
    return np.asarray(ndimage.distance_transform_edt(np.pad(mask, 1))[1:-1, 1:-1], np.float64)
