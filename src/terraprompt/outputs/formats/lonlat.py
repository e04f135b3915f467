"""Outlines in longitude and latitude as catalogues and GeoJSON want them: within +-180, cut at the antimeridian."""

from __future__ import annotations

from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from pyproj import Transformer
from pyproj.exceptions import ProjError
from shapely import LinearRing, Polygon

from terraprompt.errors import OutputError
from terraprompt.raster.mapping import has_place

__all__ = ["check_place", "lonlat_bounds", "to_lonlat", "unwrapped_lonlat"]

#: Decimals of RFC 7946: about a centimetre.
_STEP = 1e-7
#: Degrees; the edges of larger outlines on a map bend visibly in longitude and latitude and get points between.
_LARGE = 1.0
_WORLD = shapely.box(-180, -90, 180, 90)


def unwrapped_lonlat(polygons: Any, crs: Any) -> NDArray[np.object_]:
    """Polygons of ``crs`` in EPSG:4326 with longitudes that run on over the antimeridian; NaN has no place.

    A ring round a pole is led along the pole, so that what it holds stays inside.

    Raises:
        OutputError: no way from ``crs`` to longitude and latitude, or not for these places.
    """
    check_place(crs)
    try:
        transformer = Transformer.from_crs(crs, "EPSG:4326", always_xy=True)
        return np.array([_polygon(p, transformer) for p in np.atleast_1d(polygons)], object)
    except ProjError as error:
        raise _no_place(crs) from error


def check_place(crs: Any) -> None:
    """Refuse a CRS without a way to longitude and latitude; None is no CRS and passes.

    Raises:
        OutputError: the CRS is that of a site grid or of another body.
    """
    if crs and not has_place(crs):
        raise _no_place(crs)


def _no_place(crs: Any) -> OutputError:
    return OutputError(
        "The scene's CRS has no place on the Earth in longitude and latitude, which GeoJSON needs.",
        received=getattr(crs, "to_string", lambda: crs)(),
        hint="Write .gpkg, .fgb or .parquet, which keep the CRS as it is.",
    )


def _polygon(shape: Any, transformer: Transformer) -> Any:
    parts = []
    for part in shapely.get_parts(shape):
        shell, *holes = [_ring(ring, transformer) for ring in (part.exterior, *part.interiors)]
        middle = (shell[:, 0].min() + shell[:, 0].max()) / 2
        for hole in holes:
            hole[:, 0] -= 360 * np.round((hole[:, 0].mean() - middle) / 360)
        parts.append(shapely.make_valid(Polygon(shell, holes)))
    return shapely.union_all(parts) if len(parts) > 1 else parts[0]


def _ring(ring: LinearRing, transformer: Transformer) -> NDArray[np.float64]:
    source = transformer.source_crs
    xy = np.asarray(ring.coords)[:, :2]
    lon, lat = transformer.transform(xy[:, 0], xy[:, 1], errcheck=True)
    if max(np.ptp(lon), np.ptp(lat)) > _LARGE and not (source is not None and source.is_geographic):
        xy = np.asarray(shapely.segmentize(ring, ring.length / 256).coords)[:, :2]
        lon, lat = transformer.transform(xy[:, 0], xy[:, 1], errcheck=True)
    lat = np.clip(lat, -90, 90)
    if source is not None and source.is_geographic:  # its own longitudes run on
        degrees = xy[:, 0] * np.degrees(source.axis_info[0].unit_conversion_factor)
        lon = lon + 360 * np.round((degrees - lon) / 360)
    else:
        lon = np.unwrap(lon, period=360)
    if abs(lon[-1] - lon[0]) > 180:  # all the way round a pole
        pole = 90.0 if lat.mean() > 0 else -90.0
        lon, lat = np.append(lon, [lon[-1], lon[0], lon[0]]), np.append(lat, [pole, pole, lat[0]])
    return np.stack([lon, lat], axis=1)


def to_lonlat(polygons: NDArray[np.object_]) -> NDArray[np.object_]:
    """Polygons from :func:`unwrapped_lonlat`, rounded to 7 decimals and valid, in parts within -180 to 180.

    Outer rings run counter-clockwise; all are multipolygons if any is.
    """
    out = []
    for shape in polygons:
        west, _, east, _ = shapely.bounds(shape)
        turns = range(int(np.floor((west + 180) / 360)), int(np.floor((east + 180) / 360)) + 1)
        parts = [
            shapely.intersection(shapely.transform(shape, lambda xy, k=k: xy - [360 * k, 0]), _WORLD) for k in turns
        ]
        rounded = shapely.set_precision(shapely.union_all(parts) if len(parts) > 1 else parts[0], _STEP)
        faces = [p for p in shapely.get_parts(shapely.get_parts(rounded)) if p.geom_type == "Polygon"]
        out.append(faces[0] if len(faces) == 1 else shapely.MultiPolygon(faces) if faces else shape)
    if any(shape.geom_type == "MultiPolygon" for shape in out):
        out = [shapely.multipolygons(shapely.get_parts(shape)) for shape in out]
    return np.asarray(shapely.orient_polygons(np.array(out, object), exterior_cw=False), object)


def lonlat_bounds(polygons: NDArray[np.object_]) -> list[float] | None:
    """Bbox [west, south, east, north] of polygons from :func:`unwrapped_lonlat`; west > east over the antimeridian."""
    if not len(polygons):
        return None
    west, south, east, north = shapely.total_bounds(polygons).tolist()
    if east - west >= 360:
        west, east = -180.0, 180.0
    else:
        west, east = (west + 180) % 360 - 180, 180 - (180 - east) % 360
    return [round(v, 7) for v in (west, south, east, north)]
