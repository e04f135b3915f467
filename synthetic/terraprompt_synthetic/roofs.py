"""Roofs: ridges and valleys, lit and shaded sides, tiles, sheets, parapets and what stands on flat roofs."""

from __future__ import annotations

import math

import numpy as np

from terraprompt_synthetic.canvas import MaskWriter, Sun, outline, tone
from terraprompt_synthetic.site import Colour, Material, Rect, Thing

__all__ = ["flat_roof", "pitched_roof", "tin_roof"]


def _gable(canvas: MaskWriter, rect: Rect, rgb: Colour, material: Material, sun: Sun, slope: float) -> None:
    a, b = rect.length / 2, rect.width / 2
    for side in (-1, 1):
        facing = rect.angle + side * math.pi / 2
        canvas.patch(
            rect,
            [(-a, 0), (a, 0), (a, side * b), (-a, side * b)],
            tone(rgb, sun.light(slope, facing)),
            material,
        )
    canvas.stroke(rect.at([(-a, 0), (a, 0)]), tone(rgb, 1.14), 0.25)


def _hip(canvas: MaskWriter, rect: Rect, rgb: Colour, material: Material, sun: Sun, slope: float) -> None:
    a, b = rect.length / 2, rect.width / 2
    ridge = a - b * 0.9
    for side in (-1, 1):
        facing = rect.angle + side * math.pi / 2
        canvas.patch(
            rect,
            [(-a, side * b), (a, side * b), (ridge, 0), (-ridge, 0)],
            tone(rgb, sun.light(slope, facing)),
            material,
        )
        facing = rect.angle + (0 if side > 0 else math.pi)
        canvas.patch(
            rect,
            [(side * a, -b), (side * a, b), (side * ridge, 0)],
            tone(rgb, sun.light(slope, facing)),
            material,
        )
    edge = tone(rgb, 1.12)
    canvas.stroke(rect.at([(-ridge, 0), (ridge, 0)]), edge, 0.22)
    if canvas.shows(0.15, 1):
        for i, j in ((-1, -1), (-1, 1), (1, -1), (1, 1)):
            canvas.stroke(rect.at([(i * ridge, 0), (i * a, j * b)]), edge, 0.15)


def _courses(canvas: MaskWriter, rect: Rect, rgb: Colour, sun: Sun, slope: float, ridge: float) -> None:
    """Rows of tiles along the eaves, where the picture is fine enough to show them."""
    pitch = 0.38
    if not canvas.shows(pitch, 8):
        return
    a, b = rect.length / 2, rect.width / 2
    for side in (-1, 1):
        shade = tone(rgb, 0.9 * sun.light(slope, rect.angle + side * math.pi / 2))
        for t in np.arange(pitch, b - 0.2, pitch):
            half = ridge + (a - ridge) * t / b
            canvas.stroke(rect.at([(-half, side * t), (half, side * t)]), shade, 0.06, least=0.2)


def _seams(canvas: MaskWriter, rect: Rect, rgb: Colour, sun: Sun, slope: float, pitch: float) -> None:
    """Lines down a metal roof, from ridge to eaves."""
    if not canvas.shows(pitch, 6):
        return
    b = rect.width / 2
    for side in (-1, 1):
        shade = tone(rgb, sun.light(slope, rect.angle + side * math.pi / 2) * 0.93)
        for s in np.arange(-rect.length / 2 + pitch, rect.length / 2, pitch):
            canvas.stroke(rect.at([(s, 0), (s, side * b)]), shade, 0.1, least=0.3)


def flat_roof(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    """A flat roof: parapet, and what stands on it."""
    canvas.fill(outline(thing), thing.rgb, thing.material)
    rng = np.random.Generator(np.random.PCG64(int(thing.size * 2**31)))
    ring = outline(thing)
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
        spot = rect.part(
            rng.uniform(-0.42, 0.42) * (rect.length - 4),
            rng.uniform(-0.42, 0.42) * (rect.width - 4),
            long,
            wide,
        )
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


def pitched_roof(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    """A gabled or hipped roof of tiles: lit slopes, courses, perhaps a chimney."""
    canvas.fill(outline(thing), thing.rgb, thing.material)
    slope = math.radians(18 + 20 * thing.size)
    for rect in thing.rects:
        if thing.look == "roof-hip" and rect is thing.rects[-1]:
            _hip(canvas, rect, thing.rgb, thing.material, sun, slope)
            _courses(canvas, rect, thing.rgb, sun, slope, rect.length / 2 - rect.width * 0.45)
        else:
            _gable(canvas, rect, thing.rgb, thing.material, sun, slope)
            _courses(canvas, rect, thing.rgb, sun, slope, rect.length / 2)
    rect = thing.rects[-1]
    if thing.size < 0.6 and canvas.shows(0.7, 2) and thing.kind == "house":
        chimney = rect.part(rect.length * (0.6 * thing.size - 0.2), 0.4, 0.8, 0.7)
        cast = chimney.corners() - np.array(sun.toward) * 1.2 / math.tan(sun.elevation)
        canvas.fill(cast, tone(thing.rgb, 0.6))
        canvas.fill(chimney.corners(), (146, 112, 98))


def tin_roof(canvas: MaskWriter, thing: Thing, sun: Sun) -> None:
    """A roof of metal sheets of different age."""
    canvas.fill(outline(thing), thing.rgb, thing.material)
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
                spot = rect.part(
                    rng.uniform(-0.45, 0.45) * (rect.length - 1), side * rect.width / 4, 0.9, rect.width / 2
                )
                shift = rng.uniform(0.82, 1.14)
                r, g, b = tone(thing.rgb, shift * sun.light(slope, rect.angle + side * math.pi / 2))
                canvas.fill(spot.corners(), (r, int(g * rng.uniform(0.9, 1.0)), int(b * rng.uniform(0.82, 1.0))))
        _seams(canvas, rect, thing.rgb, sun, slope, 0.9 if rect.length < 30 else 1.6)
