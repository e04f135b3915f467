"""A mask as runs of equal pixels: sieve, hole filling and object labels without a pixel-sized label image.

A row-run is the natural unit of a mask: a 10,000 x 10,000 mask with one percent of specks has 100 million
pixels but 3 million runs, and once the specks are gone a few hundred thousand. Components are found on the
graph of runs that touch each other in neighbouring rows.

Objects are 8-connected (:mod:`terraprompt.geometry.connectivity`); holes are therefore 4-connected, the topological
dual: a diagonal row of gaps does not separate an object and is a row of holes.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from terraprompt.geometry.connectivity import CONNECTIVITY
from terraprompt.geometry.types import Bools, Ints
from terraprompt.raster.pixel_area import GroundArea

__all__ = ["NODATA", "ObjectRuns", "Runs", "SizeRule", "label_objects", "sieve"]

NODATA = 255
# A component that may still grow beyond the strip at hand; like nodata it keeps what it touches undecided.
_OPEN = 2

# How many pixels are taken apart together: even noise, a run a pixel, then fits into some hundred megabytes.
_PIXELS_AT_ONCE = 1 << 21
# How many runs look for their neighbours together: bounds the memory of a whole scene's runs.
_RUNS_AT_ONCE = 1 << 18

_DIAGONAL = CONNECTIVITY == 8


@dataclass(frozen=True, slots=True)
class SizeRule:
    """When a component is too small.

    Attributes:
        pixels: fewer pixels than this are too small.
        area_m2: less ground than this is too small; needs ``ground``.
        ground: ground area of pixels of the scene.
    """

    pixels: int = 1
    area_m2: float = 0.0
    ground: GroundArea | None = None

    @property
    def is_idle(self) -> bool:
        """Whether nothing can be too small."""
        return self.pixels <= 1 and self.area_m2 <= 0

    def too_small(self, label: NDArray[np.int32], count: int, start: Ints, length: Ints) -> Bools:
        """Which of ``count`` components are too small, by their runs (``label``, ``start``, ``length``)."""
        pixels = np.bincount(label, weights=length, minlength=count)
        small = pixels < self.pixels
        if self.area_m2 > 0 and self.ground is not None:
            # The tolerance keeps "exactly the minimum" from failing by a rounding error.
            small |= self.ground.of_runs(label, count, start, length) < self.area_m2 * (1 - 1e-9)
        return np.asarray(small)


@dataclass(frozen=True, slots=True)
class Runs:
    """A band of rows as runs in raster order; no run crosses the end of a row.

    Attributes:
        start: int64 (R,), position ``row * width + column`` in the whole raster of each run's first pixel.
        value: uint8 (R,), 0, 1 or 255 (nodata).
        width: pixels a row.
        stop: position after the last pixel of the band.
    """

    start: Ints
    value: NDArray[np.uint8]
    width: int
    stop: int

    @classmethod
    def encode(cls, rows: NDArray[np.uint8], row_offset: int) -> Runs:
        """Runs of an array (h, W) whose first row is row ``row_offset`` of the raster."""
        height, width = rows.shape
        edge = np.empty(rows.shape, bool)
        edge[:, 0] = True
        np.not_equal(rows[:, 1:], rows[:, :-1], out=edge[:, 1:])
        start = np.flatnonzero(edge)
        value = rows.reshape(-1)[start]
        return cls(start + row_offset * width, value, width, (row_offset + height) * width)

    @classmethod
    def concatenate(cls, parts: list[Runs]) -> Runs:
        """Bands that follow each other without a gap as one."""
        start = np.concatenate([p.start for p in parts])
        value = np.concatenate([p.value for p in parts])
        return cls(start, value, parts[0].width, parts[-1].stop)

    @property
    def length(self) -> Ints:
        """int64 (R,) pixels of each run."""
        return np.diff(self.start, append=self.stop)

    def with_value(self, value: NDArray[np.uint8]) -> Runs:
        """The same band with other values; neighbours that became equal are merged."""
        keep = np.empty(len(value), bool)
        keep[0] = True
        np.not_equal(value[1:], value[:-1], out=keep[1:])
        keep |= self.start % self.width == 0
        return Runs(self.start[keep], value[keep], self.width, self.stop)

    def decode(self, first_row: int, last_row: int) -> NDArray[np.uint8]:
        """The rows ``[first_row, last_row)`` as an array (h, W)."""
        low, high = first_row * self.width, last_row * self.width
        a, b = np.searchsorted(self.start, [low, high])
        length = np.diff(self.start[a:b], append=high)
        return np.repeat(self.value[a:b], length).reshape(last_row - first_row, self.width)

    def reach(self, index: Ints, diagonal: bool) -> tuple[Ints, Ints]:
        """Runs above and below the first pixel of the runs ``index``.

        Two runs that touch in neighbouring rows touch below or above the first pixel of one of them, so
        asking for both runs finds every contact.

        Returns:
            (i, j) positions: run ``i`` (of ``index``) touches run ``j``.
        """
        first, begin, width = self.start[index], int(self.start[0]), self.width
        has_up, has_down = first - width >= begin, first + width < self.stop
        asks = [(index[has_up], first[has_up] - width), (index[has_down], first[has_down] + width)]
        if diagonal:
            inner = first % width > 0
            up, down = inner & has_up, inner & has_down
            asks += [(index[up], first[up] - width - 1), (index[down], first[down] + width - 1)]
        found = [np.searchsorted(self.start, position, side="right") - 1 for _, position in asks]
        return np.concatenate([i for i, _ in asks]), np.concatenate(found)

    def components(self, target: int, diagonal: bool) -> tuple[Ints, NDArray[np.int32], int]:
        """Connected components of one value.

        Returns:
            (index, label, count): the runs with that value, their component from 0, the number of components.
        """
        is_target = self.value == target
        index = np.flatnonzero(is_target)
        position = np.cumsum(is_target, dtype=np.int32) - np.int32(1)
        ends = [(np.empty(0, np.int32), np.empty(0, np.int32))]
        for first in range(0, len(index), _RUNS_AT_ONCE):
            i, j = self.reach(index[first : first + _RUNS_AT_ONCE], diagonal)
            same = is_target[j]
            ends.append((position[i[same]], position[j[same]]))
        i, j = (np.concatenate(side) for side in zip(*ends, strict=True))
        del ends
        graph = coo_matrix((np.ones(len(i), np.int8), (i, j)), shape=(len(index), len(index)))
        count, label = connected_components(graph, directed=False)
        return index, label, int(count)

    def beside_unknown(self, target: int) -> Bools:
        """bool (R,): runs of ``target`` that touch, also by a corner, nodata or an open component."""
        unknown = self.value >= _OPEN
        beside = np.zeros(len(self.value), bool)
        if not unknown.any():
            return beside
        same_row = self.start[1:] % self.width > 0
        beside[1:] |= unknown[:-1] & same_row
        beside[:-1] |= unknown[1:] & same_row
        # A corner contact is seen from either of the two runs, so both kinds ask.
        i, j = self.reach(np.flatnonzero(self.value == target), diagonal=True)
        beside[i[unknown[j]]] = True
        _, j = self.reach(np.flatnonzero(unknown), diagonal=True)
        beside[j] = True
        return np.asarray(beside & (self.value == target))

    def at_sides(self) -> Bools:
        """bool (R,): runs at the left or right end of a row."""
        left = self.start % self.width == 0
        return np.asarray(left | np.append(left[1:], True))


def sieve(strips: Iterable[NDArray[np.uint8]], width: int, height: int, *, keep: SizeRule, fill: SizeRule) -> Runs:
    """Remove small objects, then fill small holes, exactly and in one pass over the pixels.

    First every 8-connected component of 1 that ``keep`` calls too small becomes 0. Then every 4-connected
    component of 0 that ``fill`` calls too small, and that touches neither nodata nor the raster's edge,
    becomes 1. Nodata never changes. Memory: some 100 bytes for each run of one strip and of the sieved mask.

    Args:
        strips: uint8 arrays (h, W) of 0, 1 and 255 that make up the raster from top to bottom.
        width: size of the whole raster in pixels.
        height: as ``width``.
        keep: which objects are too small.
        fill: which holes are too small.
    """
    parts, row = [], 0
    rows = max(16, _PIXELS_AT_ONCE // width)
    for strip in strips:
        for first in range(0, len(strip), rows):
            part = strip[first : first + rows]
            parts.append(_settle(Runs.encode(part, row), height, keep, fill))
            row += len(part)
    runs = Runs.concatenate(parts)
    del parts
    if not keep.is_idle:
        index, small = _small(runs, 1, keep, diagonal=_DIAGONAL)[:2]
        value = runs.value.copy()
        value[index[small]] = 0
        runs = runs.with_value(value)
    return _fill(runs, height, fill)


def _small(runs: Runs, target: int, rule: SizeRule, *, diagonal: bool) -> tuple[Ints, Bools, NDArray[np.int32], int]:
    """(index, too small, label, count) of the runs of one value; the second is per run."""
    index, label, count = runs.components(target, diagonal)
    small = rule.too_small(label, count, runs.start[index], runs.length[index])
    return index, small[label], label, count


def _settle(runs: Runs, height: int, keep: SizeRule, fill: SizeRule) -> Runs:
    """What one strip can decide for itself, so that specks never pile up: see :func:`sieve`."""
    value = runs.value.copy()
    opened = np.zeros(len(value), bool)
    if not keep.is_idle:
        index, small, label, count = _small(runs, 1, keep, diagonal=_DIAGONAL)
        at_seam = np.zeros(count, bool)
        at_seam[label[_at_seams(runs, height)[index]]] = True
        value[index[small]] = np.where(at_seam[label[small]], _OPEN, 0)
        opened[index[small]] = at_seam[label[small]]
    settled = _fill(runs.with_value(value), height, fill)
    return settled.with_value(np.where(settled.value == _OPEN, np.uint8(1), settled.value))


def _at_seams(runs: Runs, height: int) -> Bools:
    """bool (R,): runs in a first or last row of the band that is not the raster's own."""
    begin = int(runs.start[0])
    seam = np.zeros(len(runs.start), bool)
    if begin > 0:
        seam |= runs.start < begin + runs.width
    if runs.stop < height * runs.width:
        seam |= runs.start >= runs.stop - runs.width
    return seam


