"""Distances and relations between objects of a map: what is near what, in which direction, how far.

Pairs come from a tree of boxes, so that 100,000 objects cost little more than a thousand times 100 do.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage
from scipy.spatial import cKDTree

from terraprompt.geometry.connectivity import STRUCTURE
from terraprompt.language.object_geometry import Component

__all__ = ["ADJACENT", "Relation", "direction", "nearest_of_kind", "outlines", "related"]

#: Pixel centres at most so far apart belong to objects that touch (a line of unlabelled pixels may lie between).
ADJACENT = 2.0
_WORDS = ("east", "southeast", "south", "southwest", "west", "northwest", "north", "northeast")
_HALF = 0.499
_FAR = 1e9


@dataclass(frozen=True, slots=True)
class Relation:
    """How one object lies to another.

    Attributes:
        other: index of the other object.
        gap: pixels between the nearest pixel centres.
        direction: where the other one is, a compass word; north is up.
        adjacent: they touch.
    """

    other: int
    gap: float
    direction: str
    adjacent: bool


def outlines(labels: NDArray[np.int32], count: int) -> list[NDArray[np.float32]]:
    """Outermost pixels of objects: those with a neighbour of the 8 that is not of the object, or at the frame.

    Args:
        labels: (height, width), object i has the value i + 1.
        count: of objects.

    Returns:
        (n, 2) of (x, y) of pixel centres for each object: its edge.
    """
    inner = ndimage.minimum_filter(labels, footprint=STRUCTURE, mode="constant", cval=-1) == ndimage.maximum_filter(
        labels, footprint=STRUCTURE, mode="constant", cval=-2
    )
    rows, columns = np.nonzero((labels > 0) & ~inner)
    owner = labels[rows, columns]
    order = np.argsort(owner, kind="stable")
    points = np.stack([columns[order] + 0.5, rows[order] + 0.5], axis=1).astype(np.float32)
    return np.split(points, np.searchsorted(owner[order], np.arange(2, count + 1)))


def direction(one: tuple[float, float], other: tuple[float, float]) -> str:
    """Compass word of the way from one point (x, y) to another; y goes down, north is up."""
    turn = np.arctan2(other[1] - one[1], other[0] - one[0])
    return _WORDS[round(float(turn) / (np.pi / 4)) % 8]


def related(
    items: Sequence[Component], edges: Sequence[NDArray[np.float32]], *, reach: float, max_count: int = 8
) -> list[list[Relation]]:
    """For each object, the nearest others within ``reach`` pixels, nearest first, at most ``max_count`` of them."""
    out: list[list[Relation]] = [[] for _ in items]
    if len(items) < 2:
        return out
    boxes = _boxes(items)
    ones, others = shapely.STRtree(boxes).query(boxes, predicate="dwithin", distance=reach)
    forward = ones < others
    trees = _Trees(edges)
    for i, j in zip(ones[forward].tolist(), others[forward].tolist(), strict=True):
        gap = trees.gap(i, j, reach)
        if gap > reach:
            continue
        a, b = items[i].centroid, items[j].centroid
        out[i].append(Relation(j, gap, direction(a, b), gap <= ADJACENT))
        out[j].append(Relation(i, gap, direction(b, a), gap <= ADJACENT))
    return [sorted(found, key=lambda r: (r.gap, r.other))[:max_count] for found in out]


def nearest_of_kind(
    items: Sequence[Component], kinds: Sequence[str], edges: Sequence[NDArray[np.float32]]
) -> list[float | None]:
    """Gap to the nearest other object of the same kind, pixels between centres; None if there is none."""
    out: list[float | None] = [None] * len(items)
    by_kind: dict[str, list[int]] = {}
    for index, kind in enumerate(kinds):
        by_kind.setdefault(kind, []).append(index)
    trees = _Trees(edges)
    for members in by_kind.values():
        if len(members) < 2:
            continue
        boxes = _boxes([items[i] for i in members])
        tree = shapely.STRtree(boxes)
        # The gap to the object with the nearest box bounds how far the true nearest can be. "exclusive" passes over
        # equal boxes: an object whose only neighbour has its very box has no bound yet.
        near = tree.query_nearest(boxes, exclusive=True, all_matches=False)
        best = dict.fromkeys(range(len(members)), _FAR)
        best |= {int(i): trees.gap(members[int(i)], members[int(j)]) for i, j in near.T}
        limits = np.array([best[i] for i in range(len(members))])
        ones, others = tree.query(boxes, predicate="dwithin", distance=limits)
        for i, j in zip(ones.tolist(), others.tolist(), strict=True):
            if i != j:
                best[i] = min(best[i], trees.gap(members[i], members[j], best[i]))
        for i, index in enumerate(members):
            out[index] = best[i]
    return out


def _boxes(items: Sequence[Component]) -> NDArray[np.object_]:
    """Boxes round the pixel centres, so that box distances never exceed gaps; a hair wider, because a tree compares
    boxes without area as it likes.
    """
    x0, y0, x1, y1 = np.array([item.box for item in items], np.float64).T
    found: NDArray[np.object_] = shapely.box(x0 + _HALF, y0 + _HALF, x1 - _HALF, y1 - _HALF)
    return found


class _Trees:
    """Gaps between objects; the tree of an edge is grown when it is first asked for."""

    def __init__(self, edges: Sequence[NDArray[np.float32]]) -> None:
        self._edges = edges
        self._trees: dict[int, cKDTree] = {}

    def gap(self, one: int, other: int, limit: float = np.inf) -> float:
        """Pixels between the nearest pixel centres of two objects; inf if more than ``limit``."""
        a, b = self._edges[one], self._edges[other]
        if len(a) * len(b) <= 4096:
            apart = a[:, None].astype(np.float64) - b[None]
            found = float(np.sqrt((apart * apart).sum(-1).min()))
            return found if found <= limit else float("inf")
        big, small = (one, b) if len(a) >= len(b) else (other, a)
        if big not in self._trees:
            self._trees[big] = cKDTree(self._edges[big])
        gaps, _ = self._trees[big].query(small, distance_upper_bound=limit + 1e-6)
        return float(gaps.min())
