"""Objects of a mask, and the selectors that single out some of them without doubt.

A generated instruction is only as good as its uniqueness: "the largest" needs a clear lead, "in the upper left" nobody
close to the line. What is not clear is not written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.geometry.connectivity import label
from terraprompt.geometry.types import Box
from terraprompt.language.selector import Kind, Selector, in_place
from terraprompt.language.spatial import PLACES, SIDES

__all__ = [
    "Component",
    "Components",
    "Margins",
    "clear_places",
    "clear_selectors",
    "components",
    "empty_selectors",
]


@dataclass(frozen=True, slots=True)
class Component:
    """One object of a mask.

    Attributes:
        area: pixels.
        box: ``(x0, y0, x1, y1)`` in pixels, x1 and y1 exclusive.
        centroid: (x, y), mean of the pixel centres.
    """

    area: float
    box: Box
    centroid: tuple[float, float]


@dataclass(frozen=True, slots=True)
class Components:
    """The objects of one category in one image or crop: 8-connected parts of a mask.

    Attributes:
        labels: int32 (height, width), 0 = none, i + 1 = ``items[i]``, -1 = a speck.
        items: in order of their first pixel.
        specks: how many were too small to be objects; with any, nothing is "the smallest".
    """

    labels: NDArray[np.int32]
    items: tuple[Component, ...]
    specks: int

    def mask(self, indexes: Sequence[int]) -> NDArray[np.uint8]:
        """uint8 (height, width), 1 where one of the objects ``indexes`` is."""
        wanted = np.zeros(len(self.items) + 2, np.uint8)
        wanted[[i + 1 for i in indexes]] = 1
        return wanted[self.labels]  # label -1 reads the last entry, which stays 0


def components(mask: NDArray[np.generic], *, min_area: int = 16) -> Components:
    """Objects of a mask or of a map of object ids.

    Args:
        mask: (height, width), 0 = not the category. Different non-zero values are different objects even where they
            touch; parts of one value that are not connected (a crop can cut an object) are different objects too.
        min_area: those with fewer pixels are specks.
    """
    labels, found = label(mask)
    rows, cols = np.nonzero(labels)
    part = labels[rows, cols].astype(np.int64)
    value = np.unique(mask[rows, cols], return_inverse=True)[1]
    if value.size and value.max() > 0:  # touching objects share a part: tell them apart by value
        part = np.unique(part * (value.max() + 1) + value, return_inverse=True)[1] + 1
        found = int(part.max())
    areas = np.bincount(part, minlength=found + 1)
    kept = np.flatnonzero(areas >= min_area)
    renumber = np.full(found + 1, -1, np.int32)
    renumber[kept] = np.arange(1, len(kept) + 1)
    numbered = np.zeros(mask.shape, np.int32)
    numbered[rows, cols] = renumber[part]
    safe = np.maximum(areas, 1)
    xs = np.bincount(part, cols + 0.5, minlength=found + 1) / safe
    ys = np.bincount(part, rows + 0.5, minlength=found + 1) / safe
    boxes = ndimage.find_objects(np.maximum(numbered, 0), max_label=len(kept))
    items = tuple(
        Component(
            area=float(areas[i]),
            box=(float(span[1].start), float(span[0].start), float(span[1].stop), float(span[0].stop)),
            centroid=(float(xs[i]), float(ys[i])),
        )
        for i, span in zip(kept.tolist(), boxes, strict=True)
    )
    return Components(numbered, items, found - len(kept))


@dataclass(frozen=True, slots=True)
class Margins:
    """How clear a difference must be.

    Attributes:
        size: an object is larger than the next if its area is at least this many times as large.
        lead: an object is nearer to a side than the next if it leads by this share of the image's side.
        line: no centroid may be this close to a dividing line, as a share of the side.
        spill: at most this share of an object's box may lie on the other side of the line.
        many: with more objects than this, ordinals ("the third from the left") are left out.
    """

    size: float = 1.3
    lead: float = 0.05
    line: float = 0.05
    spill: float = 0.2
    many: int = 8


def clear_selectors(found: Components, *, max_count: int = 3, margins: Margins | None = None) -> list[Selector]:
    """Selectors that pick a proper, non-empty part of the objects beyond doubt, in a stable order.

    Compass and image words mean the same here: north is up.
    """
    margins = margins or Margins()
    items = found.items
    height, width = found.labels.shape
    if len(items) < 2:
        return []
    out: list[Selector] = []
    by_area = sorted((item.area for item in items), reverse=True)
    out += _ranked("largest", None, _gaps_by_ratio(by_area, margins.size), len(items), max_count, margins)
    if not found.specks:
        gaps = _gaps_by_ratio(by_area[::-1], 1 / margins.size)
        if not _touches_border(min(items, key=lambda item: item.area), width, height):
            out += _ranked("smallest", None, gaps, len(items), max_count, margins)
    for side in SIDES:
        out += _ranked(
            "extreme",
            side,
            _side_gaps(items, side, width, height, margins.lead),
            len(items),
            max_count,
            margins,
        )
    if _clearly_central(items, width, height, margins.lead):
        out.append(Selector("central"))
    for place in PLACES:
        inside = _clear_members(items, place, width, height, margins)
        if inside is not None and 0 < len(inside) < len(items):
            out.append(Selector("region", place))
    return out


def clear_places(found: Components, *, margins: Margins | None = None) -> list[str]:
    """Places that hold every object beyond doubt, in a stable order."""
    height, width = found.labels.shape
    everyone = list(range(len(found.items)))
    return [p for p in PLACES if _clear_members(found.items, p, width, height, margins or Margins()) == everyone]


def empty_selectors(found: Components, *, margins: Margins | None = None) -> list[Selector]:
    """Region selectors that pick nothing although the image has objects: hard samples without a target."""
    margins = margins or Margins()
    height, width = found.labels.shape
    if not found.items or found.specks:
        return []
    return [
        Selector("region", place)
        for place in PLACES
        if all(_overlap(item.box, place, width, height) == 0 for item in found.items)
        and _clear_members(found.items, place, width, height, margins) == []
    ]


def _ranked(
    kind: Kind, where: str | None, gaps: list[bool], total: int, max_count: int, margins: Margins
) -> list[Selector]:
    """Selectors of an order in which ``gaps[i]`` says whether the i-th is clearly before the next."""
    out = []
    for count in range(1, max_count + 1):
        if count < total and gaps[count - 1]:
            out.append(Selector(kind, where, count=count))
    for rank in range(2, 4):
        if rank <= total <= margins.many and gaps[rank - 2] and (rank == total or gaps[rank - 1]):
            out.append(Selector(kind, where, rank=rank))
    return out


def _gaps_by_ratio(values: list[float], ratio: float) -> list[bool]:
    """Whether each value exceeds the next by the ratio; for a ratio below 1, whether it stays below the next by it."""
    return [a >= ratio * b if ratio > 1 else a <= ratio * b for a, b in pairwise(values)]


def _side_gaps(items: Sequence[Component], side: str, width: int, height: int, lead: float) -> list[bool]:
    """Gaps in the order from a side; centroid and outline must agree on it."""
    axis = 0 if side in ("left", "right") else 1
    sign = 1 if side in ("left", "top") else -1
    length = (width, height)[axis]
    edge = axis if sign == 1 else axis + 2
    ordered = sorted(items, key=lambda item: sign * item.centroid[axis])
    return [
        sign * (b.centroid[axis] - a.centroid[axis]) >= lead * length
        and all(sign * (c.box[edge] - a.box[edge]) >= 0 for c in ordered[i + 1 :])
        for i, (a, b) in enumerate(pairwise(ordered))
    ]


def _clearly_central(items: Sequence[Component], width: int, height: int, lead: float) -> bool:
    away = sorted(float(np.hypot(i.centroid[0] - width / 2, i.centroid[1] - height / 2)) for i in items)
    side = min(width, height)
    return away[0] <= 0.2 * side and away[1] - away[0] >= 2 * lead * side


def _clear_members(
    items: Sequence[Component], place: str, width: int, height: int, margins: Margins
) -> list[int] | None:
    """Indexes of the objects in a place, or None if one of them is neither clearly in nor clearly out."""
    inside = []
    for i, item in enumerate(items):
        x, y = item.centroid
        shifts = [
            (x + dx * margins.line * width, y + dy * margins.line * height) for dx in (-1, 0, 1) for dy in (-1, 0, 1)
        ]
        votes = {in_place(point, place, width, height) for point in shifts}
        share = _overlap(item.box, place, width, height)
        if (
            len(votes) > 1
            or (True in votes and share < 1 - margins.spill)
            or (False in votes and share > margins.spill)
        ):
            return None
        if True in votes:
            inside.append(i)
    return inside


def _overlap(box: Box, place: str, width: int, height: int) -> float:
    """Share of a box inside a place."""
    px0, py0, px1, py1 = _bounds(place, width, height)
    x0, y0, x1, y1 = box
    across = max(0.0, min(x1, px1) - max(x0, px0)) * max(0.0, min(y1, py1) - max(y0, py0))
    return across / ((x1 - x0) * (y1 - y0))


def _bounds(place: str, width: int, height: int) -> Box:
    if place == "centre":
        return width / 3, height / 3, 2 * width / 3, 2 * height / 3
    words = place.split()
    return (
        width / 2 if "right" in words else 0.0,
        height / 2 if "lower" in words else 0.0,
        width / 2 if "left" in words else float(width),
        height / 2 if "upper" in words else float(height),
    )


def _touches_border(item: Component, width: int, height: int) -> bool:
    x0, y0, x1, y1 = item.box
    return x0 <= 0 or y0 <= 0 or x1 >= width or y1 >= height
