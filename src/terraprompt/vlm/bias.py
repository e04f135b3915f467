"""Fit the coordinate correction on labelled boxes, and say by leave-one-out what it is worth."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from terraprompt.errors import DatasetError
from terraprompt.vlm.box_refinement import FIXED_ALPHA, FIXED_BETA

__all__ = ["BiasFit", "fit_bias"]

Array = NDArray[np.float64]

_REACH = (-0.5, 1.5)  # of alpha and beta: from half of the box cut away to one and a half added on that side
_COARSE = 0.05
_FINE = 0.01


@dataclass(frozen=True, slots=True)
class BiasFit:
    """Constants of :func:`~terraprompt.vlm.box_refinement.refine` fitted on labelled boxes, and their worth.

    All IoU are means over the pairs, 0..1, of corrected and clamped boxes with the true ones.

    Attributes:
        alpha: share of the side to add at the left and the top.
        beta: share of the side to add at the right and the bottom.
        count: pairs of boxes.
        iou_plain: without any correction.
        iou_fixed: with the release's constants 0.2 and 0.1.
        iou_fitted: leave-one-out: each pair corrected by constants chosen on all the others.
        iou_in_sample: with ``alpha`` and ``beta`` on the pairs that chose them; too kind, shown for comparison.
    """

    alpha: float
    beta: float
    count: int
    iou_plain: float
    iou_fixed: float
    iou_fitted: float
    iou_in_sample: float

    @property
    def gain_over_plain(self) -> float:
        """IoU that the fit is expected to add to boxes as answered."""
        return self.iou_fitted - self.iou_plain

    @property
    def gain_over_fixed(self) -> float:
        """IoU that the fit is expected to add to the release's constants."""
        return self.iou_fitted - self.iou_fixed

    @property
    def advised(self) -> tuple[Literal["fitted", "fixed", "plain"], float, float]:
        """Name, alpha and beta of the best of the three by expected IoU; the simplest where they are equal."""
        best = max(self.iou_plain, self.iou_fixed, self.iou_fitted)
        if best == self.iou_plain:
            return "plain", 0.0, 0.0
        return ("fixed", FIXED_ALPHA, FIXED_BETA) if best == self.iou_fixed else ("fitted", self.alpha, self.beta)


def fit_bias(answered_boxes: ArrayLike, true_boxes: ArrayLike, sizes: ArrayLike) -> BiasFit:
    """alpha and beta with the highest mean IoU, from a grid of step 0.05 and one of step 0.01 around its best.

    The mean IoU is the criterion since it is bounded: a box on the wrong object counts as 0 whatever its distance, and
    cannot pull the constants as it would pull a mean of offsets. Both constants are shared by the axes, as in the
    release.

    Leave-one-out chooses, for each pair, among all points of both grids by the other pairs alone (only the place of the
    finer grid comes from all pairs).

    Args:
        answered_boxes: (N, 4) xyxy in image pixels, read in the right convention, not clamped; corners in any order.
        true_boxes: (N, 4) xyxy in image pixels.
        sizes: (N, 2) (height, width) of the images, or one pair for all.

    Raises:
        DatasetError: fewer than 2 pairs, shapes that do not fit, values not finite, or a true box without area.
    """
    answered, truth, corner = _checked(answered_boxes, true_boxes, sizes)

    def scores(alphas: Array, betas: Array) -> Array:
        return np.stack([_iou(answered, truth, corner, a, b) for a, b in zip(alphas, betas, strict=True)])

    whole = np.arange(_REACH[0], _REACH[1] + _COARSE / 2, _COARSE)
    alphas, betas = _grid(whole, whole)
    coarse = scores(alphas, betas)  # (points of the grid, N)
    best = _best(coarse.sum(axis=1), alphas, betas)
    around = np.arange(-_COARSE + _FINE, _COARSE - _FINE / 2, _FINE)
    finer_alphas, finer_betas = _grid(alphas[best] + around, betas[best] + around)
    alphas, betas = np.concatenate([alphas, finer_alphas]), np.concatenate([betas, finer_betas])
    table = np.concatenate([coarse, scores(finer_alphas, finer_betas)])
    total = table.sum(axis=1)
    best = _best(total, alphas, betas)
    others = [_best(total - own, alphas, betas) for own in table.T]
    return BiasFit(
        alpha=float(alphas[best]),
        beta=float(betas[best]),
        count=len(answered),
        iou_plain=float(_iou(answered, truth, corner, 0.0, 0.0).mean()),
        iou_fixed=float(_iou(answered, truth, corner, FIXED_ALPHA, FIXED_BETA).mean()),
        iou_fitted=float(table[others, np.arange(len(answered))].mean()),
        iou_in_sample=float(table[best].mean()),
    )


def _checked(answered: ArrayLike, truth: ArrayLike, sizes: ArrayLike) -> tuple[Array, Array, Array]:
    boxes, true = np.asarray(answered, np.float64), np.asarray(truth, np.float64)
    shape = np.asarray(sizes, np.float64)
    if boxes.ndim != 2 or boxes.shape[1:] != (4,) or boxes.shape != true.shape or len(boxes) < 2:
        raise DatasetError(
            "The fit needs at least two answered boxes with as many true ones, (N, 4) each.",
            received=f"{boxes.shape} and {true.shape}",
        )
    if shape.shape not in ((2,), (len(boxes), 2)):
        raise DatasetError("Sizes must be (height, width), one for all or one for each box.", received=shape.shape)
    if not all(np.isfinite(values).all() for values in (boxes, true, shape)) or (shape < 1).any():
        raise DatasetError("Boxes must be finite, and images at least 1 x 1 pixels.")
    boxes = np.concatenate([np.minimum(boxes[:, :2], boxes[:, 2:]), np.maximum(boxes[:, :2], boxes[:, 2:])], axis=1)
    if (empty := (true[:, 2:] <= true[:, :2]).any(axis=1)).any():
        raise DatasetError(
            "A true box has no area.", received=f"boxes {np.flatnonzero(empty)[:5].tolist()}", hint="Leave them out."
        )
    return boxes, true, np.broadcast_to(shape[..., ::-1], (len(boxes), 2))


def _grid(alphas: Array, betas: Array) -> tuple[Array, Array]:
    """All pairs that do not turn a box inside out."""
    a, b = (axis.ravel().round(4) + 0.0 for axis in np.meshgrid(alphas, betas, indexing="ij"))  # exact 0, and no -0
    kept = a + b > -0.95
    return a[kept], b[kept]


def _best(total: Array, alphas: Array, betas: Array) -> int:
    """The highest sum; among equals (boxes clamped on all sides) the smallest correction."""
    level = np.flatnonzero(total >= total.max() - 1e-9)
    return int(level[np.argmin(np.abs(alphas[level]) + np.abs(betas[level]))])


def _iou(boxes: Array, truth: Array, corner: Array, alpha: float, beta: float) -> Array:
    """(N,) IoU of corrected, clamped boxes with the true ones; ``corner`` is (N, 2) width, height."""
    side = boxes[:, 2:] - boxes[:, :2]
    low = np.clip(boxes[:, :2] - alpha * side, 0, corner)
    high = np.clip(boxes[:, 2:] + beta * side, 0, corner)
    shared = np.clip(np.minimum(high, truth[:, 2:]) - np.maximum(low, truth[:, :2]), 0, None).prod(axis=1)
    both = (high - low).prod(axis=1) + (truth[:, 2:] - truth[:, :2]).prod(axis=1) - shared
    return np.asarray(shared / both, np.float64)
