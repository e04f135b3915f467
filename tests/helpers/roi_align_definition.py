"""RoIAlign by its definition, a sample after the other: the oracle of tests."""

from __future__ import annotations

import math

import numpy as np


def one_by_one(features: np.ndarray, boxes: np.ndarray, size: int) -> np.ndarray:
    """``torchvision.ops.roi_align`` with its defaults, as its documentation and Mask R-CNN describe it."""
    bands = len(features)
    out = np.zeros((len(boxes), bands, size, size))
    for n, (x0, y0, x1, y1) in enumerate(boxes):
        step_x, step_y = max(x1 - x0, 1) / size, max(y1 - y0, 1) / size
        many_x, many_y = math.ceil(step_x), math.ceil(step_y)
        for p in range(size):
            for q in range(size):
                total = np.zeros(bands)
                for i in range(many_y):
                    for j in range(many_x):
                        y = y0 + (p + (i + 0.5) / many_y) * step_y
                        x = x0 + (q + (j + 0.5) / many_x) * step_x
                        total += bilinear(features, y, x)
                out[n, :, p, q] = total / (many_x * many_y)
    return out


def bilinear(features: np.ndarray, y: float, x: float) -> np.ndarray:
    _, height, width = features.shape
    if y < -1 or y > height or x < -1 or x > width:
        return np.zeros(len(features))
    y, x = min(max(y, 0), height - 1), min(max(x, 0), width - 1)
    top, left = int(y), int(x)
    bottom, right = min(top + 1, height - 1), min(left + 1, width - 1)
    down, over = y - top, x - left
    above = features[:, top, left] * (1 - over) + features[:, top, right] * over
    below = features[:, bottom, left] * (1 - over) + features[:, bottom, right] * over
    return above * (1 - down) + below * down
