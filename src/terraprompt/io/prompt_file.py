"""Points and boxes from a vector file, or from features in memory."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyogrio
import shapely
import shapely.geometry
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError
from pyproj import CRS
from pyproj.exceptions import CRSError
from shapely.errors import GEOSException, ShapelyError

from terraprompt.errors import PromptError
from terraprompt.prompt import Box, Point, Prompt, PromptFeature

__all__ = ["Features", "PromptLike", "as_prompt", "has_features", "prompt_from_features", "read_prompt_file"]


def read_prompt_file(
    path: str | Path, *, text: str | None = None, crs: str | None = None, layer: str | None = None
) -> Prompt:
    """Read a prompt from any vector file that GDAL reads.

    Points become points; each area, also each part of a multipart area, its bounding box. An integer attribute
    ``label`` (1 on the target, 0 not on it) and an attribute ``object`` (points of one value describe one target) are
    understood; without an ``object`` a positive point is a target of its own and a negative point refines all.
    The prompt's ``features`` hold the FID of each (of GeoJSON the "id") and all attributes.

    Args:
        path: GeoJSON, GeoPackage, Shapefile, …
        text: the instruction that goes with it.
        crs: overrides the file's CRS; "pixel": its numbers are pixels of the scene.
        layer: of a file with several layers that hold geometry.

    Raises:
        PromptError: missing or unreadable file, several layers to choose from, no geometry, no CRS, geometry that is
            neither point nor area, a label that is neither 0 nor 1, or an area that is not on the target.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError("The prompt file is missing.", received=path, hint="Check the path.")
    try:
        meta, fids, geometry, columns = pyogrio.raw.read(path, layer=_layer(path, layer), return_fids=True)
        shapes = None if geometry is None else shapely.from_wkb(geometry)
    except (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError, GEOSException) as error:
        raise PromptError(
            "The prompt file cannot be read.",
            received=f"{path}: {str(error).rstrip('.')}",
            hint="Give a vector file of points or areas: GeoJSON, GeoPackage, Shapefile, …",
        ) from error
    if shapes is None:
        raise PromptError("The prompt file has no geometry.", received=path, hint="Give points or boxes, not a table.")
    crs = crs or meta["crs"]
    if crs is None and _some(shapes):
        raise PromptError(
            "The prompt file has no CRS.", received=path, hint="Say it with --prompt-crs, e.g. EPSG:4326, or pixel."
        )
    attributes = {
        str(name): [_value(value, str(kind)) for value in values]
        for name, kind, values in zip(meta["fields"], meta["dtypes"], columns, strict=True)
    }
    ids = fids.tolist()
    if path.suffix.lower() in (".geojson", ".json") and _are_names(attributes.get("id", ())):
        ids = attributes.pop("id")
    return _prompt(shapes, attributes, crs, text, f"{path}", ids, what="prompt file")


class Features(Protocol):
    """Anything that shows its features: a GeoDataFrame, a Shapely geometry, …"""

    @property
    def __geo_interface__(self) -> Mapping[str, Any]:
        """GeoJSON as a mapping."""
        ...


PromptLike = Prompt | str | os.PathLike[str] | Features | Mapping[str, Any]
#: A text that ends so names a file.
_SUFFIXES = (".gpkg", ".geojson", ".json", ".shp", ".fgb", ".parquet", ".geoparquet", ".gml", ".kml", ".kmz", ".gpx")


def has_features(value: object) -> bool:
    """Whether a value is something for :func:`prompt_from_features`."""
    return hasattr(value, "__geo_interface__") or (isinstance(value, Mapping) and "type" in value)


