"""RoIAlign without torchvision."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["roi_align"]


def roi_align(features: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Mean of bilinear samples in ``size`` x ``size`` bins of each box (Mask R-CNN, section 3).

    The result of ``torchvision.ops.roi_align(features, boxes, size)`` with its defaults: ``aligned=False`` (cell
    centres at whole numbers), as many samples a bin as it has cells, rounded up, boxes at least one cell wide and high.
    A sample is bilinear in x and y, so that the mean over a bin is a product of one matrix a side.

    Args:
        features: (C, H, W).
        boxes: (N, 4) xyxy in cells.
        size: bins a side.

    Returns:
        (N, C, size, size).
    """
    height, width = features.shape[-2:]
    rows = torch.stack([_weights(box[1], box[3], height, size) for box in boxes.tolist()])
    columns = torch.stack([_weights(box[0], box[2], width, size) for box in boxes.tolist()])
    rows, columns = rows.to(features), columns.to(features)
    return torch.einsum("npy,cyx,nqx->ncpq", rows, features, columns)


def _weights(start: float, end: float, cells: int, bins: int) -> Tensor:
    """(bins, cells): what each cell adds to the mean of each bin, along one side."""
    step = max(end - start, 1.0) / bins
    samples = math.ceil(step)
    centres = (torch.arange(samples, dtype=torch.float64) + 0.5) / samples
    at = start + (torch.arange(bins, dtype=torch.float64)[:, None] + centres) * step  # (bins, samples)
    inside = (at >= -1) & (at <= cells)
    at = at.clamp(0, cells - 1)
    low = at.floor().long()
    share = at - low
    weights = torch.zeros(bins, samples, cells, dtype=torch.float64)
    weights.scatter_add_(2, low[..., None], (1 - share)[..., None])
    weights.scatter_add_(2, (low + 1).clamp(max=cells - 1)[..., None], share[..., None])
    return (weights * inside[..., None]).mean(1)
