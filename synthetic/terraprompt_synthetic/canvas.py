"""What things are painted on, and the light that they are painted in."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from terraprompt_synthetic.site import Colour, Material, Points, Rect, Thing

__all__ = ["MaskWriter", "Sun", "outline", "tone"]


@dataclass(frozen=True, slots=True)
class Sun:
    """Where the light comes from: direction in the picture (x right, y down) and elevation, radians."""

    azimuth: float
    elevation: float

    @property
    def toward(self) -> tuple[float, float]:
        """Unit vector on the ground towards the sun."""
        return math.cos(self.azimuth), math.sin(self.azimuth)

    def light(self, slope: float, facing: float) -> float:
        """Brightness of a plane of the given slope that faces direction ``facing``; flat ground is 1."""
        across = math.cos(facing - self.azimuth) * math.cos(self.elevation) * math.sin(slope)
        direct = max(0.0, across + math.sin(self.elevation) * math.cos(slope))
        return 0.42 + 0.58 * min(1.7, direct / math.sin(self.elevation))


class MaskWriter:
    """A colour image at ``scale`` times the scene's resolution and a material image at the scene's own."""

    def __init__(self, shape: tuple[int, int], gsd: float, scale: int, ground: Colour, material: Material) -> None:
        height, width = shape
        self.gsd, self.scale = gsd, scale
        self.per_m = scale / gsd
        self.image = Image.new("RGB", (width * scale, height * scale), ground)
        self.material = Image.new("L", (width, height), int(material))
        self._draw = ImageDraw.Draw(self.image)
        self._mark = ImageDraw.Draw(self.material)

    def fill(self, points: Points, rgb: Colour, material: Material | None = None) -> None:
        """Fill a ring (N, 2) in metres."""
        self._draw.polygon(np.round(points * self.per_m - 0.5).ravel().tolist(), fill=rgb)
        if material is not None:
            self._mark.polygon(np.round(points / self.gsd - 0.5).ravel().tolist(), fill=int(material))

    def patch(self, rect: Rect, local: ArrayLike, rgb: Colour, material: Material | None = None) -> None:
        """Fill a ring given in the local metres of a rectangle."""
        self.fill(rect.at(local), rgb, material)

    def stroke(self, points: Points, rgb: Colour, width: float, *, least: float = 0.7) -> None:
        """Draw a polyline ``width`` metres wide, unless it would be under ``least`` canvas pixels."""
        if width * self.per_m >= least:
            flat = np.round(points * self.per_m - 0.5).ravel().tolist()
            self._draw.line(flat, fill=rgb, width=max(1, round(width * self.per_m)), joint="curve")

    def shows(self, size: float, pixels: float = 2.0) -> bool:
        """Whether something ``size`` metres long covers that many pixels of the canvas."""
        return size * self.per_m >= pixels

    def reduced(self) -> NDArray[np.float32]:
        """float32 (H, W, 3), each pixel the mean of its part of the canvas."""
        return np.asarray(self.image.reduce(self.scale), np.float32)


def tone(rgb: Colour, gain: float) -> Colour:
    """The colour made brighter or darker."""
    r, g, b = (min(255, max(0, round(c * gain))) for c in rgb)
    return r, g, b


def outline(thing: Thing) -> Points:
    """The outer ring of a thing, (N, 2) in metres."""
    return np.asarray(thing.polygon.exterior.coords, np.float64)
