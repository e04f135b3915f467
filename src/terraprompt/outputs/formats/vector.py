"""Vector files of a result: GeoPackage, GeoJSON, FlatGeobuf, GeoParquet, Shapefile."""

from __future__ import annotations

import json
import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pyogrio
import pyogrio.raw
import shapely
from numpy.typing import NDArray
from pyproj import CRS

from terraprompt.errors import OutputError
from terraprompt.io.text import unique_names
from terraprompt.outputs.formats.attributes import attribute_columns
from terraprompt.outputs.formats.lonlat import check_place, to_lonlat, unwrapped_lonlat
from terraprompt.outputs.provenance import PROVENANCE_KEYS, as_text
from terraprompt.raster.pixel_area import to_map

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["FIELDS", "FeatureTable", "feature_table", "write_vector"]

log = logging.getLogger(__name__)

# Attributes of every feature, in this order.
FIELDS = ("id", "area_m2", "score", "category", "prompt_id", "instruction", "engine", "model", "source")

#: Longest name and text of a dBASE file.
_DBF_NAME, _DBF_TEXT = 10, 254


@dataclass(frozen=True, slots=True)
class FeatureTable:
    """Polygons and columns, one entry an object; see :func:`write_vector`."""

    polygons: NDArray[np.object_]
    columns: dict[str, pa.Array]

    @property
    def geometry_type(self) -> str:
        """Of all polygons: "Polygon" or "MultiPolygon"."""
        return str(self.polygons[0].geom_type) if len(self.polygons) else "Polygon"


def write_vector(result: Result, path: Path, *, driver: str, layer: str = "objects") -> None:
    """Write a result's objects, one feature each; no objects give a valid file with the same attributes.

    The geometries are polygons, or all multipolygons where an object has parts that touch by corners alone.

    Attributes: id (int64), area_m2 (float64, null without a CRS), score (float64, mean probability), category (text,
    null where it is not known), prompt_id (int64, or text where the prompt's features have such ids; null for a text),
    instruction, engine, model, source (text); then those of the prompt's features, a name that is taken becoming
    ``name_2``. The CRS is the scene's, except GeoJSON: EPSG:4326 with 7 decimals (RFC 7946).

    A scene without a CRS gives a file without one. Its coordinates are what the scene's transform says;
    without a transform they are pixels, x to the right and **y down**, which a GIS that draws y upwards shows
    mirrored.

    Args:
        result: whose objects are written.
        path: of the file to be.
        driver: "GPKG" (version 1.2, which old readers know), "GeoJSON", "FlatGeobuf", "Parquet" or "ESRI Shapefile"
            (attribute names of 10 characters, texts of 254 bytes in UTF-8; each cut is logged).
        layer: name of the layer, where the format has names for layers.
    """
    if result.crs is None:
        frame = _frame(result)
        log.warning("The scene has no CRS; the layer %s holds %s without one.", layer, frame)
    table = feature_table(result)
    if driver == "Parquet":
        _write_parquet(result, table, path)
    else:
        _write_ogr(result, table, path, driver, layer)


def feature_table(result: Result) -> FeatureTable:
    """Polygons and attributes of a result's objects as files hold them."""
    objects = result.objects
    polygons = np.array([o.polygon for o in objects], object)
    if result.crs is None and not result.transform.is_identity and len(polygons):
        place = result.transform
        polygons = shapely.transform(polygons, lambda xy: np.stack(to_map(place, xy[:, 0], xy[:, 1]), axis=1))
    if (shapely.get_type_id(polygons) == shapely.GeometryType.MULTIPOLYGON).any():  # one type a file
        parts, index = shapely.get_parts(polygons, return_index=True)
        polygons = np.asarray(shapely.multipolygons(parts, indices=index))
    # Counter-clockwise outer rings are what GeoJSON asks for and GeoParquet promises.
    polygons = np.asarray(shapely.orient_polygons(polygons, exterior_cw=False), object)
    columns = {
        "id": pa.array([o.id for o in objects], pa.int64()),
        "area_m2": pa.array([o.area_m2 for o in objects], pa.float64()),
        "score": pa.array([o.score for o in objects], pa.float64()),
        "category": pa.array([o.category for o in objects], pa.string()),
        "prompt_id": _prompt_ids(result),
    }
    for key in FIELDS[len(columns) :]:
        columns[key] = pa.array([as_text(result.provenance, key)] * len(objects), pa.string())
    return FeatureTable(polygons, columns | attribute_columns(result, columns))


def _prompt_ids(result: Result) -> pa.Array:
    features = () if result.prompt is None else result.prompt.features
    if all(isinstance(feature.id, int) for feature in features):
        return pa.array([o.prompt_id for o in result.objects], pa.int64())
    return pa.array([None if o.prompt_id is None else str(o.prompt_id) for o in result.objects], pa.string())


def _frame(result: Result) -> str:
    return "pixel coordinates with y down" if result.transform.is_identity else "coordinates of its transform"


