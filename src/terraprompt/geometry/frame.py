"""Where a pixel goes: :class:`Frame`, the one map between an image and the grid a model sees, both ways.

All coordinates are continuous pixel coordinates: x to the right, y down, (0, 0) the outer corner of the first pixel,
so the centre of the first pixel is (0.5, 0.5). Sizes are (height, width), points (x, y), boxes (x0, y0, x1, y1).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from terraprompt.errors import ConfigError
from terraprompt.geometry.types import Size

__all__ = ["Frame"]


def _checked(size: Size, what: str) -> Size:
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1:
        raise ConfigError(f"{what} must be at least 1 x 1 pixels.", received=size)
    return height, width


@dataclass(frozen=True, slots=True)
class Frame:
    """An axis-aligned map of a source image region onto a model grid: scale, then shift.

    ``model_x = (source_x - left) * scale_x + pad_x`` and the same for y.

    Attributes:
        source: (height, width) of the whole source image.
        window: (left, top, width, height) of the region that is mapped, in source pixels; may reach outside.
        content: (height, width) that the region takes on the model grid.
        pad: (left, top) padding before the content on the model grid.
        grid: (height, width) of the model grid.
    """

    source: Size
    window: tuple[float, float, float, float]
    content: Size
    pad: tuple[int, int]
    grid: Size

    @classmethod
    def letterbox(cls, source: Size, size: int) -> Frame:
        """Longer side becomes ``size``, the other ``int(side * size / longer)``, centred padding (UniGeoSeg)."""
        height, width = _checked(source, "An image")
        size, _ = _checked((size, size), "A grid")
        longer = max(height, width)
        content = (max(1, int(height * size / longer)), max(1, int(width * size / longer)))
        pad = ((size - content[1]) // 2, (size - content[0]) // 2)
        return cls((height, width), (0.0, 0.0, float(width), float(height)), content, pad, (size, size))

    @classmethod
    def stretch(cls, source: Size, grid: Size) -> Frame:
        """The whole image onto the whole grid, aspect ratio not kept."""
        height, width = _checked(source, "An image")
        return cls(
            (height, width),
            (0.0, 0.0, float(width), float(height)),
            _checked(grid, "A grid"),
            (0, 0),
            _checked(grid, "A grid"),
        )

    @classmethod
    def crop(cls, source: Size, window: tuple[float, float, float, float], grid: Size) -> Frame:
        """The region ``(left, top, width, height)`` onto the whole grid."""
        if not (np.isfinite(window).all() and window[2] > 0 and window[3] > 0):
            raise ConfigError("A crop needs a finite place and a positive width and height.", received=window)
        grid = _checked(grid, "A grid")
        return cls(_checked(source, "An image"), window, grid, (0, 0), grid)

    @property
    def scale(self) -> tuple[float, float]:
        """(x, y) model pixels per source pixel."""
        return self.content[1] / self.window[2], self.content[0] / self.window[3]

    def points(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Source points ``(..., 2)`` to model points."""
        return (np.asarray(xy, np.float64) - self.window[:2]) * self.scale + self.pad

    def points_back(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Model points ``(..., 2)`` to source points; the inverse of :meth:`points`."""
        return (np.asarray(xy, np.float64) - self.pad) / self.scale + self.window[:2]

    def boxes(self, xyxy: ArrayLike) -> NDArray[np.float64]:
        """Source boxes ``(..., 4)`` to model boxes."""
        xyxy = np.asarray(xyxy, np.float64)
        return np.concatenate([self.points(xyxy[..., :2]), self.points(xyxy[..., 2:])], axis=-1)

    def boxes_back(self, xyxy: ArrayLike) -> NDArray[np.float64]:
        """Model boxes ``(..., 4)`` to source boxes."""
        xyxy = np.asarray(xyxy, np.float64)
        return np.concatenate([self.points_back(xyxy[..., :2]), self.points_back(xyxy[..., 2:])], axis=-1)

    def crop_content(self, grid_array: NDArray[np.generic]) -> NDArray[np.generic]:
        """The un-padded part of an array ``(..., grid height, grid width)``."""
        left, top = self.pad
        return grid_array[..., top : top + self.content[0], left : left + self.content[1]]