def as_prompt(value: object) -> Prompt:
    """A prompt from what a caller gives: itself, a sentence, a vector file, or features.

    Raises:
        PromptError: anything else, or as of :func:`read_prompt_file` and :func:`prompt_from_features`.
    """
    if isinstance(value, Prompt):
        return value
    if isinstance(value, os.PathLike) or (isinstance(value, str) and value.lower().endswith(_SUFFIXES)):
        return read_prompt_file(Path(value))
    if isinstance(value, str):
        return Prompt(value)
    if has_features(value):
        return prompt_from_features(value)
    raise PromptError(
        "A prompt is a sentence, a Prompt, or points and areas (a vector file, a GeoDataFrame, anything with "
        "__geo_interface__).",
        received=type(value).__name__,
    )


def prompt_from_features(source: Any, *, text: str | None = None, crs: Any = None) -> Prompt:
    """A prompt from features in memory, by the rules of :func:`read_prompt_file`.

    Args:
        source: a GeoDataFrame or GeoSeries, a Shapely geometry, a :class:`terraprompt.Result`, any other object with
            ``__geo_interface__``, or a GeoJSON mapping.
        text: the instruction that goes with it.
        crs: anything that pyproj accepts, or "pixel". None = what the source says by its attribute or member "crs"; a
            GeoJSON mapping that says nothing is in longitude and latitude (RFC 7946).

    Raises:
        PromptError: no geometry, no CRS, or as of :func:`read_prompt_file`.
    """
    data = source if isinstance(source, Mapping) else source.__geo_interface__
    kind = data.get("type")
    features = data.get("features", ()) if kind == "FeatureCollection" else (data,)
    name = type(source).__name__
    if crs is None:
        crs = _crs_of(source, data)
    try:
        crs = crs if crs in (None, "pixel") else CRS.from_user_input(crs).to_string()
        rows = [row if row["type"] == "Feature" else {"geometry": row, "properties": {}} for row in features]
        shapes = [None if row["geometry"] is None else shapely.geometry.shape(row["geometry"]) for row in rows]
    except CRSError as error:
        raise PromptError("The CRS of the prompt is unknown.", received=crs, hint="Name it like EPSG:4326.") from error
    except (KeyError, TypeError, ValueError, AttributeError, ShapelyError) as error:
        raise PromptError(
            "The features cannot be read.", received=f"{name}: {error}", hint="Give GeoJSON features or geometries."
        ) from error
    if crs is None and _some(shapes):
        raise PromptError("The features have no CRS.", received=name, hint='Say it: crs="EPSG:4326", or "pixel".')
    properties = [row.get("properties") or {} for row in rows]
    columns = {key: [each.get(key) for each in properties] for key in dict.fromkeys(k for p in properties for k in p)}
    return _prompt(shapes, columns, crs, text, name, _ids(source, rows))


def _ids(source: Any, rows: Sequence[Mapping[str, Any]]) -> list[int | str]:
    """Ids of features in memory: the index of a table, else their own; numbers from 1 where one has none."""
    index = getattr(source, "index", None)
    given = [row.get("id") for row in rows] if index is None or callable(index) else [_value(each) for each in index]
    if any(each is None for each in given):
        return list(range(1, len(rows) + 1))
    return [each if type(each) is int else str(each) for each in given]


def _are_names(values: Sequence[Any]) -> bool:
    """Whether the ids of a GeoJSON file are text, which GDAL gives as an attribute."""
    return bool(values) and all(isinstance(value, str) for value in values) and len(set(values)) == len(values)


def _crs_of(source: Any, data: Mapping[str, Any]) -> Any:
    if hasattr(source, "crs"):
        return source.crs
    said = data.get("crs")
    if isinstance(said, Mapping):
        return said.get("properties", {}).get("name")
    return "EPSG:4326" if isinstance(source, Mapping) else None


def _some(shapes: Iterable[Any]) -> bool:
    return any(s is not None and not s.is_empty for s in shapes)


