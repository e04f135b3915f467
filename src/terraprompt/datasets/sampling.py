"""Points and boxes that a person might give for a mask.

Coordinates are continuous pixel coordinates: x right, y down, (0, 0) the outer corner of the first pixel.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError, DatasetError
from terraprompt.geometry.boxes import Box, mask_box
from terraprompt.geometry.interior import interior_distance

__all__ = ["SMALL_AREA", "jitter_box", "sample_points", "tight_box"]


SMALL_AREA = 200
"""Below this many pixels one point is enough (UniGeoSeg, section 3)."""
POINT_COUNT_SHARES = (0.6, 0.2, 0.2)


def tight_box(mask: NDArray[np.generic]) -> Box:
    """The smallest box ``(x0, y0, x1, y1)`` around the non-zero pixels of ``mask`` (height, width); x1, y1 exclusive.

    Raises:
        DatasetError: the mask is empty.
    """
    box = mask_box(mask)
    if box is None:
        raise DatasetError("An empty mask has no box.", received=f"all 0, shape {mask.shape}")
    x0, y0, x1, y1 = map(float, box)
    return x0, y0, x1, y1


def sample_points(mask: NDArray[np.generic], rng: np.random.Generator, *, k: int | None = None) -> NDArray[np.float64]:
    """Points inside a mask, preferring its interior as a person's clicks do.

    Args:
        mask: (height, width), non-zero = target.
        rng: source of randomness.
        k: how many; None draws it by area: one below :data:`SMALL_AREA` pixels, else 1, 2 or 3 with 60, 20 and 20 %.
            Never more than there are pixels.

    Returns:
        float64 (k, 2), xy, centres of distinct pixels of the mask.

    Raises:
        DatasetError: the mask is empty.
        ConfigError: ``k`` is below 1.
    """
    if k is not None and k < 1:
        raise ConfigError("At least one point must be sampled.", received=k)
    x0, y0, x1, y1 = (int(v) for v in tight_box(mask))
    inside = mask[y0:y1, x0:x1] != 0
    rows, cols = np.nonzero(inside)
    if k is None:
        k = 1 if rows.size < SMALL_AREA else 1 + int(rng.choice(len(POINT_COUNT_SHARES), p=POINT_COUNT_SHARES))
    # Squaring pulls points towards the middle.
    depth = interior_distance(inside)[rows, cols]
    weight = depth**2
    chosen = rng.choice(rows.size, size=min(k, rows.size), replace=False, p=weight / weight.sum())
    return np.stack([cols[chosen] + x0 + 0.5, rows[chosen] + y0 + 0.5], axis=1).astype(np.float64)


def jitter_box(
    box: Box, rng: np.random.Generator, *, width: int, height: int, amount: float = 0.1, min_side: float = 2.0
) -> Box:
    """A box as a person might draw it: every side moved by up to ``amount`` of the box's own size, inside the image.

    Args:
        box: ``(x0, y0, x1, y1)`` inside the image.
        rng: source of randomness.
        width: of the image, pixels.
        height: of the image, pixels.
        amount: largest move of a side as a share of the box's width (x) or height (y); below 0.5.
        min_side: a side that would become shorter than this (or fall outside the image) stays as it was.

    Raises:
        ConfigError: ``amount`` is not in [0, 0.5) or the box is empty.
    """
    x0, y0, x1, y1 = box
    if not 0 <= amount < 0.5:
        raise ConfigError("The jitter of a box is a share in [0, 0.5).", received=amount)
    if x0 >= x1 or y0 >= y1:
        raise ConfigError("A box must have an area.", received=box)
    left, top, right, bottom = rng.uniform(-amount, amount, 4)
    ends_x = _side(x0, x1, left, right, float(width), min_side)
    ends_y = _side(y0, y1, top, bottom, float(height), min_side)
    return ends_x[0], ends_y[0], ends_x[1], ends_y[1]


def _side(a: float, b: float, move_a: float, move_b: float, limit: float, min_side: float) -> tuple[float, float]:
    length = b - a
    low, high = max(0.0, a + move_a * length), min(limit, b + move_b * length)
    return (low, high) if high - low >= min(min_side, length, limit) else (a, b)
