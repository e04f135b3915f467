"""Objects of a result as features in memory: ``__geo_interface__`` and GeoDataFrame."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import shapely.geometry

from terraprompt.errors import ConfigError
from terraprompt.outputs.formats.vector import feature_table

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from terraprompt.outputs.result import Result

__all__ = ["geo_interface", "to_geodataframe"]


def geo_interface(result: Result) -> dict[str, Any]:
    """A GeoJSON-like FeatureCollection in the scene's CRS, which its member "crs" names; in pixels without one."""
    table = feature_table(result)
    columns = {name: values.to_pylist() for name, values in table.columns.items()}
    collection: dict[str, Any] = {
        "type": "FeatureCollection",
        "features": [
            {
                "type": "Feature",
                "id": columns["id"][i],
                "bbox": polygon.bounds,
                "geometry": shapely.geometry.mapping(polygon),
                "properties": {name: values[i] for name, values in columns.items()},
            }
            for i, polygon in enumerate(table.polygons)
        ],
    }
    if result.crs is not None:
        collection["crs"] = {"type": "name", "properties": {"name": result.crs.to_string()}}
    return collection


def to_geodataframe(result: Result) -> GeoDataFrame:
    """The attributes of vector files and the polygons, in the scene's CRS; ``attrs`` holds status and remarks.

    Raises:
        ConfigError: GeoPandas is not installed.
    """
    try:
        import geopandas
    except ImportError as error:
        raise ConfigError(
            f"A GeoDataFrame needs GeoPandas, which cannot be imported ({error}).",
            hint='Install it: pip install "terraprompt[geopandas]".',
        ) from error
    table = feature_table(result)
    crs = None if result.crs is None else result.crs.to_wkt()
    columns = {name: values.to_pandas() for name, values in table.columns.items()}
    frame = geopandas.GeoDataFrame(columns, geometry=list(table.polygons), crs=crs)
    frame.attrs = {"status": result.status.value, "reason": result.reason, "remarks": list(result.remarks)}
    return frame
