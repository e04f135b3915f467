"""Between the map and the pixels of a raster: points, boxes and extents."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyproj
from numpy.typing import ArrayLike, NDArray
from pyproj.exceptions import CRSError, ProjError

from terraprompt.geometry.flip import Flip
from terraprompt.geometry.types import Box

__all__ = ["bounds", "box_to_pixels", "extent", "has_place", "north_up", "outline", "parse_crs", "to_pixels"]


#: Affine of a raster, pixel to map, its width and height.
Frame = tuple[Any, int, int]
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
    try:
        transformer = _transformer(source.to_wkt(), target.to_wkt())
        if transformer is None:
            return xy
        x, y = transformer.transform(xy[..., 0], xy[..., 1])
    except ProjError:  # no operation between the two: nothing of one lies in the other
        return np.full_like(xy, np.inf)
    return np.stack([np.asarray(x, np.float64), np.asarray(y, np.float64)], axis=-1)


def has_place(crs: Any) -> bool:
    """Whether coordinates of ``crs`` can be turned into longitude and latitude (EPSG:4326)."""
    try:
        _transformer(parse_crs(crs).to_wkt(), pyproj.CRS.from_epsg(4326).to_wkt())
    except (ProjError, ValueError):
        return False
    return True


def north_up(crs: Any, transform: Any) -> Flip:
    """How a mirrored raster is turned over: up to down, or left to right where that leaves north up.

    A raster that is only rotated is no mirrored one, by half a turn neither; nothing is known without a CRS, or with
    the identity, which stands for no placement at all.

    Args:
        crs: anything that :func:`parse_crs` takes, or None.
        transform: affine of the raster, pixel to map.
    """
    if not crs or tuple(transform)[:6] == (1, 0, 0, 0, 1, 0):
        return Flip()
    directions = [axis.direction.casefold() for axis in parse_crs(crs).axis_info[:2]]
    # On a grid that counts westing and southing (South Africa) x grows to the west and y to the south.
    x = -1 if "west" in directions else 1
    y = -1 if "south" in directions and {"east", "west"} & set(directions) else 1
    right, down = (x * transform.a, y * transform.d), (x * transform.b, y * transform.e)
    if right[0] * down[1] - right[1] * down[0] <= 0:
        return Flip()
    sideways = right[0] < 0 and abs(right[0]) >= abs(right[1])
    return Flip(sideways, not sideways)


def _turned(xy: NDArray[np.float64], crs: pyproj.CRS, frame: Frame) -> NDArray[np.float64]:
    """``xy`` by whole turns of longitude nearer to the middle of a raster whose longitudes are 0 to 360, say."""
    if not crs.is_geographic:
        return xy
    turn = 2 * math.pi / crs.axis_info[0].unit_conversion_factor
    t, width, height = frame
    middle = t.a * width / 2 + t.b * height / 2 + t.c
    x0, x1 = xy[..., 0].min(initial=np.inf), xy[..., 0].max(initial=-np.inf)
    if not math.isfinite(x1 - x0):
        return xy
    return np.asarray(xy - np.array([turn * round(((x0 + x1) / 2 - middle) / turn), 0.0]))


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


def to_pixels(points: ArrayLike, crs: pyproj.CRS, scene_crs: pyproj.CRS, frame: Frame) -> NDArray[np.float64]:
    """Map points ``(n, 2)`` in ``crs`` to continuous pixel coordinates; infinite where there is no way.

    Longitudes count modulo a whole turn: -75 and 285 are one place.

    Args:
        points: x, y (longitude, latitude for a geographic CRS).
        crs: of the points.
        scene_crs: of the raster.
        frame: affine of the raster, pixel to map (may be rotated), its width and height.
    """
    on_map = _reproject(np.asarray(points, np.float64).reshape(-1, 2), crs, scene_crs)
    turned = [_turned(xy[None], scene_crs, frame) for xy in on_map]
    return _apply(~frame[0], np.concatenate([np.empty((0, 2)), *turned]))


def outline(box: Sequence[float]) -> NDArray[np.float64]:
    """Points (n, 2) densely along the edges of a box."""
    x0, y0, x1, y1 = box
    t = np.linspace(0.0, 1.0, _DENSIFY)
    xs, ys = x0 + (x1 - x0) * t, y0 + (y1 - y0) * t
    same = np.ones_like(t)
    edges = [(xs, y0 * same), (x1 * same, ys), (xs, y1 * same), (x0 * same, ys)]
    return np.concatenate([np.stack(edge, axis=-1) for edge in edges])


def box_to_pixels(box: Sequence[float], crs: pyproj.CRS, scene_crs: pyproj.CRS, frame: Frame) -> Box:
    """The pixel bounds of a map box, its edges followed densely; infinite where there is no way.

    A box whose west lies more than half a turn east of its east crosses the antimeridian.
    """
    x0, y0, x1, y1 = box
    turn = 2 * math.pi / crs.axis_info[0].unit_conversion_factor if crs.is_geographic else math.inf
    if x0 - x1 > turn / 2:
        x1 += turn
    on_map = _reproject(outline((x0, y0, x1, y1)), crs, scene_crs)
    if scene_crs.is_geographic and not crs.is_geographic:  # an outline over the antimeridian comes back in two pieces
        on_map[:, 0] = np.unwrap(on_map[:, 0], period=2 * math.pi / scene_crs.axis_info[0].unit_conversion_factor)
    return bounds(_apply(~frame[0], _turned(on_map, scene_crs, frame)))


def bounds(xy: NDArray[np.float64]) -> Box:
    """Least and largest coordinates of points (n, 2); infinite if one is."""
    if not np.isfinite(xy).all():
        return (math.inf, math.inf, math.inf, math.inf)
    (x0, y0), (x1, y1) = xy.min(axis=0), xy.max(axis=0)
    return (float(x0), float(y0), float(x1), float(y1))


def extent(width: int, height: int, transform: Any, scene_crs: pyproj.CRS, crs: pyproj.CRS) -> Box:
    """Bounds (x0, y0, x1, y1) of a raster in ``crs``."""
    edges = _apply(transform, outline((0.0, 0.0, float(width), float(height))))
    return bounds(_reproject(edges, scene_crs, crs))
