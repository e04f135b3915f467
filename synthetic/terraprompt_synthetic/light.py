"""From flat colours to a photograph: textures, furrows, water, crowns in relief, cast shadows, haze and the sensor."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from terraprompt_synthetic.canvas import Sun
from terraprompt_synthetic.noise import fractal
from terraprompt_synthetic.site import Material, Thing

__all__ = ["Relief", "cast_shadows", "expose", "raise_crowns", "shade_crowns", "texture", "till", "water"]

Floats = NDArray[np.float32]
Bools = NDArray[np.bool_]

# Per material: strength of the noise of single pixels, of grain (under 1 m), of clumps (1 to 8 m) and of mottling (over
# 10 m), cover by scrub, then the colour that the second mottling adds or takes (vegetation dries, earth darkens where
# wet, tin rusts).
_TEXTURE: dict[Material, tuple[float, float, float, float, float, tuple[float, float, float]]] = {
    Material.GRASS: (0.060, 0.13, 0.12, 0.08, 0.45, (11, 4, 0)),
    Material.DRY: (0.060, 0.14, 0.12, 0.08, 0.55, (10, 7, 3)),
    Material.SOIL: (0.035, 0.08, 0.07, 0.07, 0.40, (9, 7, 5)),
    Material.ASPHALT: (0.020, 0.04, 0.04, 0.05, 0.0, (2, 2, 2)),
    Material.CONCRETE: (0.020, 0.05, 0.06, 0.06, 0.0, (4, 4, 2)),
    Material.TILE: (0.035, 0.07, 0.05, 0.03, 0.0, (4, 1, 0)),
    Material.FLAT_ROOF: (0.020, 0.035, 0.04, 0.035, 0.0, (3, 3, 2)),
    Material.TIN: (0.020, 0.05, 0.07, 0.03, 0.0, (10, 3, -3)),
    Material.FOLIAGE: (0.070, 0.12, 0.06, 0.05, 0.0, (8, 4, 0)),
    Material.WATER: (0.006, 0.012, 0.02, 0.05, 0.0, (2, 3, 2)),
    Material.SMOOTH: (0.010, 0.015, 0.02, 0.02, 0.0, (1, 1, 1)),
    Material.CROP: (0.040, 0.08, 0.06, 0.07, 0.0, (9, 5, 1)),
}
_SCRUB = np.array((78, 88, 54), np.float32)


def texture(rgb: Floats, material: NDArray[np.uint8], gsd: float, rng: np.random.Generator) -> Floats:
    """Multiply and tint the colours (H, W, 3) by noise fit for each pixel's material; in place. Returns the clumps."""
    shape = (rgb.shape[0], rgb.shape[1])
    extent = (shape[0] * gsd, shape[1] * gsd)
    strength = np.zeros((5, len(Material)), np.float32)
    shift = np.zeros((3, len(Material)), np.float32)
    for key, (*levels, colour) in _TEXTURE.items():
        strength[:, key], shift[:, key] = levels, colour
    mottle = fractal(rng, extent, shape, cells=(70, 30, 14))
    drift = fractal(rng, extent, shape, cells=(45, 18, 7, 3))
    clump = fractal(rng, extent, shape, cells=(7, 3.2, 1.5, 0.8), persistence=0.75)
    grain = fractal(rng, extent, shape, cells=(0.8, 0.4, 0.2), persistence=0.9)
    single = rng.standard_normal(shape, dtype=np.float32)
    pixel, fine, middle, coarse, scrub = (table[material] for table in strength)
    gain = 1 + single * pixel + grain * fine + clump * middle + mottle * coarse
    rgb *= gain[..., None]
    tufts = scrub * np.clip(2.2 * (clump + 0.5 * drift + 0.35 * grain - 0.75), 0, 1)
    for band in range(3):
        rgb[..., band] += shift[band][material] * (1.6 * drift)
        rgb[..., band] += tufts * (_SCRUB[band] * gain - rgb[..., band])
    return clump


def windows(
    objects: Sequence[Thing], index: NDArray[np.int32], gsd: float, category: str
) -> Iterator[tuple[Thing, tuple[slice, slice], Bools]]:
    """Each thing of a category with the window around it and where it is on top there."""
    height, width = index.shape
    for i, thing in enumerate(objects, 1):
        if thing.category != category:
            continue
        x0, y0, x1, y1 = np.asarray(thing.polygon.bounds) / gsd
        rows = slice(max(0, math.floor(y0)), min(height, math.ceil(y1)))
        columns = slice(max(0, math.floor(x0)), min(width, math.ceil(x1)))
        if rows.start < rows.stop and columns.start < columns.stop:
            on = index[rows, columns] == i
            if on.any():
                yield thing, (rows, columns), on


