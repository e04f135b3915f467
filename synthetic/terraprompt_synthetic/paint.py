"""Flat colours and drawn detail: every thing of a site onto a supersampled canvas, in painter's order."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from terraprompt_synthetic.canvas import MaskWriter, Sun, outline, tone
from terraprompt_synthetic.roofs import flat_roof, pitched_roof, tin_roof
from terraprompt_synthetic.site import Thing
from terraprompt_synthetic.streets import beside

__all__ = ["paint_things"]


def _plain(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    canvas.fill(outline(thing), thing.rgb, thing.material)


def _stalls(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
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


def _road(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if thing.line is None or thing.size < 6.0 or not canvas.shows(0.2, 0.8):
        return
    line, width = thing.line, thing.size
    length = float(np.hypot(*np.diff(line, axis=0).T).sum())
    if canvas.shows(0.35):
        # Darker wheel paths keep asphalt from looking like paper.
        for lane in (-0.25 * width, 0.25 * width):
            canvas.stroke(beside(line, np.arange(0, length, 6.0), lane), tone(thing.rgb, 0.965), 1.6)
    starts = np.arange(2.0, length - 5, 9.0)
    for lane in (0.0,) if width < 10 else (-width / 4, 0.0, width / 4):
        for dash in np.stack([beside(line, starts, lane), beside(line, starts + 3.5, lane)], axis=1):
            canvas.stroke(dash, (212, 210, 200), 0.16, least=0.4)


def _track(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if thing.line is not None and canvas.shows(0.5):
        length = float(np.hypot(*np.diff(thing.line, axis=0).T).sum())
        for lane in (-0.8, 0.8):
            canvas.stroke(beside(thing.line, np.arange(0, length, 5.0), lane), tone(thing.rgb, 1.07), 0.55)


def _vehicle(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    canvas.fill(outline(thing), thing.rgb, thing.material)
    rect = thing.rects[0]
    a, b = rect.length / 2, rect.width / 2
    if not canvas.shows(0.6, 2):
        return
    glass = (46, 52, 60)
    if thing.look == "truck":
        cab = a - 2.1
        canvas.patch(rect, [(cab, -b), (cab + 0.25, -b), (cab + 0.25, b), (cab, b)], (60, 60, 62))
        canvas.patch(
            rect,
            [(a - 0.75, -b * 0.85), (a - 0.35, -b * 0.8), (a - 0.35, b * 0.8), (a - 0.75, b * 0.85)],
            glass,
        )
        canvas.patch(
            rect,
            [(-a + 0.3, -b * 0.8), (cab - 0.3, -b * 0.8), (cab - 0.3, b * 0.8), (-a + 0.3, b * 0.8)],
            tone(thing.rgb, 1.08),
        )
        return
    canvas.patch(
        rect,
        [(a * 0.42, -b * 0.8), (a * 0.16, -b * 0.68), (a * 0.16, b * 0.68), (a * 0.42, b * 0.8)],
        glass,
    )
    canvas.patch(
        rect,
        [(-a * 0.72, -b * 0.76), (-a * 0.54, -b * 0.66), (-a * 0.54, b * 0.66), (-a * 0.72, b * 0.76)],
        glass,
    )
    if canvas.shows(0.2, 1.5):
        for side in (-1, 1):
            canvas.patch(
                rect,
                [
                    (a * 0.12, side * b * 0.9),
                    (-a * 0.5, side * b * 0.9),
                    (-a * 0.5, side * b * 0.72),
                    (a * 0.12, side * b * 0.72),
                ],
                glass,
            )
    canvas.patch(
        rect,
        [(a * 0.14, -b * 0.66), (-a * 0.5, -b * 0.66), (-a * 0.5, b * 0.66), (a * 0.14, b * 0.66)],
        tone(thing.rgb, 1.1),
    )


def _tank(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    ring, rect, radius = outline(thing), thing.rects[0], thing.size
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
            rim = centre + 0.96 * radius * np.array(
                [(math.cos(t), math.sin(t)) for t in (angles[i], facing, angles[i + 1])]
            )
            canvas.fill(np.concatenate([[centre], rim]), tone(thing.rgb, sun.light(math.radians(10), facing)))
    if canvas.shows(0.8):
        canvas.fill(centre + (ring - centre) * 0.06, tone(thing.rgb, 0.7))
        turn = rect.angle
        for i in range(7):
            t0, t1 = turn + 0.09 * i, turn + 0.09 * (i + 1)
            step = radius * 0.99 * np.array([(math.cos(t), math.sin(t)) for t in (t0, t1)]) + centre
            canvas.stroke(step, tone(thing.rgb, 0.6), 0.6)


def _court(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
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
        canvas.patch(rect, frame(11.9, 5.5)[:4], tone(thing.rgb, 0.84))
        lines(frame(11.885, 5.485), frame(11.885, 4.115), frame(6.4, 4.115), [(-6.4, 0), (6.4, 0)], width=0.16)
        canvas.stroke(rect.at([(0, -6.4), (0, 6.4)]), (60, 60, 60), 0.14, least=0.3)
    elif kind == "basketball":
        lines(frame(13.4, 7.1), [(0, -7.1), (0, 7.1)], arc(0, 0, 1.8, 0, 2 * math.pi))
        for side in (-1, 1):
            x = side * 13.4
            canvas.patch(
                rect,
                [(x, -2.45), (x - side * 5.8, -2.45), (x - side * 5.8, 2.45), (x, 2.45)],
                tone(thing.rgb, 0.8),
            )
            half = math.pi / 2
            lines(
                arc(x - side * 1.5, 0, 6.75, half, -half) if side < 0 else arc(x - side * 1.5, 0, 6.75, half, 3 * half)
            )
    else:
        for i in range(10):
            x = -52.5 + 10.5 * i
            canvas.patch(
                rect,
                [(x, -34), (x + 10.5, -34), (x + 10.5, 34), (x, 34)],
                tone(thing.rgb, 1.05 if i % 2 else 0.95),
            )
        lines(frame(50.0, 32.0), [(0, -32.0), (0, 32.0)], arc(0, 0, 9.15, 0, 2 * math.pi), width=0.25)
        for side in (-1, 1):
            x = side * 50.0
            lines([(x, -20), (x - side * 16.5, -20), (x - side * 16.5, 20), (x, 20)], width=0.25)
            lines([(x, -9), (x - side * 5.5, -9), (x - side * 5.5, 9), (x, 9)], width=0.25)


def _panel(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
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


def _pool(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    _plain(canvas, thing, sun)
    if canvas.shows(0.5):
        rect = thing.rects[0]
        centre = np.array((rect.x, rect.y))
        canvas.fill(centre + (outline(thing) - centre) * 0.72 + rect.at((0.4, 0)) - centre, tone(thing.rgb, 0.92))


_LOOKS: dict[str, Callable[[MaskWriter, Thing, Sun], None]] = {
    "stalls": _stalls,
    "road": _road,
    "track": _track,
    "roof-flat": flat_roof,
    "roof-gable": pitched_roof,
    "roof-hip": pitched_roof,
    "roof-tin": tin_roof,
    "car": _vehicle,
    "truck": _vehicle,
    "tank": _tank,
    "court-tennis": _court,
    "court-basketball": _court,
    "court-football": _court,
    "panel": _panel,
    "pool": _pool,
}


def paint_things(canvas: MaskWriter, things: Sequence[Thing], sun: Sun) -> None:
    """Draw all things, which come in painter's order."""
    for thing in things:
        _LOOKS.get(thing.look, _plain)(canvas, thing, sun)
