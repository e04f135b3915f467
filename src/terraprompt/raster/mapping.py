"""Between the map and the pixels of a raster: points, boxes, extents and the size of a pixel on the ground."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import CRSError, ProjError

from terraprompt.geometry.types import Box

__all__ = ["box_to_pixels", "extent", "ground_size", "parse_crs", "to_pixels"]


_GEOD = pyproj.Geod(ellps="WGS84")
#: Points per box edge: enough to follow the curve of an edge that is straight in another CRS.
_DENSIFY = 33


def parse_crs(crs: Any) -> pyproj.CRS:
    """Anything that pyproj or rasterio understands as a CRS.

    Raises:
        ValueError: it is none; the message repeats what PROJ said.
    """
    try:
        return pyproj.CRS.from_user_input(crs.to_wkt() if hasattr(crs, "to_wkt") else crs)
    except CRSError as error:
        raise ValueError(str(error)) from error


@functools.lru_cache(maxsize=64)
def _transformer(source: str, target: str) -> pyproj.Transformer | None:
    a, b = pyproj.CRS.from_user_input(source), pyproj.CRS.from_user_input(target)
    # Axis order is always x, y here, so two definitions that differ in it alone are one CRS.
    return None if a.equals(b, ignore_axis_order=True) else pyproj.Transformer.from_crs(a, b, always_xy=True)


def _reproject(xy: NDArray[np.float64], source: pyproj.CRS, target: pyproj.CRS) -> NDArray[np.float64]:
    transformer = _transformer(source.to_wkt(), target.to_wkt())
    if transformer is None:
        return xy
    try:
        x, y = transformer.transform(xy[..., 0], xy[..., 1])
    except ProjError:  # no operation between the two: nothing of one lies in the other
        return np.full_like(xy, np.inf)
    return np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)


def _apply(transform: Any, xy: NDArray[np.float64]) -> NDArray[np.float64]:
    x, y = xy[..., 0], xy[..., 1]
    with np.errstate(invalid="ignore"):  # infinite coordinates stay unusable, which is what the callers look for
        return np.stack(
            [
                transform.a * x + transform.b * y + transform.c,
                transform.d * x + transform.e * y + transform.f,
            ],
            axis=-1,
        )


def to_pixels(points: ArrayLike, crs: pyproj.CRS, scene_crs: pyproj.CRS, transform: Any) -> NDArray[np.float64]:
    """Map points ``(n, 2)`` in ``crs`` to continuous pixel coordinates; infinite where there is no way.

    Args:
        points: x, y (longitude, latitude for a geographic CRS).
        crs: of the points.
        scene_crs: of the raster.
        transform: affine of the raster, pixel to map; may be rotated.
    """
    return _apply(~transform, _reproject(np.asarray(points, np.float64).reshape(-1, 2), crs, scene_crs))


def _outline(box: Sequence[float]) -> NDArray[np.float64]:
    x0, y0, x1, y1 = box
    t = np.linspace(0.0, 1.0, _DENSIFY)
    xs, ys = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
    same = np.ones_like(t)
    edges = [(xs, y0 * same), (x1 * same, ys), (xs, y1 * same), (x0 * same, ys)]
    return np.concatenate([np.stack(edge, axis=-1) for edge in edges])


def box_to_pixels(box: Sequence[float], crs: pyproj.CRS, scene_crs: pyproj.CRS, transform: Any) -> Box:
    """The pixel bounds of a map box, its edges followed densely; infinite where there is no way."""
    return _bounds(to_pixels(_outline(box), crs, scene_crs, transform))


def _bounds(xy: NDArray[np.float64]) -> Box:
    if not np.isfinite(xy).all():
        return (math.inf, math.inf, math.inf, math.inf)
    (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
    return (float(x0), float(y0), float(x1), float(y1))


def extent(width: int, height: int, transform: Any, scene_crs: pyproj.CRS, crs: pyproj.CRS) -> Box:
    """Bounds (x0, y0, x1, y1) of a raster in ``crs``."""
    outline = _apply(transform, _outline((0.0, 0.0, float(width), float(height))))
    return _bounds(_reproject(outline, scene_crs, crs))


def ground_size(width: int, height: int, transform: Any, scene_crs: pyproj.CRS) -> float | None:
    """Ground metres per pixel: the geometric mean of a pixel's two sides, along the ellipsoid, at the raster's centre.

    None where the centre has no place on the Earth (an engineering CRS without metres, say).
    """
    x, y = width / 2, height / 2
    ends = np.array([[x - 0.5, y], [x + 0.5, y], [x, y - 0.5], [x, y + 0.5]])
    on_map = _apply(transform, ends)
    lonlat = _reproject(on_map, scene_crs, pyproj.CRS.from_epsg(4326))
    if np.isfinite(lonlat).all() and (np.abs(lonlat[:, 1]) <= 90).all():
        _, _, sides = _GEOD.inv(lonlat[[0, 2], 0], lonlat[[0, 2], 1], lonlat[[1, 3], 0], lonlat[[1, 3], 1])
    elif scene_crs.axis_info and scene_crs.axis_info[0].unit_conversion_factor and not scene_crs.is_geographic:
        sides = np.linalg.norm(on_map[[1, 3]] - on_map[[0, 2]], axis=1) * scene_crs.axis_info[0].unit_conversion_factor
    else:
        return None
    size = math.sqrt(float(sides[0]) * float(sides[1]))
    return size if size > 0 and math.isfinite(size) else None
