"""Pictures on model grids, to the bit as the released weights saw them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.geometry.frame import Frame

__all__ = ["letterboxed", "resized"]

_ONE = 2048  # OpenCV weighs 8-bit pixels in 1/2048


def _taps(count: int, wanted: int) -> tuple[NDArray[np.int64], ...]:
    """Of each target pixel: the two source pixels and their weights."""
    centre = ((np.arange(wanted) + 0.5) * (count / wanted) - 0.5).astype(np.float32)
    first = np.floor(centre).astype(np.int64)
    share = centre - first
    share[(first < 0) | (first >= count - 1)] = 0
    first = first.clip(0, count - 1)
    second = np.minimum(first + 1, count - 1)
    weights = (np.rint(w * _ONE).astype(np.int64) for w in (1 - share, share))
    return first, second, *weights


def resized(image: NDArray[np.uint8], size: tuple[int, int]) -> NDArray[np.uint8]:
    """(H, W, C) uint8 to ``size`` (height, width): bilinear without antialiasing, in OpenCV's fixed-point arithmetic.

    A plain float resize differs by one in an eighth of the pixels.
    """
    top, bottom, above, below = _taps(image.shape[0], size[0])
    left, right, before, behind = _taps(image.shape[1], size[1])
    pixels = image.astype(np.int64)
    rows = (pixels[:, left] * before[:, None] + pixels[:, right] * behind[:, None]) >> 4
    mixed = ((rows[top] * above[:, None, None]) >> 16) + ((rows[bottom] * below[:, None, None]) >> 16)
    return ((mixed + 2) >> 2).astype(np.uint8)


def letterboxed(image: NDArray[np.uint8], frame: Frame) -> NDArray[np.uint8]:
    """(H, W, C) uint8 on the model grid of ``frame``, black where padded."""
    out = np.zeros((*frame.grid, image.shape[2]), np.uint8)
    left, top = frame.pad
    content = image if frame.content == frame.source else resized(image, frame.content)
    out[top : top + frame.content[0], left : left + frame.content[1]] = content
    return out
