"""Flat colours and drawn detail: every thing of a site onto a supersampled canvas, in painter's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image, ImageDraw

from terraprompt.scene.rendered.site import Colour, Material, Points, Rect, Thing
from terraprompt.scene.rendered.streets import along

__all__ = ["Canvas", "Sun", "paint_things"]


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


class Canvas:
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


def _ring(thing: Thing) -> Points:
    return np.asarray(thing.polygon.exterior.coords, np.float64)


def _box(canvas: Canvas, rect: Rect, local: ArrayLike, rgb: Colour, material: Material | None = None) -> None:
    canvas.fill(rect.at(local), rgb, material)


def _plain(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    canvas.fill(_ring(thing), thing.rgb, thing.material)


def _stalls(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    rect = thing.rects[0]
    if not canvas.shows(0.16, 0.6):
        return
    module, stall = 16.4, 2.7
    paint = (214, 214, 208)
    for m in range(int(rect.width // module)):
        middle = -rect.width / 2 + module * (m + 0.5) + (rect.width % module) / 2
        for i in range(int((rect.length - 4) / stall) + 1):
            a = -rect.length / 2 + 2 + stall * i
            for side in (-1, 1):
                canvas.stroke(rect.at([(a, middle + side * 3.2), (a, middle + side * 8.0)]), paint, 0.14, least=0.4)


def _road(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if thing.line is None or thing.size < 6.0 or not canvas.shows(0.2, 0.8):
        return
    line, paint = thing.line, (212, 210, 200)
    step = np.hypot(*np.diff(line, axis=0).T)
    length = float(step.sum())
    starts = np.arange(2.0, length - 5, 9.0)
    ends = starts + 3.5
    lanes: Sequence[float] = (0.0,) if thing.size < 10 else (-thing.size / 4, 0.0, thing.size / 4)
    (p, heading), (q, turned) = along(line, starts), along(line, ends)
    for lane in lanes:
        a = p + lane * np.column_stack([-np.sin(heading), np.cos(heading)])
        b = q + lane * np.column_stack([-np.sin(turned), np.cos(turned)])
        for i in range(len(a)):
            canvas.stroke(np.stack([a[i], b[i]]), paint, 0.16, least=0.4)
    if canvas.shows(0.35):
        # Patches and the darker wheel paths keep asphalt from looking like paper.
        for lane in (-0.25, 0.25):
            at, way = along(line, np.arange(0, length, 6.0))
            canvas.stroke(at + lane * thing.size * np.column_stack([-np.sin(way), np.cos(way)]), tone(thing.rgb, 0.965), 1.6)
        for lane in lanes:
            a = p + lane * np.column_stack([-np.sin(heading), np.cos(heading)])
            b = q + lane * np.column_stack([-np.sin(turned), np.cos(turned)])
            for i in range(len(a)):
                canvas.stroke(np.stack([a[i], b[i]]), paint, 0.16, least=0.4)


def _track(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if thing.line is not None and canvas.shows(0.5):
        at, way = along(thing.line, np.arange(0, float(np.hypot(*np.diff(thing.line, axis=0).T).sum()), 5.0))
        for lane in (-0.8, 0.8):
            canvas.stroke(at + lane * np.column_stack([-np.sin(way), np.cos(way)]), tone(thing.rgb, 1.07), 0.55)


def _gable(canvas: Canvas, rect: Rect, rgb: Colour, material: Material, sun: Sun, slope: float) -> None:
    a, b = rect.length / 2, rect.width / 2
    for side in (-1, 1):
        facing = rect.angle + side * math.pi / 2
        _box(canvas, rect, [(-a, 0), (a, 0), (a, side * b), (-a, side * b)], tone(rgb, sun.light(slope, facing)), material)
    canvas.stroke(rect.at([(-a, 0), (a, 0)]), tone(rgb, 1.14), 0.25)


def _hip(canvas: Canvas, rect: Rect, rgb: Colour, material: Material, sun: Sun, slope: float) -> None:
    a, b = rect.length / 2, rect.width / 2
    ridge = a - b * 0.9
    for side in (-1, 1):
        facing = rect.angle + side * math.pi / 2
        _box(canvas, rect, [(-a, side * b), (a, side * b), (ridge, 0), (-ridge, 0)], tone(rgb, sun.light(slope, facing)), material)
        facing = rect.angle + (0 if side > 0 else math.pi)
        _box(canvas, rect, [(side * a, -b), (side * a, b), (side * ridge, 0)], tone(rgb, sun.light(slope, facing)), material)
    edge = tone(rgb, 1.12)
    canvas.stroke(rect.at([(-ridge, 0), (ridge, 0)]), edge, 0.22)
    if canvas.shows(0.15, 1):
        for i, j in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            canvas.stroke(rect.at([(i * ridge, 0), (i * a, j * b)]), edge, 0.15)


def _seams(canvas: Canvas, rect: Rect, rgb: Colour, sun: Sun, slope: float, pitch: float) -> None:
    """Lines down a metal roof, from ridge to eaves."""
    if not canvas.shows(pitch, 6):
        return
    b = rect.width / 2
    for side in (-1, 1):
        shade = tone(rgb, sun.light(slope, rect.angle + side * math.pi / 2) * 0.93)
        for s in np.arange(-rect.length / 2 + pitch, rect.length / 2, pitch):
            canvas.stroke(rect.at([(s, 0), (s, side * b)]), shade, 0.1, least=0.3)


def _flat_roof(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    rng = np.random.Generator(np.random.PCG64(int(thing.size * 2**31)))
    ring = _ring(thing)
    if canvas.shows(0.4, 1):
        canvas.stroke(ring, tone(thing.rgb, 1.12), 0.45)
        inner = thing.polygon.buffer(-0.45, join_style="mitre")
        if inner.geom_type == "Polygon" and not inner.is_empty and canvas.shows(0.25, 1):
            canvas.stroke(np.asarray(inner.exterior.coords), tone(thing.rgb, 0.82), 0.25)
    rect = thing.rects[-1]
    away = -np.array(sun.toward)
    if min(rect.length, rect.width) < 8:
        return
    for _ in range(int(rng.integers(1, 3 + int(min(22, rect.length * rect.width / 120))))):
        long = rng.uniform(0.9, 3.2)
        wide = long * rng.uniform(0.5, 1.0)
        if not canvas.shows(long, 2):
            continue
        spot = rect.part(rng.uniform(-0.42, 0.42) * (rect.length - 4), rng.uniform(-0.42, 0.42) * (rect.width - 4), long, wide)
        rise = rng.uniform(0.5, 1.6)
        cast = spot.corners() + away * rise / math.tan(sun.elevation)
        for corners in (cast, (cast + spot.corners()) / 2):
            canvas.fill(corners, tone(thing.rgb, 0.55))
        grey = int(rng.uniform(120, 225))
        canvas.fill(spot.corners(), (grey, grey, int(grey * 0.98)))
    if rect.length > 30 and rng.random() < 0.5:
        lights = tone((224, 230, 234), 1.0 if sum(thing.rgb) < 600 else 0.8)
        for s in np.arange(-rect.length / 2 + 5, rect.length / 2 - 4, rng.uniform(5, 9)):
            for side in (-0.25, 0.25):
                spot = rect.part(s, side * rect.width, 1.2, min(3.0, rect.width * 0.12))
                if canvas.shows(1.2):
                    canvas.fill(spot.corners(), lights)


def _pitched_roof(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    canvas.fill(_ring(thing), thing.rgb, thing.material)
    slope = math.radians(18 + 20 * thing.size)
    for rect in thing.rects:
        if thing.look == "roof-hip" and rect is thing.rects[-1]:
            _hip(canvas, rect, thing.rgb, thing.material, sun, slope)
        else:
            _gable(canvas, rect, thing.rgb, thing.material, sun, slope)
    rect = thing.rects[-1]
    if thing.size < 0.6 and canvas.shows(0.7, 2) and thing.kind == "house":
        chimney = rect.part(rect.length * (0.6 * thing.size - 0.2), 0.4, 0.8, 0.7)
        cast = chimney.corners() - np.array(sun.toward) * 1.2 / math.tan(sun.elevation)
        canvas.fill(cast, tone(thing.rgb, 0.6))
        canvas.fill(chimney.corners(), (146, 112, 98))


def _tin_roof(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    canvas.fill(_ring(thing), thing.rgb, thing.material)
    slope = math.radians(6 + 14 * thing.size)
    rng = np.random.Generator(np.random.PCG64(int(thing.size * 2**31)))
    for rect in thing.rects:
        if thing.size < 0.4 and rect.length < 14:
            canvas.fill(rect.corners(), tone(thing.rgb, sun.light(slope, rect.angle + math.pi / 2)), thing.material)
        else:
            _gable(canvas, rect, thing.rgb, thing.material, sun, slope)
        if canvas.shows(0.8, 3) and rect.length < 30:
            # Single sheets differ in age and rust.
            for _ in range(int(rng.integers(0, 5))):
                side = 1 if rng.random() < 0.5 else -1
                spot = rect.part(rng.uniform(-0.45, 0.45) * (rect.length - 1), side * rect.width / 4, 0.9, rect.width / 2)
                shift = rng.uniform(0.82, 1.14)
                r, g, b = tone(thing.rgb, shift * sun.light(slope, rect.angle + side * math.pi / 2))
                canvas.fill(spot.corners(), (r, int(g * rng.uniform(0.9, 1.0)), int(b * rng.uniform(0.82, 1.0))))
        _seams(canvas, rect, thing.rgb, sun, slope, 0.9 if rect.length < 30 else 1.6)


def _vehicle(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    canvas.fill(_ring(thing), thing.rgb, thing.material)
    rect = thing.rects[0]
    a, b = rect.length / 2, rect.width / 2
    if not canvas.shows(0.6, 2):
        return
    glass = (46, 52, 60)
    if thing.look == "truck":
        cab = a - 2.1
        _box(canvas, rect, [(cab, -b), (cab + 0.25, -b), (cab + 0.25, b), (cab, b)], (60, 60, 62))
        _box(canvas, rect, [(a - 0.75, -b * 0.85), (a - 0.35, -b * 0.8), (a - 0.35, b * 0.8), (a - 0.75, b * 0.85)], glass)
        _box(canvas, rect, [(-a + 0.3, -b * 0.8), (cab - 0.3, -b * 0.8), (cab - 0.3, b * 0.8), (-a + 0.3, b * 0.8)], tone(thing.rgb, 1.08))
        return
    _box(canvas, rect, [(a * 0.42, -b * 0.8), (a * 0.16, -b * 0.68), (a * 0.16, b * 0.68), (a * 0.42, b * 0.8)], glass)
    _box(canvas, rect, [(-a * 0.72, -b * 0.76), (-a * 0.54, -b * 0.66), (-a * 0.54, b * 0.66), (-a * 0.72, b * 0.76)], glass)
    if canvas.shows(0.2, 1.5):
        for side in (-1, 1):
            _box(canvas, rect, [(a * 0.12, side * b * 0.9), (-a * 0.5, side * b * 0.9), (-a * 0.5, side * b * 0.72), (a * 0.12, side * b * 0.72)], glass)
    _box(canvas, rect, [(a * 0.14, -b * 0.66), (-a * 0.5, -b * 0.66), (-a * 0.5, b * 0.66), (a * 0.14, b * 0.66)], tone(thing.rgb, 1.1))


def _tank(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    ring, rect, radius = _ring(thing), thing.rects[0], thing.size
    centre = np.array((rect.x, rect.y))
    canvas.fill(ring, tone(thing.rgb, 0.8), thing.material)
    inner = centre + (ring - centre) * 0.96
    if thing.kind == "floating roof":
        # The sunken roof: the wall on the sun's side throws a crescent of shadow onto it.
        canvas.fill(inner, tone(thing.rgb, 0.5))
        canvas.fill(centre + (ring - centre) * 0.8 - np.array(sun.toward) * radius * 0.15, tone(thing.rgb, 0.86))
    else:
        spokes = 20
        angles = np.linspace(0, 2 * np.pi, spokes + 1)
        for i in range(spokes):
            facing = (angles[i] + angles[i + 1]) / 2
            rim = centre + 0.96 * radius * np.array([(math.cos(t), math.sin(t)) for t in (angles[i], facing, angles[i + 1])])
            canvas.fill(np.concatenate([[centre], rim]), tone(thing.rgb, sun.light(math.radians(10), facing)))
    if canvas.shows(0.8):
        canvas.fill(centre + (ring - centre) * 0.06, tone(thing.rgb, 0.7))
        turn = rect.angle
        for i in range(7):
            t0, t1 = turn + 0.09 * i, turn + 0.09 * (i + 1)
            step = radius * 0.99 * np.array([(math.cos(t), math.sin(t)) for t in (t0, t1)]) + centre
            canvas.stroke(step, tone(thing.rgb, 0.6), 0.6)


def _court(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    rect, paint = thing.rects[0], (226, 228, 222)
    kind = thing.kind

    def lines(*paths: list[tuple[float, float]], width: float = 0.14) -> None:
        for path in paths:
            canvas.stroke(rect.at(path), paint, width, least=0.3)

    def frame(a: float, b: float) -> list[tuple[float, float]]:
        return [(-a, -b), (a, -b), (a, b), (-a, b), (-a, -b)]

    def arc(x: float, y: float, r: float, start: float, stop: float) -> list[tuple[float, float]]:
        return [(x + r * math.cos(t), y + r * math.sin(t)) for t in np.linspace(start, stop, 18)]

    if kind == "tennis":
        _box(canvas, rect, frame(11.9, 5.5)[:4], tone(thing.rgb, 0.84))
        lines(frame(11.885, 5.485), frame(11.885, 4.115), frame(6.4, 4.115), [(-6.4, 0), (6.4, 0)], width=0.16)
        canvas.stroke(rect.at([(0, -6.4), (0, 6.4)]), (60, 60, 60), 0.14, least=0.3)
    elif kind == "basketball":
        lines(frame(13.4, 7.1), [(0, -7.1), (0, 7.1)], arc(0, 0, 1.8, 0, 2 * math.pi))
        for side in (-1, 1):
            x = side * 13.4
            _box(canvas, rect, [(x, -2.45), (x - side * 5.8, -2.45), (x - side * 5.8, 2.45), (x, 2.45)], tone(thing.rgb, 0.8))
            half = math.pi / 2
            lines(arc(x - side * 1.5, 0, 6.75, half, -half) if side < 0 else arc(x - side * 1.5, 0, 6.75, half, 3 * half))
    else:
        for i in range(10):
            x = -52.5 + 10.5 * i
            _box(canvas, rect, [(x, -34), (x + 10.5, -34), (x + 10.5, 34), (x, 34)], tone(thing.rgb, 1.05 if i % 2 else 0.95))
        lines(frame(50.0, 32.0), [(0, -32.0), (0, 32.0)], arc(0, 0, 9.15, 0, 2 * math.pi), width=0.25)
        for side in (-1, 1):
            x = side * 50.0
            lines([(x, -20), (x - side * 16.5, -20), (x - side * 16.5, 20), (x, 20)], width=0.25)
            lines([(x, -9), (x - side * 5.5, -9), (x - side * 5.5, 9), (x, 9)], width=0.25)


def _panel(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    rect = thing.rects[0]
    a, b = rect.length / 2, rect.width / 2
    frame = tone(thing.rgb, 1.55)
    if canvas.shows(0.06, 0.25):
        for s in np.arange(-a + 1.02, a, 1.02):
            canvas.stroke(rect.at([(s, -b), (s, b)]), frame, 0.06, least=0.2)
        for t in np.arange(-b + 1.66, b - 0.3, 1.66):
            canvas.stroke(rect.at([(-a, t), (a, t)]), frame, 0.06, least=0.2)
    canvas.stroke(rect.at([(-a, -b), (a, -b)]), tone(thing.rgb, 1.9), 0.12)


def _pool(canvas: Canvas, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if canvas.shows(0.5):
        rect = thing.rects[0]
        centre = np.array((rect.x, rect.y))
        canvas.fill(centre + (_ring(thing) - centre) * 0.72 + rect.at((0.4, 0)) - centre, tone(thing.rgb, 0.92))


_LOOKS: dict[str, Callable[[Canvas, Thing, Sun], None]] = {
    "stalls": _stalls,
    "road": _road,
    "track": _track,
    "roof-flat": _flat_roof,
    "roof-gable": _pitched_roof,
    "roof-hip": _pitched_roof,
    "roof-tin": _tin_roof,
    "car": _vehicle,
    "truck": _vehicle,
    "tank": _tank,
    "court-tennis": _court,
    "court-basketball": _court,
    "court-football": _court,
    "panel": _panel,
    "pool": _pool,
}


def paint_things(canvas: Canvas, things: Sequence[Thing], sun: Sun) -> None:
    """Draw all things, which come in painter's order."""
    for thing in things:
        _LOOKS.get(thing.look, _plain)(canvas, thing, sun)