def _prompt(
    shapes: Sequence[Any],
    attributes: Mapping[str, Sequence[Any]],
    crs: str | None,
    text: str | None,
    source: str,
    ids: Sequence[int | str],
    what: str = "prompt",
) -> Prompt:
    """Points and boxes of shapes; attributes hold one value a shape."""
    if not _some(shapes):
        raise PromptError(
            f"The {what} holds no geometry.",
            received=f"{source} with {len(shapes)} features",
            hint="Draw at least one point or area in it.",
        )
    points: list[Point] = []
    labels: list[int] = []
    names: list[object] = []
    boxes: list[Box] = []
    of_points: list[PromptFeature] = []
    of_boxes: list[PromptFeature] = []
    for i, shape in enumerate(shapes):
        if shape is None or shape.is_empty:
            continue
        feature = PromptFeature(ids[i], tuple((name, _value(values[i])) for name, values in attributes.items()))
        for part in shapely.get_parts(shape):
            if part.geom_type == "Point":
                points.append((part.x, part.y))
                of_points.append(feature)
                labels.append(_label(attributes.get("label"), i, source))
                names.append(_name(attributes.get("object"), i, labels[-1]))
            elif part.geom_type == "Polygon":
                if "label" in attributes and not _is_null(attributes["label"][i]):
                    _check_on_target(_label(attributes["label"], i, source), source)
                boxes.append(part.bounds)
                of_boxes.append(feature)
            else:
                raise PromptError(
                    "A prompt is made of points and areas.",
                    received=f"{part.geom_type} in {source}",
                    hint="Remove it, or draw a box round the target.",
                )
    order = {name: k for k, name in enumerate(dict.fromkeys(names))}
    groups = tuple(order[name] for name in names) if len(order) > 1 or boxes else ()
    return Prompt(
        text, tuple(points), tuple(labels), tuple(boxes), None if crs == "pixel" else crs, groups,
        features=(*of_points, *of_boxes),
    )  # fmt: skip


def _value(value: Any, kind: str = "") -> Any:
    """An attribute as Python holds it: None for null; lists and objects as JSON, bytes as hexadecimal text.

    Args:
        value: of a feature in memory, or of a column of pyogrio.
        kind: dtype of the column: pyogrio gives integers and booleans with nulls as floats.
    """
    value = value.item() if isinstance(value, np.generic) else value
    value = value.tolist() if isinstance(value, np.ndarray) else value
    if isinstance(value, bytes):
        return value.hex()
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, Mapping | list | tuple):
        return json.dumps(value, default=str, ensure_ascii=False)
    if _is_null(value):
        return None
    if isinstance(value, float) and kind.startswith(("int", "uint", "bool")):
        return bool(value) if kind == "bool" else int(value)
    return value


def _layer(path: Path, name: str | None) -> str | None:
    layers = [(str(found), kind) for found, kind in pyogrio.list_layers(path)]
    names = [found for found, kind in layers if kind is not None] or [found for found, _ in layers]
    if name is None and len(names) > 1:
        what, hint = "The prompt file has several layers.", "Choose one with --prompt-layer."
    elif name is not None and name not in [found for found, _ in layers]:
        what, hint = f"The prompt file has no layer {name!r}.", f"Layers: {', '.join(names)}."
    else:
        return name or (names[0] if names else None)
    raise PromptError(what, received=f"{', '.join(names)} in {path}", hint=hint)


def _is_null(value: object) -> bool:
    return value is None or value != value


def _name(values: Sequence[Any] | None, i: int, label: int) -> object:
    """Which target a point belongs to: one of its own, or for a negative point all, if the file does not say."""
    if values is not None and not _is_null(values[i]):
        return values[i]
    return object() if label == 1 else None


def _check_on_target(label: int, source: str) -> None:
    if label == 0:
        raise PromptError(
            "An area cannot be marked as not on the target.", received=source, hint="Use points for that."
        )


def _label(values: Sequence[Any] | None, i: int, source: str) -> int:
    if values is None:
        return 1
    try:
        label = float(values[i])
    except (TypeError, ValueError):
        label = math.nan
    if label not in (0, 1):
        raise PromptError(
            'The attribute "label" is 1 (on the target) or 0 (not on it).',
            received=f"{values[i]} in {source}",
            hint="Correct the attribute, or remove it: without it every point is on the target.",
        )
    return int(label)
