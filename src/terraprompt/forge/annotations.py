"""Box labels of public detection sets as corner lists: DOTA text, Pascal VOC and FAIR1M XML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

from terraprompt.errors import DatasetError

__all__ = ["Outline", "read_boxes"]

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


def read_boxes(path: Path, kind: str) -> list[Outline]:
    """Objects of a label file.

    Args:
        path: of the file.
        kind: "dota", "voc" or "fair1m".

    Raises:
        DatasetError: missing or broken; the message names the line or object.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
        return list({"dota": _dota, "voc": _voc, "fair1m": _fair1m}[kind](text))
    except (OSError, UnicodeDecodeError, ElementTree.ParseError, ValueError) as error:
        raise DatasetError(
            f"A file of boxes cannot be read: {error}.",
            received=path,
            hint="Repair the copy, or set `on_broken_file: skip`.",
        ) from None


def _dota(text: str) -> Iterator[Outline]:
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split()
        if not words or re.match(r"\w+:", words[0]):
            continue  # imagesource:, gsd:
        if len(words) < 9:
            raise ValueError(f"line {number} has {len(words)} words")
        yield _outline(words[8], [(words[i], words[i + 1]) for i in range(0, 8, 2)], f"line {number}")


def _objects(text: str, where: str) -> Iterator[tuple[int, ElementTree.Element]]:
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares entities, which labels have no use for")
    yield from enumerate(ElementTree.fromstring(text).iterfind(where), 1)


def _voc(text: str) -> Iterator[Outline]:
    for number, thing in _objects(text, "object"):
        box = {name: thing.findtext(f"bndbox/{name}") or "" for name in ("xmin", "ymin", "xmax", "ymax")}
        x0, y0, x1, y1 = box["xmin"], box["ymin"], box["xmax"], box["ymax"]
        yield _outline(
            (thing.findtext("name") or "").strip(), [(x0, y0), (x1, y0), (x1, y1), (x0, y1)], f"object {number}"
        )


def _fair1m(text: str) -> Iterator[Outline]:
    for number, thing in _objects(text, "objects/object"):
        corners = []
        for point in thing.iterfind("points/point"):
            x, _, y = (point.text or "").partition(",")
            corners.append((x, y))
        if len(corners) > 3 and corners[0] == corners[-1]:
            corners.pop()
        yield _outline((thing.findtext("possibleresult/name") or "").strip(), corners, f"object {number}")


def _outline(label: str, corners: list[tuple[str, str]], where: str) -> Outline:
    try:
        numbers = tuple((float(x), float(y)) for x, y in corners)
    except ValueError:
        raise ValueError(f"{where} has a coordinate that is no number") from None
    if len(numbers) < 3 or not all(math.isfinite(v) for point in numbers for v in point):
        raise ValueError(f"{where} has no outline")
    if not label:
        raise ValueError(f"{where} has no class")
    return Outline(label, numbers)