def till(rgb: Floats, objects: Sequence[Thing], index: NDArray[np.int32], gsd: float, clump: Floats, seed: int) -> None:
    """Furrows, tramlines and uneven growth on fields; in place."""
    for n, (thing, at, on) in enumerate(windows(objects, index, gsd, "field")):
        rng = np.random.Generator(np.random.PCG64([seed, 11, n]))
        rows, columns = at
        angle = thing.rects[0].angle + math.pi / 2
        y, x = np.ogrid[rows, columns]
        across = ((x * math.cos(angle) + y * math.sin(angle)) * gsd).astype(np.float32) + 0.12 * clump[at]
        gain = np.ones(on.shape, np.float32)

        def seen(period: float) -> float:
            return math.exp(-((1.3 * gsd / period) ** 2))

        gain += rng.uniform(0.03, 0.10) * seen(thing.size) * np.sin(2 * np.pi / thing.size * across)
        wide = rng.uniform(6, 14)
        gain += rng.uniform(0.0, 0.06) * seen(wide) * np.sin(2 * np.pi / wide * across)
        if rng.random() < 0.6:
            period = rng.uniform(12, 27)
            lane = np.abs((across + 1000 * period) % period - period / 2) - 0.9
            wheel = np.exp(-((lane / max(0.25, 0.6 * gsd)) ** 2))
            gain -= 0.14 * min(1.0, 0.5 / gsd) * wheel
        rgb[at] *= np.where(on, gain, 1)[..., None]


def water(rgb: Floats, objects: Sequence[Thing], index: NDArray[np.int32], gsd: float, seed: int) -> None:
    """Shallows towards the shore and a slow change of tone across open water; in place."""
    for n, (_, at, on) in enumerate(windows(objects, index, gsd, "lake")):
        rng = np.random.Generator(np.random.PCG64([seed, 13, n]))
        step = max(1, round(2.0 / gsd)) if on.size > 90_000 else 1
        coarse = np.pad(on[::step, ::step], 1, mode="edge")
        deep = np.asarray(ndimage.distance_transform_edt(coarse), np.float32)[1:-1, 1:-1] * step * gsd
        if step > 1:
            deep = np.asarray(Image.fromarray(deep).resize(on.shape[::-1], Image.Resampling.BILINEAR), np.float32)
        reach = rng.uniform(2, 9)
        shallow = np.where(on, np.exp(-deep / reach), 0).astype(np.float32) * rng.uniform(0.25, 0.8)
        tint = np.array(((118, 108, 78), (96, 112, 76), (124, 132, 118))[int(rng.integers(3))], np.float32)
        y, x = np.ogrid[0 : on.shape[0], 0 : on.shape[1]]
        turn = rng.uniform(0, 2 * np.pi)
        slope = ((x / on.shape[1] - 0.5) * math.cos(turn) + (y / on.shape[0] - 0.5) * math.sin(turn)).astype(np.float32)
        patch = rgb[at]
        patch *= np.where(on, 1 + rng.uniform(0, 0.25) * slope, 1)[..., None]
        patch += shallow[..., None] * (tint - patch)


class Relief:
    """Heights of crowns in metres and how far up each pixel is within its own crown, by stamping domes."""

    def __init__(self, shape: tuple[int, int], gsd: float) -> None:
        self.gsd = gsd
        self.height = np.zeros(shape, np.float32)
        self.tint = np.zeros(shape, np.float32)
        self._domes: dict[int, Floats] = {}

    def _dome(self, radius: float) -> Floats:
        key = max(1, round(radius))
        if key not in self._domes:
            y, x = np.mgrid[-key : key + 1, -key : key + 1].astype(np.float32)
            far = (x**2 + y**2) / max(radius, 0.8) ** 2
            self._domes[key] = np.sqrt(np.clip(1.1 - far, 0, None)).astype(np.float32)
        return self._domes[key]

    def stamp(self, x: float, y: float, radius: float, low: float, rise: float, tint: float) -> None:
        """Put a crown (metres) down: the higher surface wins."""
        dome = self._dome(radius / self.gsd)
        half = dome.shape[0] // 2
        row, column = int(y / self.gsd) - half, int(x / self.gsd) - half
        r0, c0 = max(0, row), max(0, column)
        r1, c1 = (
            min(self.height.shape[0], row + dome.shape[0]),
            min(self.height.shape[1], column + dome.shape[1]),
        )
        if r0 >= r1 or c0 >= c1:
            return
        part = dome[r0 - row : r1 - row, c0 - column : c1 - column]
        crown = np.where(part > 0, low + rise * part, 0)
        there = self.height[r0:r1, c0:c1]
        wins = crown > there
        there[wins] = crown[wins]
        self.tint[r0:r1, c0:c1][wins] = tint


