"""The plot of ground under construction: what stands where, in metres, x to the right and y down."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, TypeVar

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw
from shapely.geometry import Polygon

__all__ = ["Colour", "Layer", "Material", "Paint", "Rect", "Site", "Thing", "pick", "vary"]

Colour = tuple[int, int, int]
Points = NDArray[np.float64]
T = TypeVar("T")


class Layer(IntEnum):
    """Painter's order, lowest first. Only SURFACE holds things without a category, and only BASE lies below it."""

    BASE = 0
    SURFACE = 1
    WATER = 2
    ROAD = 3
    FLOOR = 4
    VEHICLE = 5
    STRUCTURE = 6
    FIXTURE = 7
    CROWN = 8


class Material(IntEnum):
    """What a pixel is made of: chooses its texture."""

    GRASS = 0
    DRY = 1
    SOIL = 2
    ASPHALT = 3
    CONCRETE = 4
    TILE = 5
    FLAT_ROOF = 6
    TIN = 7
    FOLIAGE = 8
    WATER = 9
    SMOOTH = 10
    CROP = 11


@dataclass(frozen=True, slots=True)
class Paint:
    """A named colour with the weight it is drawn with."""

    name: str
    rgb: Colour
    weight: float = 1.0


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in metres: centre, direction of its length in radians, length and width."""

    x: float
    y: float
    angle: float
    length: float
    width: float

    def at(self, local: ArrayLike) -> Points:
        """Local offsets ``(..., 2)`` (along the length, across it) to site points."""
        p = np.asarray(local, np.float64)
        cos, sin = math.cos(self.angle), math.sin(self.angle)
        return np.asarray(p @ np.array(((cos, sin), (-sin, cos))) + (self.x, self.y))

    def corners(self, grow: float = 0.0) -> Points:
        """(4, 2) corners in order, each side moved out by ``grow`` metres."""
        a, b = self.length / 2 + grow, self.width / 2 + grow
        return self.at([(-a, -b), (a, -b), (a, b), (-a, b)])

    def polygon(self, grow: float = 0.0) -> Polygon:
        """The same as a polygon."""
        return Polygon(self.corners(grow))

    def part(self, along: float, across: float, length: float, width: float, turn: float = 0.0) -> Rect:
        """A rectangle placed at a local offset, turned relative to this one."""
        x, y = self.at((along, across))
        return Rect(float(x), float(y), self.angle + turn, length, width)


@dataclass(slots=True, eq=False)
class Thing:
    """One thing to paint. With a category it is an object of the truth, without it is mere surroundings.

    ``polygon`` is the outline in metres; ``rects`` are the parts of a roof, a court and the like; ``line`` is the
    centre line of a road; ``height`` in metres casts the shadow.
    """

    category: str | None
    polygon: Polygon
    layer: Layer
    look: str
    rgb: Colour
    material: Material
    colour: str = ""
    kind: str = ""
    height: float = 0.0
    rects: tuple[Rect, ...] = ()
    line: Points | None = None
    size: float = 0.0
    parent: Thing | None = None


@dataclass(slots=True)
class Site:
    """Extent, random source, the things built so far and a raster of what is taken.

    Args:
        width, height: of the scene in metres; things may stand up to ``margin`` metres outside it.
        rng: the only source of chance.
    """

    width: float
    height: float
    rng: np.random.Generator
    margin: float = 40.0
    ground: Colour = (104, 116, 74)
    ground_material: Material = Material.GRASS
    things: list[Thing] = field(default_factory=list)
    _image: Image.Image = field(init=False, repr=False)
    _draw: ImageDraw.ImageDraw = field(init=False, repr=False)
    _pixels: Any = field(init=False, repr=False)
    _per_m: float = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._per_m = 2.0 if max(self.width, self.height) < 700 else 1.0
        size = [math.ceil((side + 2 * self.margin) * self._per_m) + 1 for side in (self.width, self.height)]
        self._image = Image.new("L", (size[0], size[1]))
        self._draw = ImageDraw.Draw(self._image)
        self._pixels = self._image.load()

    @property
    def area(self) -> float:
        """Ground that is built on, margin included, in m2."""
        return (self.width + 2 * self.margin) * (self.height + 2 * self.margin)

    def add(self, thing: Thing, *, claim: float | None = None) -> Thing:
        """Put a thing down; ``claim`` takes its ground, grown by that many metres."""
        self.things.append(thing)
        if claim is not None:
            self.claim(thing.polygon, claim)
        return thing

    def near(self, x: float, y: float, reach: float = 0.0) -> bool:
        """Whether a disc touches the site (margin included)."""
        edge = self.margin + reach
        return -edge <= x <= self.width + edge and -edge <= y <= self.height + edge

    def claim(self, polygon: Polygon, grow: float = 0.0) -> None:
        """Take the ground of a polygon."""
        outline = polygon.buffer(grow, join_style="mitre") if grow else polygon
        for part in getattr(outline, "geoms", [outline]):
            xy = (np.asarray(part.exterior.coords) + self.margin) * self._per_m
            self._draw.polygon(xy.round().ravel().tolist(), fill=255)

    def taken(self, points: Points) -> bool:
        """Whether any of the points (N, 2) lies on taken ground."""
        wide, tall = self._image.size
        pixel = self._pixels
        for x, y in ((points + self.margin) * self._per_m).astype(int).tolist():
            if 0 <= x < wide and 0 <= y < tall and pixel[x, y]:
                return True
        return False

    def free(self, rect: Rect, grow: float = 0.0) -> bool:
        """Whether a rectangle touches the site and none of its corners, edge midpoints and inner points is taken."""
        if not self.near(rect.x, rect.y, rect.length / 2):
            return False
        a, b = rect.length / 2 + grow, rect.width / 2 + grow
        steps = [(i / 2, j / 2) for i in (-2, -1, 0, 1, 2) for j in (-2, 0, 2)]
        if rect.length > 24 or rect.width > 24:
            nodes = np.linspace(-1, 1, max(5, int(max(rect.length, rect.width) / 5)))
            steps = [(i, j) for i in nodes for j in nodes]
        return not self.taken(rect.at([(a * i, b * j) for i, j in steps]))


def pick(rng: np.random.Generator, options: Sequence[T], weights: Sequence[float] | None = None) -> T:
    """One of the options; much cheaper than ``Generator.choice``."""
    if weights is None:
        return options[int(rng.random() * len(options))]
    mark = rng.random() * sum(weights)
    for option, weight in zip(options, weights, strict=True):
        mark -= weight
        if mark < 0:
            return option
    return options[-1]


def vary(rng: np.random.Generator, rgb: Colour, spread: float = 0.08, tint: float = 4.0) -> Colour:
    """The colour a little brighter or darker and a little off hue."""
    gain = 1 + spread * (2 * rng.random() - 1)
    r, g, b = (min(255, max(0, round(c * gain + tint * (2 * rng.random() - 1)))) for c in rgb)
    return r, g, b
