"""Outlines of objects, traced from runs: exact, valid, and without a pass over the pixels.

An outline turns where the columns of two neighbouring rows of runs differ. Sorted by row, successive corners
are the two ends of a horizontal edge; sorted by column, of a vertical one. Following the two pairings in turn
walks each ring.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from terraprompt.geometry.types import Bools, Ints
from terraprompt.outputs.vectorize.runs import ObjectRuns

__all__ = ["Rings", "outline", "trace"]


_RUNS_AT_ONCE = 1 << 18


@dataclass(frozen=True, slots=True)
class Rings:
    """Outlines as parallel arrays; rings are sorted by part, each part's outer ring before its holes.

    Parts are the 4-connected pieces of objects: only they have an outline that does not touch itself.

    Attributes:
        x, y: int64 (V,) pixel corners, ring after ring, not closed; x right, y down.
        shared: bool (V,), corners where two outlines touch.
        start: int64 (R,), first corner of each ring.
        label: int64 (R,), 0-based part of each ring.
        count: number of parts.
    """

    x: Ints
    y: Ints
    shared: Bools
    start: Ints
    label: Ints
    count: int

    @property
    def length(self) -> Ints:
        """int64 (R,) corners of each ring."""
        return np.diff(self.start, append=len(self.x))

    def polygons(self) -> NDArray[np.object_]:
        """object array (parts,) of shapely polygons in pixel coordinates."""
        if self.count == 0:
            return np.empty(0, object)
        # Each ring is closed by its first corner.
        offset = np.append(self.start + np.arange(len(self.start)), len(self.x) + len(self.start))
        place = np.arange(len(self.x)) + np.repeat(np.arange(len(self.start)), self.length)
        coordinates = np.empty((offset[-1], 2), np.float64)
        coordinates[place, 0], coordinates[place, 1] = self.x, self.y
        coordinates[offset[1:] - 1] = coordinates[offset[:-1]]
        rings = np.searchsorted(self.label, np.arange(self.count + 1))
        return np.asarray(shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (offset, rings)))

    def smoothed(self) -> Rings:
        """Without stairs of one pixel: corners whose triangle covers half a pixel go, until none is left.

        This is what Visvalingam-Whyatt does at tolerances between 0.71 and 1 pixel, for all rings at once. A
        triangle between pixel corners that covers half a pixel holds no other pixel corner (Pick's theorem),
        so no outline
        can pass through it: taking it away makes no crossing, neither within a ring nor between neighbours.
            Corners
        that two outlines share stay, so that neighbours go on touching in the same points.
        """
        rings = self
        active = np.ones(len(rings.start), bool)
        while active.any():
            taken = rings._stairs(active)
            if not taken.any():
                break
            ring = np.repeat(np.arange(len(rings.start)), rings.length)
            active = np.zeros(len(rings.start), bool)
            active[ring[taken]] = True
            start = rings.start - np.concatenate([[0], np.cumsum(taken)])[rings.start]
            kept = ~taken
            rings = Rings(
                rings.x[kept], rings.y[kept], rings.shared[kept], start, rings.label, rings.count
            )  # fmt: skip
        return rings

    def _stairs(self, active: Bools) -> Bools:
        """bool (V,): corners to take away now, no two of them neighbours; rings keep four corners."""
        length = self.length
        index = np.arange(len(self.x))
        before, after = index - 1, index + 1
        last = self.start + length - 1
        before[self.start], after[last] = last, self.start
        area = (self.x[before] - self.x) * (self.y[after] - self.y)
        area -= (self.x[after] - self.x) * (self.y[before] - self.y)
        takeable = (np.abs(area) <= 1) & ~self.shared & ~(self.shared[before] & self.shared[after])
        takeable &= np.repeat(active & (length > 4), length)
        # Along a stair every second corner goes, so that all that go lie on the same side of it. Every other
        # stair begins with its second corner: half of them give ground and half take it, and areas stay what
        # they were.
        first = takeable.copy()
        first[1:] &= ~takeable[:-1]
        first[self.start] = takeable[self.start]
        stair = np.cumsum(first) - 1
        steps = np.bincount(stair[takeable], minlength=int(first.sum()))
        lead = (np.arange(len(steps)) % 2 == 1) & (steps > 1)
        foot = np.append(np.flatnonzero(first), 0)[stair]
        taken = takeable & ((index - foot) % 2 == np.append(lead, False)[stair])
        taken[last] &= ~taken[self.start]
        # Whoever would take too much from a small ring takes one corner.
        number = np.add.reduceat(taken, self.start, dtype=np.int64)
        greedy = number > length - 4
        if greedy.any():
            ring = np.repeat(np.arange(len(length)), length)
            place = np.cumsum(taken) - np.concatenate([[0], np.cumsum(number)])[ring]
            taken &= ~greedy[ring] | (place == 1)
        return np.asarray(taken)


def outline(objects: ObjectRuns, tolerance: float) -> NDArray[np.object_]:
    """Outlines of all objects, simplified without gaps, slivers or overlaps between neighbours.

    All outlines are simplified together by Visvalingam-Whyatt: triangles smaller than ``tolerance`` squared
    go, smallest first, unless an outline would cross another. Tolerances under 0.71 pixel change nothing.

    Args:
        objects: the objects of a mask.
        tolerance: in pixels; 0 keeps the pixel stairs.

    Returns:
        object array (count,) of valid geometries in pixel coordinates (x right, y down), holes kept: a Polygon, or
        a MultiPolygon where parts of the object touch by corners alone.
    """
    rings = trace(objects)
    if tolerance**2 <= 0.5 or objects.count == 0:
        return _collected(rings.polygons(), objects)
    polygons = rings.smoothed().polygons()
    if tolerance > 1:
        simple = np.asarray(shapely.coverage_simplify(polygons, tolerance))
        good = shapely.is_valid(simple) & ~shapely.is_empty(simple)
        good &= shapely.get_type_id(simple) == shapely.GeometryType.POLYGON
        polygons = np.where(good, simple, polygons)
    return _collected(polygons, objects)


def _collected(parts: NDArray[np.object_], objects: ObjectRuns) -> NDArray[np.object_]:
    """The polygons of all parts as one geometry an object."""
    geometries = parts[np.searchsorted(objects.owner, np.arange(objects.count))]
    several = np.bincount(objects.owner, minlength=objects.count) > 1
    if several.any():
        chosen = several[objects.owner]
        index = np.cumsum(several)[objects.owner[chosen]] - 1
        geometries[several] = shapely.multipolygons(parts[chosen], indices=index)
    return geometries


def trace(objects: ObjectRuns) -> Rings:
    """Outline every 4-connected part along its pixel edges; the polygons of these rings are valid."""
    if objects.count == 0:
        nothing = np.empty(0, np.int64)
        return Rings(nothing, nothing, np.empty(0, bool), nothing, nothing, 0)
    corners = _all_corners(objects)
    left = np.arange(0, len(corners.x), 2)
    by_column = np.lexsort((~corners.upper, corners.y, corners.x))
    partner = np.empty(len(corners.x), np.int64)
    partner[by_column[0::2]], partner[by_column[1::2]] = by_column[1::2], by_column[0::2]
    # Edges run rightwards where the object is below them, so that it is always on the same side.
    rightwards = corners.below[left]
    tail, head = np.where(rightwards, left, left + 1), np.where(rightwards, left + 1, left)
    order, start = _rings(partner[head] >> 1)

    # The first edge of a ring is its topmost: an outer ring has the object below it, a hole above it.
    root = order[start]
    label = corners.label[tail[root]]
    sequence = np.lexsort((root, ~rightwards[root], label))
    length = np.diff(start, append=len(order))[sequence]
    new_start = np.cumsum(length) - length
    edge = order[np.arange(len(order)) + np.repeat(start[sequence] - new_start, length)]
    corner = np.stack([tail[edge], head[edge]], axis=1).reshape(-1)
    return Rings(
        corners.x[corner],
        corners.y[corner],
        corners.shared[corner],
        2 * new_start,
        label[sequence],
        len(objects.owner),
    )


@dataclass(frozen=True, slots=True)
class _Corners:
    """Corners of outlines in raster order, as parallel arrays; a crossing of two outlines counts twice.

    Attributes:
        x, y: int64 pixel corner.
        label: part whose outline it is.
        shared: whether two outlines touch here.
        upper: at a crossing, whether this is the visit that goes on upwards; else True.
        below: whether the horizontal edge that starts here has the object below it (meaningful at left ends).
    """

    x: Ints
    y: Ints
    label: Ints
    shared: Bools
    upper: Bools
    below: Bools


def _all_corners(objects: ObjectRuns) -> _Corners:
    """Corners of the whole raster, found some rows at a time."""
    rows = objects.start // objects.width
    parts = []
    low = 0
    while low < len(rows):
        first = int(rows[low])
        high = min(low + _RUNS_AT_ONCE, len(rows))
        if high < len(rows):
            high = int(np.searchsorted(rows, max(int(rows[high]), first + 1)))
        last = int(rows[high]) if high < len(rows) else objects.height + 1
        parts.append(_corners(objects, first, last))
        low = high
    return _Corners(*(np.concatenate([getattr(p, name) for p in parts]) for name in _Corners.__slots__))


def _corners(objects: ObjectRuns, first_line: int, last_line: int) -> _Corners:
    """Corners on the lines between rows ``first_line <= y < last_line``; line y lies above row y."""
    line = objects.width + 1

    def bounds(first_row: int, last_row: int) -> tuple[Ints, Bools, Ints]:
        part = objects.band(first_row, last_row)
        row, col = np.divmod(objects.start[part], objects.width)
        key = np.empty(2 * len(row), np.int64)
        key[0::2] = row * line + col
        key[1::2] = key[0::2] + objects.length[part]
        opens = np.zeros(len(key), bool)
        opens[0::2] = True
        return key, opens, np.repeat(objects.part[part].astype(np.int64), 2)

    below, below_opens, below_label = bounds(first_line, last_line)
    above, above_opens, above_label = bounds(max(first_line - 1, 0), last_line - 1)
    above = above + line
    slot = np.searchsorted(above, below)
    both = slot < len(above)
    both[both] = above[slot[both]] == below[both]
    only_above = np.ones(len(above), bool)
    only_above[slot[both]] = False
    b = np.flatnonzero(~both)
    a = np.flatnonzero(only_above)
    crossing = np.flatnonzero(both)
    crossing = crossing[below_opens[crossing] != above_opens[slot[crossing]]]
    over = slot[crossing]

    # At a crossing two pixels touch by a corner. Two parts: each outline turns round its own pixel. One part: the
    # outlines separate at the corner, so that no ring touches itself. The left visit comes first.
    falling = ~above_opens[over]  # the upper pixel is the left one
    same = below_label[crossing] == above_label[over]
    left_is_upper = falling != same
    left_label = np.where(falling, above_label[over], below_label[crossing])
    right_label = np.where(falling, below_label[crossing], above_label[over])

    key = np.concatenate([below[b], above[a], below[crossing], below[crossing]])
    visit = np.zeros(len(key), np.int8)
    visit[len(key) - len(crossing) :] = 1
    order = np.lexsort((visit, key))
    yes = np.ones(len(a) + len(b), bool)
    upper = np.concatenate([yes, left_is_upper, ~left_is_upper])
    object_below = np.concatenate([below_opens[b], ~above_opens[a], falling, falling])
    label = np.concatenate([below_label[b], above_label[a], left_label, right_label])
    shared = np.zeros(len(key), bool)
    shared[len(yes) :] = True
    y, x = np.divmod(key[order], line)
    return _Corners(x, y, label[order], shared[order], upper[order], object_below[order])


def _rings(following: Ints) -> tuple[Ints, Ints]:
    """Walk the cycles of a permutation, all at once by pointer doubling.

    Returns:
        (order, start): elements cycle after cycle, each from its smallest element on; where each cycle
        starts.
    """
    count = len(following)
    least, jump = np.arange(count), following
    while True:
        lower = np.minimum(least, least[jump])
        if np.array_equal(lower, least):
            break
        least, jump = lower, jump[jump]
    is_root = least == np.arange(count)
    steps = np.where(is_root, 0, 1)
    jump = np.where(is_root, np.arange(count), following)
    while True:
        further = steps[jump]
        if not further.any():
            break
        steps, jump = steps + further, jump[jump]
    root = np.flatnonzero(is_root)
    length = np.bincount(least, minlength=count)
    start = np.cumsum(length[root]) - length[root]
    start_of = np.zeros(count, np.int64)
    start_of[root] = start
    order = np.empty(count, np.int64)
    order[start_of[least] + (length[least] - steps) % length[least]] = np.arange(count)
    return order, start
