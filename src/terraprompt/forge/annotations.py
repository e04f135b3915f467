"""Labels of one image in text, XML or JSON: DOTA, Pascal VOC and FAIR1M boxes; YOLO and LabelMe outlines and boxes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import shapely

from terraprompt.errors import DatasetError
from terraprompt.io.text import decode_utf8

__all__ = ["Annotation", "Outline", "polygon", "read_boxes", "read_labelme", "read_yolo"]

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outline:
    """One labelled object.

    Attributes:
        label: the source's word.
        corners: in pixels of the image, in order round the object.
    """

    label: str
    corners: tuple[Point, ...]

    @property
    def box(self) -> tuple[float, float, float, float]:
        """The upright box round the corners."""
        xs, ys = [x for x, _ in self.corners], [y for _, y in self.corners]
        return min(xs), min(ys), max(xs), max(ys)


Raw = tuple[str, list[tuple[Any, Any]], str]


def read_boxes(path: Path, kind: str, bad: Callable[[str], None] | None = None) -> list[Outline]:
    """Objects of a label file.

    Args:
        path: of the file.
        kind: "dota", "voc" or "fair1m".
        bad: told which object cannot be used, and why; None raises instead.

    Raises:
        DatasetError: missing or broken; the message names the line or object.
    """
    try:
        text = decode_utf8(path.read_bytes(), path)
        found = []
        for raw in {"dota": _dota, "voc": _voc, "fair1m": _fair1m}[kind](text):
            try:
                found.append(_outline(*raw))
            except ValueError as error:
                if bad is None:
                    raise
                bad(str(error))
        return found
    except (OSError, ElementTree.ParseError, ValueError) as error:
        raise DatasetError(
            f"A file of boxes cannot be read: {error}.",
            received=path,
            hint="Repair the copy, or set `on_broken_file: skip`.",
        ) from None


@dataclass(frozen=True, slots=True)
class Annotation:
    """One labelled object of a format that holds outlines and boxes; or why it cannot be used.

    Attributes:
        label: the source's word.
        shape: shapely geometry in pixels of the image.
        is_box: the shape is only the box round the object.
        name: which one of the file it is.
        fault: why it is left out, with its name; empty = usable.
    """

    label: str
    shape: Any = None
    is_box: bool = False
    name: str = ""
    fault: str = ""


def polygon(points: Any) -> Any:
    """A valid shapely geometry of one ring: numbers (n, 2) or (2n,).

    Raises:
        ValueError: fewer than three points, no numbers, or no area.
    """
    try:
        ring = np.asarray(points, np.float64).reshape(-1, 2)
    except (TypeError, ValueError):
        raise ValueError("an outline that is not made of pairs of numbers") from None
    if len(ring) < 3:
        raise ValueError(f"an outline of {len(ring)} points")
    if not np.isfinite(ring).all():
        raise ValueError("an outline with a coordinate that is no number")
    shape = shapely.make_valid(shapely.Polygon(ring))
    if shape.area == 0:
        raise ValueError("an outline without area")
    return shape


def read_yolo(path: Path, size: tuple[int, int], names: Mapping[int, str]) -> list[Annotation]:
    """Objects of a YOLO text file: ``class x y w h [confidence]`` or ``class x1 y1 x2 y2 x3 y3 …``, shares of the size.

    Args:
        path: of the file; an empty one has no objects.
        size: (width, height) of the image.
        names: number of a class -> its word.

    Raises:
        DatasetError: missing, or not UTF-8.
    """
    try:
        text = decode_utf8(path.read_bytes(), path)
    except OSError as error:
        raise DatasetError(f"A file of labels cannot be read: {error}.", received=path) from None
    found = []
    for number, line in enumerate(text.splitlines(), 1):
        if not (words := line.split()):
            continue
        try:
            code, values = int(words[0]), np.asarray(words[1:], np.float64)
            is_box = len(values) in (4, 5)
            if not is_box and (len(values) < 6 or len(values) % 2):
                raise ValueError(f"{len(words)} words, neither a box (5) nor an outline (7, 9, …)")
            if not ((values > -0.01) & (values < 1.01)).all():  # also NaN
                raise ValueError("numbers outside 0 to 1, which are no shares of the size")
            if is_box:
                x, y, w, h = values[:4]
                values = np.array(
                    [x - w / 2, y - h / 2, x + w / 2, y - h / 2, x + w / 2, y + h / 2, x - w / 2, y + h / 2]
                )
            shape = polygon(values.reshape(-1, 2) * size)
            found.append(Annotation(names.get(code, f"class {code}"), shape, is_box, f"line {number}"))
        except ValueError as error:
            found.append(Annotation("", fault=f"line {number} has {error}"))
    return found


def read_labelme(path: Path) -> list[Annotation]:
    """Shapes of a LabelMe JSON file: polygons, rectangles and circles.

    Raises:
        DatasetError: missing, not JSON, or without shapes.
    """
    try:
        shapes = json.loads(decode_utf8(path.read_bytes(), path))["shapes"]
        if not isinstance(shapes, list):
            raise TypeError("shapes is no list")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DatasetError(f"A LabelMe file cannot be read ({error!r}).", received=path) from None
    found = []
    for number, raw in enumerate(shapes, 1):
        try:
            kind, label = raw.get("shape_type") or "polygon", str(raw["label"])
            if kind == "polygon":
                shape = polygon(raw["points"])
            elif kind in ("rectangle", "circle"):
                (x0, y0), (x1, y1) = raw["points"]
                if kind == "rectangle":
                    shape = polygon([(x0, y0), (x1, y0), (x1, y1), (x0, y1)])
                else:
                    shape = shapely.Point(x0, y0).buffer(float(np.hypot(x1 - x0, y1 - y0)), quad_segs=32)
            else:
                raise ValueError(f"the type {kind!r}, which is no area")
            found.append(Annotation(label, shape, kind == "rectangle", f"shape {number}"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            reason = str(error) if isinstance(error, ValueError) else repr(error)
            found.append(Annotation("", fault=f"shape {number} has {reason}"))
    return found


def _dota(text: str) -> Iterator[Raw]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or re.match(r"\w+:", words[0]):
            continue  # imagesource:, gsd:
        if len(words) < 9:
            yield "", [], f"line {number} has {len(words)} words, so it"
            continue
        yield words[8], [(words[i], words[i + 1]) for i in range(0, 8, 2)], f"line {number}"


def _objects(text: str, where: str) -> Iterator[tuple[int, ElementTree.Element]]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which labels have no use for")
    yield from enumerate(ElementTree.fromstring(text).iterfind(where), 1)


def _voc(text: str) -> Iterator[Raw]:
    for number, thing in _objects(text, "object"):
        box = {name: thing.findtext(f"bndbox/{name}") or "" for name in ("xmin", "ymin", "xmax", "ymax")}
        x0, y0, x1, y1 = box["xmin"], box["ymin"], box["xmax"], box["ymax"]
        corners = [(x0, y0), (x1, y0), (x1, y1), (x0, y1)]
        yield (thing.findtext("name") or "").strip(), corners, f"object {number}"


def _fair1m(text: str) -> Iterator[Raw]:
    for number, thing in _objects(text, "objects/object"):
        corners = []
        for point in thing.iterfind("points/point"):
            x, _, y = (point.text or "").partition(",")
            corners.append((x, y))
        if len(corners) > 3 and corners[0] == corners[-1]:
            corners.pop()
        yield (thing.findtext("possibleresult/name") or "").strip(), corners, f"object {number}"


def _outline(label: str, corners: list[tuple[Any, Any]], where: str) -> Outline:
    try:
        numbers = tuple((float(x), float(y)) for x, y in corners)
    except ValueError:
        raise ValueError(f"{where} has a coordinate that is no number") from None
    if len(numbers) < 3 or not all(math.isfinite(v) for point in numbers for v in point):
        raise ValueError(f"{where} has no outline")
    if not label:
        raise ValueError(f"{where} has no class")
    return Outline(label, numbers)
