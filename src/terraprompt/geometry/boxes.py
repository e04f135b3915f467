"""Boxes: IoU, non-maximum suppression, boxes of masks. Boxes are (x0, y0, x1, y1) in continuous pixel coordinates."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from terraprompt.geometry.connectivity import largest_component
from terraprompt.geometry.types import Box, Mask

__all__ = ["Box", "box_iou", "box_mask", "mask_box", "nms"]


def mask_box(mask: NDArray[np.generic]) -> tuple[int, int, int, int] | None:
    """``(x0, y0, x1, y1)`` around all non-zero pixels of a mask (H, W), x1 and y1 exclusive; None if there is none."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def box_mask(mask: NDArray[np.generic], *, largest: bool = False) -> Mask:
    """uint8 (H, W): the filled tightest rectangle of a mask, or of its largest component; empty for an empty mask."""
    out = np.zeros(mask.shape, np.uint8)
    box = mask_box(largest_component(mask) if largest else mask)
    if box is not None:
        x0, y0, x1, y1 = box
        out[y0:y1, x0:x1] = 1
    return out


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
