"""RoIAlign against its definition, one sample after the other."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from terraprompt.models.sam.roi import roi_align


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


side = st.floats(-4, 14, width=32)


@settings(max_examples=40)
@given(st.lists(st.tuples(side, side, side, side), min_size=1, max_size=3), st.integers(1, 4))
def test_every_bin_is_the_mean_of_its_samples(corners, size):
    boxes = np.array([(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners])
    features = np.random.default_rng(0).normal(size=(2, 9, 11)).astype(np.float32)
    got = roi_align(torch.from_numpy(features), torch.from_numpy(boxes), size)
    assert got.dtype == torch.float32
    np.testing.assert_allclose(got.numpy(), one_by_one(features, boxes, size), atol=1e-5)
