"""How much ground a pixel covers, in any CRS."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pyproj import CRS, Transformer
from pyproj.exceptions import ProjError
from rasterio import Affine
from scipy.ndimage import distance_transform_edt

__all__ = ["NO_GROUND", "GroundArea", "ground_area", "ground_size", "to_map"]

# Projections that keep areas this well over the whole scene are taken at their word, as a GIS does (UTM: 0.1
# %).
_PLANAR_TOLERANCE = 0.005
# Nodes a side of the grid on which a scene's pixel area is computed; between them it is interpolated. The finer grid
# is for scenes over which the area changes by more than _EVEN.
_NODES, _MORE_NODES, _EVEN = 33, 257, 1.02
#: Why there is no area or length on the ground, for messages.
NO_GROUND = "the scene's pixels have no known size on the ground (no CRS, or one without a place and a unit of length)"
_ANGLES = ("degree", "radian", "grad", "gon", "unity", "unknown")


@dataclass(frozen=True, slots=True)
class GroundArea:
    """Ground area of pixels, square metres: one for all, one a row, or interpolated on a coarse grid over the scene.

    Attributes:
        grid: float64 (n, n), area of one pixel at the nodes (row, column); (1, 1) where it is the same
            everywhere; (height, 1) exact areas of the rows of a grid of longitude and latitude.
        size: (height, width) of the scene in pixels.
    """

    grid: NDArray[np.float64]
    size: tuple[int, int]

    def pixel_area(self, x: ArrayLike, y: ArrayLike) -> NDArray[np.float64]:
        """Area in m2 of a pixel at continuous pixel positions ``x``, ``y`` (same shape)."""
        x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
        rows, columns = self.grid.shape
        if columns == 1:
            row = np.clip(np.floor(y), 0, rows - 1).astype(np.int64)
            return np.broadcast_to(self.grid[row, 0], x.shape)
        u = np.clip(x / self.size[1], 0, 1) * (columns - 1)
        v = np.clip(y / self.size[0], 0, 1) * (rows - 1)
        i, j = np.minimum(u.astype(np.int64), columns - 2), np.minimum(v.astype(np.int64), rows - 2)
        u, v = u - i, v - j
        top = self.grid[j, i] * (1 - u) + self.grid[j, i + 1] * u
        bottom = self.grid[j + 1, i] * (1 - u) + self.grid[j + 1, i + 1] * u
        return np.asarray(top * (1 - v) + bottom * v)

    def of_runs(
        self, label: NDArray[np.int32], count: int, start: NDArray[np.int64], length: NDArray[np.int64]
    ) -> NDArray[np.float64]:
        """Area in m2 (count,) of components, by their row-runs: ``start`` is ``row * width + column``."""
        if self.grid.size == 1:
            return np.asarray(np.bincount(label, weights=length, minlength=count) * self.grid[0, 0])
        row, column = np.divmod(start, self.size[1])
        y = row + 0.5
        mean = self.pixel_area(column + length / 2, y)
        if self.grid.shape[1] > 1:  # Simpson's rule along the run
            mean = (4 * mean + self.pixel_area(column, y) + self.pixel_area(column + length, y)) / 6
        return np.asarray(np.bincount(label, weights=length * mean, minlength=count))

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

    A CRS without a place on the Earth (a site grid) is taken by its own unit of length. Rows of a north-up grid of
    longitude and latitude have the exact area of their zone, cut at the poles. Where a pixel has no place on the
    Earth, the nearest that has one tells.

    Args:
        crs: anything pyproj accepts, or None.
        transform: pixel to CRS.
        width: size of the scene in pixels.
        height: as ``width``.

    Returns:
        None without a CRS, or if nothing is known of the ground: no place on the Earth (also latitudes beyond the
        poles) and no unit of length.
    """
    if not crs:
        return None
    crs = CRS.from_user_input(crs)
    planar = _planar(crs, transform)
    if _is_lonlat(crs) and transform.b == transform.d == 0:
        rows = _element(crs, transform, np.array(width / 2), np.arange(height, dtype=np.float64) + 0.5)[:, None]
        return GroundArea(rows, (height, width)) if (rows > 0).any() else None

    def nodes(n: int) -> NDArray[np.float64]:
        x, y = np.meshgrid(np.linspace(0, width, n), np.linspace(0, height, n))
        return _element(crs, transform, x, y)

    true = nodes(_NODES)
    known = np.isfinite(true) & (true > 0)
    if not known.any() or (planar is not None and np.abs(true[known] / planar - 1).max() < _PLANAR_TOLERANCE):
        return None if planar is None else GroundArea(np.array([[planar]]), (height, width))
    if true[known].max() > _EVEN * true[known].min():
        true = nodes(_MORE_NODES)
        known = np.isfinite(true) & (true > 0)
    if not known.all():
        nearest = distance_transform_edt(~known, return_distances=False, return_indices=True)
        true = true[tuple(nearest)]
    return GroundArea(true, (height, width))


