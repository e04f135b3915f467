"""Multi-octave value noise and noisy outlines: the raw material of everything that is not man-made."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from shapely.geometry import Polygon

__all__ = ["blob", "fractal", "lobed", "ring"]

Floats = NDArray[np.float32]


def _octave(rng: np.random.Generator, extent: tuple[float, float], shape: tuple[int, int], cell: float) -> Floats:
    """Random lattice of ``cell`` metres over ``extent`` (height, width in metres), bicubic between its nodes."""
    rows, columns = extent[0] / cell, extent[1] / cell
    lattice = rng.random((int(np.ceil(rows)) + 2, int(np.ceil(columns)) + 2), dtype=np.float32) * 2 - 1
    box = (0.5, 0.5, 0.5 + columns, 0.5 + rows)
    grown = Image.fromarray(lattice).resize((shape[1], shape[0]), Image.Resampling.BICUBIC, box=box)
    return np.asarray(grown, np.float32)


def fractal(
    rng: np.random.Generator,
    extent: tuple[float, float],
    shape: tuple[int, int],
    *,
    cells: Sequence[float],
    persistence: float = 0.65,
) -> Floats:
    """Sum of value-noise octaves, coarse first so that the coarse part is the same at every pixel size.

    Args:
        rng: where the lattices come from.
        extent: (height, width) in metres.
        shape: (height, width) in pixels.
        cells: lattice spacing of each octave in metres, coarse to fine; octaves finer than a pixel are left out.
        persistence: amplitude of an octave relative to the one before.

    Returns:
        float32 of ``shape``, about zero mean and half unit standard deviation.
    """
    total = np.zeros(shape, np.float32)
    pixel = extent[0] / shape[0]
    amplitude, power = 1.0, 1e-6
    for cell in cells:
        if cell < 0.9 * pixel:
            break
        total += amplitude * _octave(rng, extent, shape, cell)
        power += amplitude**2
        amplitude *= persistence
    total *= np.float32(1.0 / np.sqrt(power))
    return total


def ring(rng: np.random.Generator, count: int, *, roughness: float, power: float = 1.3) -> NDArray[np.float64]:
    """``count`` radii around 1 along a closed outline: a random Fourier series with amplitudes falling as k^-power."""
    orders = np.arange(1, max(3, count // 3))
    amplitude = roughness * rng.standard_normal(orders.size) * orders.astype(np.float64) ** -power
    phase = rng.random(orders.size) * 2 * np.pi
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    radii = 1 + (amplitude[:, None] * np.cos(orders[:, None] * angle + phase[:, None])).sum(0)
    return np.asarray(np.clip(radii, 0.3, 1.9))


def blob(
    rng: np.random.Generator,
    centre: tuple[float, float],
    radius: float,
    *,
    roughness: float = 0.25,
    count: int = 96,
) -> Polygon:
    """A star-shaped polygon with a natural outline (shoreline, edge of a wood); metres in, metres out."""
    radii = radius * ring(rng, count, roughness=roughness)
    angle = np.linspace(0, 2 * np.pi, count, endpoint=False)
    stretch, turn = rng.uniform(0.6, 1.0), rng.uniform(0, np.pi)
    x, y = radii * np.cos(angle), radii * np.sin(angle) * stretch
    cos, sin = np.cos(turn), np.sin(turn)
    return Polygon(np.column_stack([centre[0] + cos * x - sin * y, centre[1] + sin * x + cos * y]))


def lobed(
    rng: np.random.Generator, centre: tuple[float, float], radius: float, *, roughness: float, count: int
) -> Polygon:
    """One to four overlapping blobs as one outline without holes: bays and headlands."""
    body = blob(rng, centre, radius, roughness=roughness, count=count)
    for _ in range(int(rng.integers(0, 4))):
        turn, size = rng.uniform(0, 2 * np.pi), radius * rng.uniform(0.35, 0.75)
        at = (centre[0] + radius * 0.8 * np.cos(turn), centre[1] + radius * 0.8 * np.sin(turn))
        joined = body.union(blob(rng, at, size, roughness=roughness, count=count))
        if joined.geom_type == "Polygon":
            body = Polygon(joined.exterior)
    return body
