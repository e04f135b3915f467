"""Cuts a crop out of an image, turned, flipped and scaled, and changes its light."""

from __future__ import annotations

import math
from dataclasses import dataclass
from io import BytesIO
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["CropMap", "change_light"]

_Floats: TypeAlias = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class CropMap:
    """An affine map from crop to source: ``source = matrix @ (crop - size / 2) + centre``.

    Attributes:
        size: crop side in pixels.
        centre: (x, y) in the source.
        matrix: 2 x 2.
    """

    size: int
    centre: tuple[float, float]
    matrix: tuple[tuple[float, float], tuple[float, float]]

    @classmethod
    def make(cls, size: int, centre: tuple[float, float], scale: float, turn: float, flip: bool) -> CropMap:
        """``scale``: crop pixels per source pixel; ``turn`` in radians; ``flip``: mirror x first."""
        c, s = math.cos(turn) / scale, math.sin(turn) / scale
        f = -1.0 if flip else 1.0
        return cls(size, centre, ((c * f, -s), (s * f, c)))

    @property
    def scale(self) -> float:
        """Crop pixels per source pixel."""
        return 1 / math.hypot(self.matrix[0][0], self.matrix[1][0])

    def _coefficients(self, reduced: int) -> tuple[float, ...]:
        (a, b), (d, e) = self.matrix
        half = self.size / 2
        c = self.centre[0] - (a + b) * half
        f = self.centre[1] - (d + e) * half
        return tuple(v / reduced for v in (a, b, c, d, e, f))

    def image(self, source: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Bilinear RGB crop (size, size, 3); black outside the source; box-filtered first when shrinking."""
        picture = Image.fromarray(source)
        reduced = max(1, round(1 / self.scale - 0.2))
        if reduced > 1:
            picture = picture.reduce(reduced)
        out = picture.transform(
            (self.size, self.size), Image.Transform.AFFINE, self._coefficients(reduced), Image.Resampling.BILINEAR
        )
        return np.asarray(out)

    def labels(self, source: NDArray[np.int32]) -> NDArray[np.int32]:
        """Nearest-neighbour crop of ids; 0 outside the source."""
        out = Image.fromarray(source, "I").transform(
            (self.size, self.size), Image.Transform.AFFINE, self._coefficients(1), Image.Resampling.NEAREST
        )
        return np.asarray(out, dtype=np.int32)

    def boxes(self, source: NDArray[np.float64]) -> NDArray[np.float64]:
        """Axis-aligned boxes (K, 4) into the crop, clipped; exact for quarter turns."""
        if len(source) == 0:
            return source
        corners = source[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        inverse = np.linalg.inv(np.asarray(self.matrix))
        moved = (corners - self.centre) @ inverse.T + self.size / 2
        out: NDArray[np.float64] = np.concatenate([moved.min(1), moved.max(1)], 1).clip(0, self.size)
        return out


def change_light(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Make a crop look as if another sensor, season, hour or stretch had made it; each change by chance.

    Exposure, contrast, gamma and colour cast; a percentile stretch of all bands together or of each alone; bands with
    another mean and spread; haze; saturation, grey, one band for all; noise, blur, coarser pixels, JPEG blocks.

    Args:
        image: uint8 (H, W, 3).
        rng: decides everything.

    Returns:
        uint8 (H, W, 3).
    """
    x = _exposure(image.astype(np.float32) / 255, rng)
    if rng.random() < 0.3:
        x = _restretched(x, rng)
    if rng.random() < 0.15:  # a veil of light, thicker on one side
        x = x + (rng.uniform(0.5, 1.0, 3).astype(np.float32) - x) * _ramp(x.shape[:2], rng) * rng.uniform(0.1, 0.5)
    grey = x.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.08 else np.exp(rng.normal(0, 0.35))
    x = grey + (x - grey) * saturation
    if rng.random() < 0.03:
        x = np.repeat(x[..., rng.integers(3), None], 3, 2)
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), (*x.shape[:2], 1))
    return _degraded((x.clip(0, 1) * 255).astype(np.uint8), rng)


def _exposure(x: _Floats, rng: np.random.Generator) -> _Floats:
    if rng.random() < 0.8:
        x = np.clip(x, 0, 1) ** np.exp(rng.normal(0, 0.3))
        x = (x - x.mean()) * np.exp(rng.normal(0, 0.25)) + x.mean() + rng.normal(0, 0.07)
        x = x * np.exp(rng.normal(0, 0.1, 3)).astype(np.float32)
    return x


def _restretched(x: _Floats, rng: np.random.Generator) -> _Floats:
    """Percentiles to 0 and 1, together or by band, or a new mean and spread of each band."""
    kind = rng.random()
    if kind < 0.67:
        axis = None if kind < 0.33 else (0, 1)
        low, high = np.percentile(x, (rng.uniform(0, 3), rng.uniform(97, 100)), axis=axis)
        return np.asarray((x - low) / np.maximum(high - low, 0.05), np.float32)
    mean, spread = x.mean((0, 1)), x.std((0, 1))
    wanted = rng.uniform(0.2, 0.65) + rng.normal(0, 0.05, 3), rng.uniform(0.08, 0.25) * np.exp(rng.normal(0, 0.1, 3))
    return np.asarray((x - mean) / np.maximum(spread, 0.02) * wanted[1] + wanted[0], np.float32)


def _ramp(size: tuple[int, ...], rng: np.random.Generator) -> _Floats:
    """Float32 (H, W, 1) in [0, 1], rising in a direction drawn by ``rng``."""
    angle = rng.uniform(0, 2 * np.pi)
    ys, xs = np.mgrid[-1 : 1 : size[0] * 1j, -1 : 1 : size[1] * 1j]
    plane = 0.5 + (xs * np.cos(angle) + ys * np.sin(angle)) * rng.uniform(0, 0.35)
    return np.asarray(plane.clip(0, 1)[..., None], np.float32)


def _degraded(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    picture = Image.fromarray(image)
    size = picture.size
    if rng.random() < 0.2:
        picture = picture.filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.5)))
    if rng.random() < 0.12:
        factor = rng.uniform(1.3, 3)
        coarse = max(1, round(size[0] / factor)), max(1, round(size[1] / factor))
        picture = picture.resize(coarse, Image.Resampling.BOX).resize(size, Image.Resampling.BILINEAR)
    if rng.random() < 0.12:
        packed = BytesIO()
        picture.save(packed, "JPEG", quality=int(rng.integers(25, 80)))
        picture = Image.open(packed)
    return np.asarray(picture)
