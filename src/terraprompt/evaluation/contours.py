"""Metrics of outlines: Boundary IoU and the BF score.

A pixel beyond the image counts as background for both, so that the outline of a mask cut by the image's edge runs along
that edge.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.geometry.boxes import mask_box
from terraprompt.geometry.types import Bools

__all__ = ["band_width", "bf_score", "boundary_band", "boundary_iou"]


def band_width(shape: tuple[int, ...], share: float) -> int:
    """Pixels: ``share`` of the diagonal of an image (H, W), rounded, at least 1 (Cheng et al. 2021)."""
    return max(1, round(share * math.hypot(*shape[:2])))


def boundary_band(mask: NDArray[np.generic], width: int) -> Bools:
    """bool (H, W): pixels of the mask at most ``width`` from its outline, by the chessboard distance.

    That is the mask less its erosion by a square of ``2 width + 1`` pixels, as Boundary IoU's authors compute it
    (Cheng et al., "Boundary IoU", 2021, Eq. 2).
    """
    inside = mask != 0
    side = 2 * width + 1
    kept = ndimage.minimum_filter1d(inside.view(np.uint8), side, axis=0, mode="constant", cval=0)
    kept = ndimage.minimum_filter1d(kept, side, axis=1, mode="constant", cval=0)
    return np.asarray(inside & (kept == 0))


def boundary_iou(predicted: NDArray[np.generic], truth: NDArray[np.generic], *, share: float = 0.02) -> float:
    """IoU of the bands along the outlines of two masks (H, W).

    Args:
        predicted: non-zero = target.
        truth: as ``predicted``.
        share: band width as share of the diagonal.

    Returns:
        1 if both are empty, 0 if one is.
    """
    both = _cut(predicted, truth)
    if both is None:
        return 1.0
    width = band_width(truth.shape, share)
    p, t = (boundary_band(mask, width) for mask in both)
    return float(np.count_nonzero(p & t) / np.count_nonzero(p | t))


def bf_score(predicted: NDArray[np.generic], truth: NDArray[np.generic], *, share: float = 0.0075) -> float:
    """Boundary F1 of two masks (H, W) (Csurka et al. 2013).

    The harmonic mean of two shares: outline pixels of the prediction at most ``share`` of the diagonal from the true
    outline, and the reverse; Euclidean distance between pixel centres. An outline pixel is a target pixel with a
    background pixel among its 4 neighbours.

    Returns:
        1 if both are empty, 0 if one is.
    """
    both = _cut(predicted, truth)
    if both is None:
        return 1.0
    near = share * math.hypot(*truth.shape)
    p, t = (mask & ~ndimage.binary_erosion(mask) for mask in both)
    if not p.any() or not t.any():
        return 0.0
    precision = float((ndimage.distance_transform_edt(~t)[p] <= near).mean())
    recall = float((ndimage.distance_transform_edt(~p)[t] <= near).mean())
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _cut(predicted: NDArray[np.generic], truth: NDArray[np.generic]) -> tuple[Bools, Bools] | None:
    """The two masks within their common rectangle; outside of it there is only background. None if both are empty."""
    box = mask_box((predicted != 0) | (truth != 0))
    if box is None:
        return None
    x0, y0, x1, y1 = box
    return predicted[y0:y1, x0:x1] != 0, truth[y0:y1, x0:x1] != 0
