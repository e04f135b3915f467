"""Points and boxes from a vector file."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError, FeatureError, FieldError, GeometryError
from shapely.errors import GEOSException

from terraprompt.errors import PromptError
from terraprompt.prompt import Box, Point, Prompt

__all__ = ["read_prompt_file"]


def read_prompt_file(
    path: str | Path, *, text: str | None = None, crs: str | None = None, layer: str | None = None
) -> Prompt:
    """Read a prompt from any vector file that GDAL reads.

    Points become points; each area, also each part of a multipart area, its bounding box. An integer attribute
    ``label`` (1 on the target, 0 not on it) and an attribute ``object`` (points of one value describe one target) are
    understood; without an ``object`` a positive point is a target of its own and a negative point refines all.

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
        meta, _, geometry, columns = pyogrio.raw.read(path, layer=_layer(path, layer))
        shapes = None if geometry is None else shapely.from_wkb(geometry)
    except (DataSourceError, DataLayerError, FeatureError, FieldError, GeometryError, GEOSException) as error:
        raise PromptError(
            "The prompt file cannot be read.",
            received=f"{path}: {str(error).rstrip('.')}",
            hint="Give a vector file of points or areas: GeoJSON, GeoPackage, Shapefile, …",
        ) from error
    if shapes is None:
        raise PromptError("The prompt file has no geometry.", received=path, hint="Give points or boxes, not a table.")
    attributes = dict(zip(meta["fields"], columns, strict=True))
    shapes_ok = [s is not None and not s.is_empty for s in shapes]
    if not any(shapes_ok):
        raise PromptError(
            "The prompt file holds no geometry.",
            received=f"{path} with {len(shapes)} features",
            hint="Draw at least one point or area in it.",
        )
    crs = crs or meta["crs"]
    if crs is None:
        raise PromptError(
            "The prompt file has no CRS.", received=path, hint="Say it with --prompt-crs, e.g. EPSG:4326, or pixel."
        )
    points: list[Point] = []
    labels: list[int] = []
    names: list[object] = []
    boxes: list[Box] = []
    for i, shape in enumerate(shapes):
        if not shapes_ok[i]:
            continue
        for part in shapely.get_parts(shape):
            if part.geom_type == "Point":
                points.append((part.x, part.y))
                labels.append(_label(attributes.get("label"), i, path))
                names.append(_name(attributes.get("object"), i, labels[-1]))
            elif part.geom_type == "Polygon":
                if "label" in attributes and not _is_null(attributes["label"][i]):
                    _check_on_target(_label(attributes["label"], i, path), path)
                boxes.append(part.bounds)
            else:
                raise PromptError(
                    "A prompt is made of points and areas.",
                    received=f"{part.geom_type} in {path}",
                    hint="Remove it, or draw a box round the target.",
                )
    order = {name: k for k, name in enumerate(dict.fromkeys(names))}
    groups = tuple(order[name] for name in names) if len(order) > 1 or boxes else ()
    return Prompt(text, tuple(points), tuple(labels), tuple(boxes), None if crs == "pixel" else crs, groups)


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


def _name(values: np.ndarray[tuple[int], np.dtype[np.generic]] | None, i: int, label: int) -> object:
    """Which target a point belongs to: one of its own, or for a negative point all, if the file does not say."""
    if values is not None and not _is_null(values[i]):
        return values[i]
    return object() if label == 1 else None


def _check_on_target(label: int, path: Path) -> None:
    if label == 0:
        raise PromptError("An area cannot be marked as not on the target.", received=path, hint="Use points for that.")


def _label(values: np.ndarray[tuple[int], np.dtype[np.generic]] | None, i: int, path: Path) -> int:
    if values is None:
        return 1
    try:
        label = float(values[i])
    except (TypeError, ValueError):
        label = math.nan
    if label not in (0, 1):
        raise PromptError(
            'The attribute "label" is 1 (on the target) or 0 (not on it).',
            received=f"{values[i]} in {path}",
            hint="Correct the attribute, or remove it: without it every point is on the target.",
        )
    return int(label)