def ground_size(crs: Any, transform: Affine, width: int, height: int) -> float | None:
    """Metres a pixel in the middle of a scene: the side of a square of its area; None as in :func:`ground_area`."""
    crs = CRS.from_user_input(crs)
    area = float(_element(crs, transform, np.array(width / 2), np.array(height / 2)))
    if not (math.isfinite(area) and area > 0):
        area = _planar(crs, transform) or 0.0
    return math.sqrt(area) if area > 0 else None


def _planar(crs: CRS, transform: Affine) -> float | None:
    """Area of a pixel by the CRS's own unit of length, or None where its coordinates are no lengths."""
    axis = crs.axis_info[0] if crs.axis_info else None
    if axis is None or crs.is_geographic or not axis.unit_conversion_factor or axis.unit_name in _ANGLES:
        return None
    area = abs(float(transform.determinant)) * float(axis.unit_conversion_factor) ** 2
    return area if math.isfinite(area) and area > 0 else None


def _is_lonlat(crs: CRS) -> bool:
    return bool(crs.is_geographic and not crs.is_derived and crs.ellipsoid is not None)


def _element(crs: CRS, transform: Affine, x: NDArray[Any], y: NDArray[Any]) -> NDArray[np.float64]:
    """Area in m2 of the pixels centred at ``x``, ``y`` on the CRS's ellipsoid; NaN where it has no place there.

    Longitude and latitude, north up: the part of the zone between two parallels. Else: the area that the two sides of
    the pixel span in space, from its geocentric coordinates, which have no seam at the poles or the antimeridian.
    """
    geodetic = crs.geodetic_crs
    ellipsoid = geodetic.ellipsoid if geodetic is not None else None
    if geodetic is None or ellipsoid is None:
        return np.full(np.broadcast(x, y).shape, np.nan)
    a, b = ellipsoid.semi_major_metre, ellipsoid.semi_minor_metre
    e2 = 1 - (b / a) ** 2
    to_radians = geodetic.axis_info[0].unit_conversion_factor
    if _is_lonlat(crs) and transform.b == transform.d == 0:
        edges = np.stack([transform.e * (y + side) + transform.f for side in (-0.5, 0.5)])
        sine = np.sin(np.clip(edges * to_radians, -np.pi / 2, np.pi / 2))
        # Snyder, Map Projections, eq. 3-12: q(latitude), the area from the equator of a zone a radian wide over a2 / 2.
        e = np.sqrt(max(e2, 1e-18))
        q = (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
        return np.asarray(abs(transform.a) * to_radians * a**2 / 2 * np.abs(q[1] - q[0]))
    try:
        to_lonlat = Transformer.from_crs(crs, geodetic, always_xy=True)
    except ProjError:
        return np.full(np.broadcast(x, y).shape, np.nan)

    def in_space(dx: float, dy: float) -> NDArray[np.float64]:
        lon, lat = (np.asarray(v) * to_radians for v in to_lonlat.transform(*to_map(transform, x + dx, y + dy)))
        lat = np.where(np.abs(lat) <= np.pi / 2 + 1e-12, lat, np.nan)
        with np.errstate(invalid="ignore"):
            n = a / np.sqrt(1 - e2 * np.sin(lat) ** 2)
            flat = n * np.cos(lat)
            return np.stack([flat * np.cos(lon), flat * np.sin(lon), n * (1 - e2) * np.sin(lat)], axis=-1)

    with np.errstate(invalid="ignore"):
        sides = in_space(0.5, 0) - in_space(-0.5, 0), in_space(0, 0.5) - in_space(0, -0.5)
        return np.asarray(np.linalg.norm(np.cross(*sides), axis=-1))