def _fill(runs: Runs, height: int, rule: SizeRule) -> Runs:
    """Fill the small holes of a band; what reaches the band's edge is left alone."""
    if rule.is_idle:
        return runs
    index, small, label, count = _small(runs, 0, rule, diagonal=not _DIAGONAL)
    edge = runs.at_sides() | runs.beside_unknown(0)
    edge |= (runs.start < int(runs.start[0]) + runs.width) | (runs.start >= runs.stop - runs.width)
    is_open = np.zeros(count, bool)
    is_open[label[edge[index]]] = True
    value = runs.value.copy()
    value[index[small & ~is_open[label]]] = 1
    return runs.with_value(value)


@dataclass(frozen=True, slots=True)
class ObjectRuns:
    """The objects of a mask as runs: one object, one id.

    Attributes:
        start: int64 (R,), ``row * width + column`` of each run's first pixel, ascending.
        length: int64 (R,) pixels.
        label: int32 (R,), 0-based object of each run; objects are numbered by their first pixel in raster
            order.
        count: number of objects.
        part: int32 (R,), 0-based 4-connected part of each run; parts are numbered object after object.
        owner: int32 (parts,), object of each part, ascending.
        width, height: size of the raster in pixels.
    """

    start: Ints
    length: Ints
    label: NDArray[np.int32]
    count: int
    part: NDArray[np.int32]
    owner: NDArray[np.int32]
    width: int
    height: int

    def band(self, first_row: int, last_row: int) -> slice:
        """Which runs lie in the rows ``[first_row, last_row)``."""
        a, b = np.searchsorted(self.start, [first_row * self.width, last_row * self.width])
        return slice(int(a), int(b))

    def paint(self, first_row: int, last_row: int, values: NDArray[Any]) -> NDArray[Any]:
        """The rows ``[first_row, last_row)``: ``values[label + 1]`` on objects, ``values[0]`` elsewhere."""
        part = self.band(first_row, last_row)
        start, length = self.start[part], self.length[part]
        bounds = np.empty(2 * len(start) + 2, np.int64)
        bounds[0], bounds[-1] = first_row * self.width, last_row * self.width
        bounds[1:-1:2], bounds[2:-1:2] = start, start + length
        label = np.zeros(2 * len(start) + 1, np.int64)
        label[1::2] = self.label[part] + 1
        return np.repeat(values[label], np.diff(bounds)).reshape(last_row - first_row, self.width)

    def pixels(self) -> Ints:
        """int64 (count,) pixels of each object."""
        return np.bincount(self.label, weights=self.length, minlength=self.count).astype(np.int64)

    def boxes(self) -> Ints:
        """int64 (count, 4) pixel boxes ``(x0, y0, x1, y1)``, x1 and y1 exclusive."""
        row, col = np.divmod(self.start, self.width)
        boxes = np.empty((self.count, 4), np.int64)
        boxes[:, :2], boxes[:, 2:] = max(self.width, self.height), 0
        np.minimum.at(boxes[:, 0], self.label, col)
        np.minimum.at(boxes[:, 1], self.label, row)
        np.maximum.at(boxes[:, 2], self.label, col + self.length)
        np.maximum.at(boxes[:, 3], self.label, row + 1)
        return boxes


def label_objects(runs: Runs, height: int) -> ObjectRuns:
    """Number the objects of a whole raster, and the 4-connected parts of which they consist."""
    index, label, count = runs.components(1, diagonal=_DIAGONAL)
    label = _renumbered(label, count, np.arange(len(index)))
    _, part, parts = runs.components(1, diagonal=False)
    owner = np.empty(parts, np.int32)
    owner[part] = label
    part = _renumbered(part, parts, label)
    owner.sort()
    return ObjectRuns(runs.start[index], runs.length[index], label, count, part, owner, runs.width, height)


def _renumbered(label: NDArray[np.int32], count: int, key: NDArray[np.integer[Any]]) -> NDArray[np.int32]:
    """Labels (R,) in another order: by the least ``key`` (R,) of their runs."""
    least = np.full(count, np.iinfo(np.int64).max)
    np.minimum.at(least, label, key)
    rank = np.empty(count, np.int32)
    rank[np.argsort(least, kind="stable")] = np.arange(count, dtype=np.int32)
    return rank[label]
