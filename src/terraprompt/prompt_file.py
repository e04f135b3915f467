"""Points and boxes from a vector file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyogrio
import shapely
from pyogrio.errors import DataLayerError, DataSourceError

from terraprompt.errors import PromptError
from terraprompt.prompt import Box, Point, Prompt

__all__ = ["read_prompt_file"]


def read_prompt_file(path: str | Path, *, text: str | None = None, crs: str | None = None) -> Prompt:
    """Read a prompt from any vector file that GDAL reads.

    Points become points, anything with an area its bounding box. An integer attribute ``label`` (1 on the target, 0
    not on it) and an attribute ``object`` (points of one value describe one target) are understood; without
    ``object`` every positive point is a target of its own and negative points refine all.

    Args:
        path: GeoJSON, GeoPackage, Shapefile, …
        text: the instruction that goes with it.
        crs: overrides the file's CRS.

    Raises:
        PromptError: missing or unreadable file, no geometry, no CRS, or geometry that is neither point nor area.
    """
    path = Path(path)
    if not path.is_file():
        raise PromptError("The prompt file is missing.", received=path)
    try:
        meta, _, geometry, columns = pyogrio.raw.read(path)
    except (DataSourceError, DataLayerError) as error:
        raise PromptError("The prompt file cannot be read.", received=f"{path}: {error}") from error
    if geometry is None:
        raise PromptError("The prompt file has no geometry.", received=path, hint="Give points or boxes, not a table.")
    shapes = shapely.from_wkb(geometry)
    attributes = dict(zip(meta["fields"], columns, strict=True))
    shapes_ok = [s is not None and not s.is_empty for s in shapes]
    if not any(shapes_ok):
        raise PromptError("The prompt file holds no geometry.", received=f"{path} with {len(shapes)} features")
    crs = crs or meta["crs"]
    if crs is None:
        raise PromptError("The prompt file has no CRS.", received=path, hint="Say it with --prompt-crs.")
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
                names.append(attributes["object"][i] if "object" in attributes else None)
            elif part.geom_type == "Polygon":
                boxes.append(part.bounds)
            else:
                raise PromptError("A prompt is made of points and areas.", received=f"{part.geom_type} in {path}")
    groups: tuple[int, ...] = ()
    if "object" in attributes:
        order = {name: k for k, name in enumerate(dict.fromkeys(names))}
        groups = tuple(order[name] for name in names)
    elif sum(labels) > 1 and all(labels):
        groups = tuple(range(len(points)))
    return Prompt(text, tuple(points), tuple(labels), tuple(boxes), crs, groups)


def _label(values: np.ndarray[tuple[int], np.dtype[np.generic]] | None, i: int, path: Path) -> int:
    if values is None:
        return 1
    try:
        label = int(values[i])
    except (TypeError, ValueError):
        label = -1
    if label not in (0, 1):
        raise PromptError(
            'The attribute "label" is 1 (on the target) or 0 (not on it).', received=f"{values[i]} in {path}"
        )
    return label
