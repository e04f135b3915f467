"""Cuts a crop out of an image, turned, flipped and scaled, and changes its light."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFilter

__all__ = ["CropMap", "change_light"]


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
    """Exposure, contrast, gamma, colour cast, saturation, grey, blur and noise, each by chance."""
    x = image.astype(np.float32) / 255
    if rng.random() < 0.8:
        low, high = np.percentile(x, (1, 99)) if rng.random() < 0.25 else (0.0, 1.0)
        x = np.clip((x - low) / max(high - low, 0.05), 0, 1) ** np.exp(rng.normal(0, 0.2))
        x = (x - x.mean()) * np.exp(rng.normal(0, 0.15)) + x.mean() + rng.normal(0, 0.05)
        x = x * np.exp(rng.normal(0, 0.06, 3)).astype(np.float32)
    grey = x.mean(2, keepdims=True)
    saturation = 0.0 if rng.random() < 0.06 else np.exp(rng.normal(0, 0.25))
    x = grey + (x - grey) * saturation
    if rng.random() < 0.2:
        x = x + rng.normal(0, rng.uniform(0.005, 0.04), (*x.shape[:2], 1))
    out: NDArray[np.uint8] = (x.clip(0, 1) * 255).astype(np.uint8)
    if rng.random() < 0.2:
        out = np.asarray(Image.fromarray(out).filter(ImageFilter.GaussianBlur(rng.uniform(0.4, 1.3))))
    return out