def raise_crowns(objects: Sequence[Thing], index: NDArray[np.int32], gsd: float, seed: int) -> Relief:
    """Crowns of single trees and of the canopy of woods."""
    relief = Relief((index.shape[0], index.shape[1]), gsd)
    for n, (thing, (rows, columns), on) in enumerate(windows(objects, index, gsd, "forest")):
        rng = np.random.Generator(np.random.PCG64([seed, 17, n]))
        pitch = thing.size * 1.35
        if thing.size < 1.2 * gsd:
            relief.height[rows, columns][on] = thing.height
            continue
        xs = np.arange(columns.start * gsd, columns.stop * gsd + pitch, pitch)
        ys = np.arange(rows.start * gsd, rows.stop * gsd + pitch, pitch)
        grid = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
        grid += rng.uniform(-0.6, 0.6, grid.shape) * pitch
        radii = thing.size * rng.uniform(0.65, 1.45, len(grid))
        tints = rng.normal(0, 1, len(grid))
        inside_row = np.clip(((grid[:, 1] / gsd).astype(int) - rows.start), 0, on.shape[0] - 1)
        inside_column = np.clip(((grid[:, 0] / gsd).astype(int) - columns.start), 0, on.shape[1] - 1)
        for k in np.flatnonzero(on[inside_row, inside_column]):
            relief.stamp(
                grid[k, 0],
                grid[k, 1],
                radii[k],
                thing.height * 0.55,
                thing.height * 0.45 * radii[k] / thing.size,
                tints[k],
            )
    for i, thing in enumerate(objects):
        if thing.category == "tree":
            crown = thing.rects[0]
            _stamp_tree(relief, thing, crown.x, crown.y, crown.length / 2, math.sin(12.9 * i), i)
    return relief


def _stamp_tree(relief: Relief, thing: Thing, x: float, y: float, radius: float, tint: float, number: int) -> None:
    relief.stamp(x, y, radius * 1.15, thing.height * 0.3, thing.height * 0.45, tint)
    if radius < 4 * relief.gsd or thing.kind == "palm":
        return
    # Boughs: a crown is a heap of smaller crowns, and a conifer a cone of them.
    rng = np.random.Generator(np.random.PCG64([number, 19]))
    for k in range(5 + int(radius * 2)):
        turn, far = 2.4 * k + rng.uniform(-0.5, 0.5), radius * math.sqrt(rng.random()) * 0.8
        size = radius * rng.uniform(0.22, 0.42)
        low = thing.height * (0.78 - 0.45 * (far / radius) ** (1 if thing.kind == "conifer" else 2))
        relief.stamp(
            x + far * math.cos(turn),
            y + far * math.sin(turn),
            size,
            low,
            size * 0.9,
            tint + rng.normal(0, 0.35),
        )


def shade_crowns(
    rgb: Floats, relief: Relief, foliage: Bools, clump: Floats, gsd: float, sun: Sun, rng: np.random.Generator
) -> None:
    """Light the leaves by the slope of the crowns; in place."""
    if not foliage.any():
        return
    shape = (rgb.shape[0], rgb.shape[1])
    leaves = fractal(rng, (shape[0] * gsd, shape[1] * gsd), shape, cells=(1.6, 0.9, 0.5, 0.28), persistence=0.9)
    rough = np.where(foliage, relief.height + 0.55 * leaves + 0.25 * clump, 0)
    dy, dx = np.gradient(rough, gsd)
    # A crown is no solid: leaves of every slope are seen everywhere, so the relief is softened.
    slope = np.float32(0.5) / (1 + 0.35 * np.hypot(dx, dy))
    dx, dy = dx * slope, dy * slope
    (ax, ay), up = sun.toward, math.sin(sun.elevation)
    flat = math.cos(sun.elevation)
    light = (up - flat * (dx * ax + dy * ay)) / np.sqrt(1 + dx**2 + dy**2) / up
    gain = 0.45 + 0.6 * np.clip(light, 0, 1.7) + 0.10 * leaves
    tint = relief.tint
    gain = np.where(foliage, gain * (1 + 0.07 * tint), 1)
    rgb *= gain[..., None]
    rgb[..., 0] += np.where(foliage, 7 * tint, 0)
    rgb[..., 2] -= np.where(foliage, 3 * tint, 0)


def heights(objects: Sequence[Thing], index: NDArray[np.int32], relief: Relief) -> Floats:
    """Height of the visible surface in metres, (H, W)."""
    table = np.zeros(len(objects) + 1, np.float32)
    crown = np.zeros(len(objects) + 1, bool)
    for i, thing in enumerate(objects, 1):
        table[i] = thing.height
        crown[i] = thing.category in ("tree", "forest")
    surface = table[index]
    leafy = crown[index]
    surface[leafy] = np.minimum(surface[leafy], np.maximum(relief.height[leafy], 1.0))
    return surface