def _write_ogr(result: Result, table: FeatureTable, path: Path, driver: str, layer: str) -> None:
    options: dict[str, Any] = {}
    metadata: dict[str, str] | None = None
    polygons, crs = table.polygons, result.crs.to_wkt() if result.crs is not None else None
    if driver == "GeoJSON" and result.crs is not None:
        check_place(result.crs)
        options = {"RFC7946": "YES", "COORDINATE_PRECISION": "7"}
        if len(polygons):
            polygons, crs = to_lonlat(unwrapped_lonlat(polygons, result.crs)), "EPSG:4326"
    elif driver == "GeoJSON":
        options = {"DESCRIPTION": f"The scene has no CRS: {_frame(result)}."}
    elif driver == "GPKG":
        metadata = {key.upper(): as_text(result.provenance, key) for key in PROVENANCE_KEYS}
        metadata["STATUS"] = result.status.value
        options = {"DESCRIPTION": as_text(result.provenance, "instruction")}
    elif driver == "ESRI Shapefile":
        table, layer = _for_shapefile(table), path.stem
    count = len(table.polygons)
    masks = [column.is_null().to_numpy(zero_copy_only=False) for column in table.columns.values()]
    with warnings.catch_warnings():
        # A scene without a CRS has been warned about already, in words that fit.
        warnings.filterwarnings("ignore", "'crs' was not provided")
        pyogrio.raw.write(
            path,
            geometry=np.asarray(shapely.to_wkb(polygons), object),
            field_data=[_filled(column) for column in table.columns.values()],
            fields=list(table.columns),
            field_mask=masks,
            geometry_type=str(polygons[0].geom_type) if count else "Polygon",
            crs=crs,
            driver=driver,
            layer=layer,
            layer_metadata=metadata,
            layer_options=options,
            dataset_options={"VERSION": "1.2"} if driver == "GPKG" else None,
            encoding="UTF-8",
        )
    written = pyogrio.read_info(path, force_feature_count=True)["features"]
    if written != count:
        raise OutputError("The file was not written in full.", received=f"{written} of {count} polygons")


def _filled(column: pa.Array) -> NDArray[Any]:
    """Values as NumPy holds them; what stands for a null is hidden by a mask."""
    if pa.types.is_string(column.type):
        return np.array(column.to_pylist(), object)
    if not pa.types.is_temporal(column.type):  # those have a null of their own
        column = column.fill_null(False if pa.types.is_boolean(column.type) else 0)
    return np.asarray(column.to_numpy(zero_copy_only=False))


def _for_shapefile(table: FeatureTable) -> FeatureTable:
    """What the dBASE part of a Shapefile can hold; what is cut is logged."""
    columns: dict[str, pa.Array] = {}
    shorts = unique_names(table.columns, longest=_DBF_NAME)
    for short, (name, values) in zip(shorts, table.columns.items(), strict=True):
        if short != name:
            log.warning("A Shapefile has names of %d characters: %s became %s.", _DBF_NAME, name, short)
        columns[short] = values
        if pa.types.is_string(values.type):
            texts = [text and text.encode()[:_DBF_TEXT].decode("utf-8", "ignore") for text in values.to_pylist()]
            columns[short] = pa.array(texts, pa.string())
            if columns[short] != values:
                log.warning("A Shapefile has texts of %d bytes: %s was cut.", _DBF_TEXT, short)
    return FeatureTable(table.polygons, columns)


def _write_parquet(result: Result, table: FeatureTable, path: Path) -> None:
    """GeoParquet 1.1: WKB, PROJJSON, and a box a feature so that readers can skip row groups."""
    bounds = shapely.bounds(table.polygons).reshape(-1, 4)
    arrays = {
        **table.columns,
        "geometry": pa.array(shapely.to_wkb(table.polygons), pa.binary()),
        "bbox": pa.StructArray.from_arrays(
            [pa.array(bounds[:, i], pa.float64()) for i in range(4)], names=["xmin", "ymin", "xmax", "ymax"]
        ),
    }
    corners = ("xmin", "ymin", "xmax", "ymax")
    geometry: dict[str, Any] = {
        "encoding": "WKB",
        "geometry_types": [table.geometry_type],
        "crs": CRS.from_user_input(result.crs).to_json_dict() if result.crs is not None else None,
        "orientation": "counterclockwise",
        "edges": "planar",
        "covering": {"bbox": {corner: ["bbox", corner] for corner in corners}},
    }
    if len(bounds):
        geometry["bbox"] = [*bounds[:, :2].min(axis=0).tolist(), *bounds[:, 2:].max(axis=0).tolist()]
    geo = {"version": "1.1.0", "primary_column": "geometry", "columns": {"geometry": geometry}}
    notes = {key: as_text(result.provenance, key) for key in PROVENANCE_KEYS} | {"status": result.status.value}
    data = pa.table(arrays).replace_schema_metadata({"geo": json.dumps(geo), "terraprompt": json.dumps(notes)})
    pyarrow.parquet.write_table(data, path, compression="zstd", row_group_size=65536)
