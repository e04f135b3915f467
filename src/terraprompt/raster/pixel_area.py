"""How much ground a pixel covers, in any CRS."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Transformer
from rasterio import Affine

__all__ = ["GroundArea", "ground_area", "to_map"]

# Projections that keep areas this well over the whole scene are taken at their word, as a GIS does (UTM: 0.1
# %).
_PLANAR_TOLERANCE = 0.005
# Nodes a side of the grid on which a scene's pixel area is computed; between them it is interpolated.
_NODES = 65


@dataclass(frozen=True, slots=True)
class GroundArea:
    """Ground area of pixels, square metres, interpolated on a coarse grid over the scene.

    Attributes:
        grid: float64 (n, n), area of one pixel at the nodes (row, column); (1, 1) where it is the same
            everywhere.
        size: (height, width) of the scene in pixels.
    """

    grid: NDArray[np.float64]
    size: tuple[int, int]

    def pixel_area(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Area in m2 of a pixel at continuous pixel positions ``x``, ``y`` (same shape)."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        last = self.grid.shape[0] - 1
        if last == 0:
            return np.full(x.shape, self.grid[0, 0])
        u = np.clip(x / self.size[1], 0, 1) * last
        v = np.clip(y / self.size[0], 0, 1) * last
        i, j = np.minimum(u.astype(np.int64), last - 1), np.minimum(v.astype(np.int64), last - 1)
        u, v = u - i, v - j
        top = self.grid[j, i] * (1 - u) + self.grid[j, i + 1] * u
        bottom = self.grid[j + 1, i] * (1 - u) + self.grid[j + 1, i + 1] * u
        return np.asarray(top * (1 - v) + bottom * v)

    @property
    def gsd(self) -> float:
        """Side in metres of a square as large as the pixel in the middle of the scene."""
        return float(np.sqrt(self.pixel_area(self.size[1] / 2, self.size[0] / 2)))


def to_map(
    transform: Affine, x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Pixel positions to CRS coordinates (works alike in every release of affine)."""
    return transform.a * x + transform.b * y + transform.c, transform.d * x + transform.e * y + transform.f


def ground_area(crs: Any, transform: Affine, width: int, height: int) -> GroundArea | None:
    """Ground area of a scene's pixels: planar if the projection keeps areas within 0.5 %, else ellipsoidal.

    On the ellipsoid the area of a pixel is ``|d(lon, lat) / d(x, y)| * M * N * cos(lat)`` with the radii of
    curvature M and N, whatever the CRS; Web Mercator at 60 degrees north gives a quarter of its planar area.

    Args:
        crs: anything pyproj accepts, or None.
        transform: pixel to CRS.
        width: size of the scene in pixels.
        height: as ``width``.

    Returns:
        None without a CRS.
    """
    if not crs:
        return None
    crs = CRS.from_user_input(crs)
    unit = crs.axis_info[0].unit_conversion_factor if crs.is_projected and crs.axis_info else 1.0
    planar = abs(transform.determinant) * unit**2
    true = _ellipsoidal(crs, transform, width, height)
    if true is None:
        return GroundArea(np.array([[planar]]), (height, width))
    if crs.is_projected and np.abs(true / planar - 1).max() < _PLANAR_TOLERANCE:
        return GroundArea(np.array([[planar]]), (height, width))
    return GroundArea(true, (height, width))


def _ellipsoidal(crs: CRS, transform: Affine, width: int, height: int) -> NDArray[np.float64] | None:
    """float64 (n, n) pixel areas at the grid nodes, or None if the CRS has no place on the Earth there."""
    geodetic = crs.geodetic_crs
    ellipsoid = geodetic.ellipsoid if geodetic is not None else None
    if geodetic is None or ellipsoid is None:
        return None
    to_lonlat = Transformer.from_crs(crs, geodetic, always_xy=True)
    to_radians = geodetic.axis_info[0].unit_conversion_factor
    x, y = np.meshgrid(np.linspace(0, width, _NODES), np.linspace(0, height, _NODES))

    def lonlat(dx: float, dy: float) -> NDArray[np.float64]:
        east, north = to_map(transform, x + dx, y + dy)
        return np.asarray(np.stack(to_lonlat.transform(east, north)) * to_radians)

    along_x, along_y = (lonlat(0.5, 0) - lonlat(-0.5, 0)), (lonlat(0, 0.5) - lonlat(0, -0.5))
    for step in (along_x, along_y):
        step[0] = (step[0] + np.pi) % (2 * np.pi) - np.pi
    latitude = lonlat(0, 0)[1]
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    e2 = 1 - (b / a) ** 2
    w2 = 1 - e2 * np.sin(latitude) ** 2
    curvature = a**2 * (1 - e2) / w2**2  # M * N
    area = np.abs(along_x[0] * along_y[1] - along_x[1] * along_y[0]) * curvature * np.cos(latitude)
    if not np.isfinite(area).all() or not (area > 0).all():
        return None
    return np.asarray(area)