def cast_shadows(surface: Floats, gsd: float, sun: Sun) -> Floats:
    """How much of the sun is hidden at each pixel, 0 to 1, by marching the height map away from the sun."""
    shade = np.zeros_like(surface)
    tallest = float(surface.max(initial=0.0))
    drop = math.tan(sun.elevation) * gsd
    if tallest < 0.5 * drop:
        return shade
    # Decimetres in int16 march three times as fast as floats.
    height = (surface * 10).astype(np.int16)
    reach = height.copy()
    ax, ay = (-c for c in sun.toward)
    rows, columns = surface.shape
    last = min(int(tallest / drop) + 1, rows + columns)
    ceiling = np.int16(round(tallest * 10))
    for step in range(1, last + 1):
        dx, dy = round(step * ax), round(step * ay)
        if abs(dx) >= columns or abs(dy) >= rows:
            break
        to = (slice(max(0, dy), rows + min(0, dy)), slice(max(0, dx), columns + min(0, dx)))
        source = (slice(max(0, -dy), rows - max(0, dy)), slice(max(0, -dx), columns - max(0, dx)))
        fallen = np.int16(min(int(ceiling) + 1, round(10 * step * drop)))
        np.maximum(reach[to], height[source] - fallen, out=reach[to])
    # The rim of a shadow is soft: the sun is a disc and a pixel has a size.
    soft = np.float32(10 * max(0.25, 0.7 * drop))
    np.clip((reach - height) / soft, 0, 1, out=shade)
    return shade


def expose(
    rgb: Floats,
    shade: Floats,
    surface: Floats,
    gsd: float,
    rng: np.random.Generator,
    *,
    quality: tuple[int, int] = (72, 95),
) -> NDArray[np.uint8]:
    """Shadows, sky light, haze, lens, sensor noise and compression: the picture, uint8 (H, W, 3)."""
    near = max(1, round(2.0 / gsd))
    closed = np.clip(ndimage.uniform_filter(surface, 2 * near + 1) - surface, 0, 4) / 4
    depth = rng.uniform(0.46, 0.64)
    # A pixel on the rim of a roof is half ground: it takes part of the shadow beside it.
    rim = surface - ndimage.minimum_filter(surface, 3) > 1.0
    shade = np.where(rim, np.maximum(shade, 0.45 * ndimage.maximum_filter(shade, 3)), shade)
    shade = ndimage.gaussian_filter(shade, 0.6)
    for band, sky in enumerate((1.05, 0.99, 0.88)):
        rgb[..., band] *= (1 - np.clip(depth * sky, 0, 0.85) * shade) * (1 - 0.30 * closed)
    contrast, gamma = rng.uniform(0.85, 1.12), rng.uniform(0.9, 1.12)
    saturation = rng.uniform(0.75, 1.15)
    balance = 1 + rng.normal(0, 0.025, 3)
    haze = rng.uniform(0.0, 0.13) * np.array((178, 186, 196), np.float32)
    exposure = rng.uniform(0.95, 1.2)
    grey = rgb.mean(-1, keepdims=True)
    rgb = np.asarray(grey + saturation * (rgb - grey), np.float32)
    lit = np.clip(rgb * (exposure * balance).astype(np.float32), 0, 330) / 255
    rgb = np.asarray(255 * lit ** np.float32(gamma), np.float32)
    rgb = 112 + np.float32(contrast) * (rgb - 112)
    # Highlights roll off instead of clipping.
    rgb = np.where(rgb > 215, 215 + 40 * np.tanh((rgb - 215) / 55), rgb)
    rgb = (rgb * np.float32(1 - haze.mean() / 190) + haze).astype(np.float32)
    blur = rng.uniform(0.35, 0.8)
    rgb = ndimage.gaussian_filter(rgb, (blur, blur, 0), truncate=3)
    sigma = rng.uniform(0.8, 3.2)
    rgb += rng.standard_normal(rgb.shape, dtype=np.float32) * np.float32(sigma * 0.6)
    rgb += rng.standard_normal(rgb.shape[:2], dtype=np.float32)[..., None] * np.float32(sigma * 0.8)
    picture = np.clip(np.rint(rgb), 0, 255).astype(np.uint8)
    if rng.random() < 0.6:
        store = io.BytesIO()
        Image.fromarray(picture).save(store, "JPEG", quality=int(rng.integers(*quality)))
        picture = np.array(Image.open(io.BytesIO(store.getvalue())).convert("RGB"))
    return picture
