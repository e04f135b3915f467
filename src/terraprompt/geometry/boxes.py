"""Boxes: IoU and non-maximum suppression. Boxes are (x0, y0, x1, y1) in continuous pixel coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from terraprompt.geometry.types import Box

__all__ = ["Box", "box_iou", "nms"]


def box_iou(first: ArrayLike, second: ArrayLike) -> NDArray[np.float64]:
    """IoU (n, m) of boxes (n, 4) and (m, 4), xyxy; 0 where a box has no area (inverted ones have none)."""
    a = np.asarray(first, np.float64).reshape(-1, 4)[:, None]
    b = np.asarray(second, np.float64).reshape(-1, 4)[None]
    sides = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])
    common = sides[..., 0].clip(min=0) * sides[..., 1].clip(min=0)
    union = _area(a) + _area(b) - common
    out = np.zeros(common.shape)
    np.divide(common, union, out=out, where=(common > 0) & (union > 0))
    return out


def nms(boxes: ArrayLike, *, limit: float = 0.5) -> list[int]:
    """Indices, ascending, of the boxes (n, 4) that stay when each that overlaps a larger one is dropped.

    Larger boxes first, the earlier of equal ones; a box goes when its IoU with one that stays is above ``limit``
    (Think2Seg-RS). Time grows with n times the number that stays: cap the list first where n may be huge.
    """
    array = np.asarray(boxes, np.float64).reshape(-1, 4)
    left = np.argsort(-_area(array), kind="stable")
    stay: list[int] = []
    while len(left):
        stay.append(int(left[0]))
        rest = left[1:]
        left = rest[box_iou(array[left[:1]], array[rest])[0] <= limit]
    return sorted(stay)


def _area(boxes: NDArray[np.float64]) -> NDArray[np.float64]:
    sides: NDArray[np.float64] = (boxes[..., 2:] - boxes[..., :2]).clip(min=0)
    return sides[..., 0] * sides[..., 1]
