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

from terraprompt.outputs.runs import ObjectRuns

__all__ = ["simplify", "trace"]

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

_RUNS_AT_ONCE = 1 << 20


@dataclass(frozen=True, slots=True)
class _Corners:
    """Corners of outlines in raster order, as parallel arrays; a crossing of two outlines counts twice.

    Attributes:
        x, y: int64 pixel corner.
        label: object whose outline it is.
        upper: at a crossing, whether this is the visit that goes on upwards; else True.
        below: whether the horizontal edge that starts here has the object below it (meaningful at left ends).
    """

    x: Ints
    y: Ints
    label: Ints
    upper: Bools
    below: Bools


def trace(objects: ObjectRuns) -> NDArray[np.object_]:
    """Outline every object along its pixel edges.

    Returns:
        object array (count,) of valid shapely polygons in pixel coordinates (x right, y down), polygon ``i``
        being object ``i``; holes are kept.
    """
    if objects.count == 0:
        return np.empty(0, object)
    corners = _all_corners(objects)
    x, y, below = corners.x, corners.y, corners.below
    pairs = np.arange(0, len(x), 2)
    by_column = np.lexsort((~corners.upper, y, x))
    partner = np.empty(len(x), np.int64)
    partner[by_column[0::2]], partner[by_column[1::2]] = by_column[1::2], by_column[0::2]
    # An edge runs with its object to the right on a y-down grid: rightwards if the object is below it.
    rightwards = below[pairs]
    tail, head = np.where(rightwards, pairs, pairs + 1), np.where(rightwards, pairs + 1, pairs)
    order, ring_start = _rings(partner[head] >> 1)

    # The first edge of a ring is its topmost: an outer ring has the object below it, a hole above it.
    root = order[ring_start]
    label, is_hole = corners.label[tail[root]], ~rightwards[root]
    ring_order = np.lexsort((root, is_hole, label))
    ring_length = np.diff(ring_start, append=len(order))[ring_order]
    # Two corners an edge, and the first one again to close the ring.
    points = 2 * ring_length + 1
    ring_offset = np.concatenate([[0], np.cumsum(points)])
    edge = order[
        np.repeat(ring_start[ring_order] - np.cumsum(ring_length) + ring_length, ring_length)
        + np.arange(ring_length.sum())
    ]
    place = np.repeat(
        ring_offset[:-1] - 2 * (np.cumsum(ring_length) - ring_length), ring_length
    ) + 2 * np.arange(len(edge))
    coordinates = np.empty((ring_offset[-1], 2), np.float64)
    coordinates[place, 0], coordinates[place, 1] = x[tail[edge]], y[tail[edge]]
    coordinates[place + 1, 0], coordinates[place + 1, 1] = x[head[edge]], y[head[edge]]
    coordinates[ring_offset[1:] - 1] = coordinates[ring_offset[:-1]]
    object_offset = np.searchsorted(label[ring_order], np.arange(objects.count + 1))
    return np.asarray(
        shapely.from_ragged_array(shapely.GeometryType.POLYGON, coordinates, (ring_offset, object_offset))
    )


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
        return key, opens, np.repeat(objects.label[part].astype(np.int64), 2)

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

    # At a crossing two pixels touch by a corner. Two objects: each outline turns round its own pixel. One
    # object: the outlines part at the corner so that no ring touches itself. The left visit comes first.
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
    y, x = np.divmod(key[order], line)
    return _Corners(x, y, label[order], upper[order], object_below[order])


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


def simplify(polygons: NDArray[np.object_], tolerance: float) -> NDArray[np.object_]:
    """Smooth pixel stairs without opening gaps, making slivers or letting neighbours overlap.

    All outlines are simplified together (Visvalingam-Whyatt over the coverage): triangles smaller than
    ``tolerance`` squared go, smallest first, unless an outline would cross another.

    Args:
        polygons: object array (N,) of valid polygons in pixel coordinates.
        tolerance: in pixels; 0 changes nothing.

    Returns:
        object array (N,) of valid, non-empty polygons; one that would become invalid is returned as it was.
    """
    if tolerance <= 0 or len(polygons) == 0:
        return polygons
    simple = np.asarray(shapely.coverage_simplify(polygons, tolerance))
    good = shapely.is_valid(simple) & ~shapely.is_empty(simple)
    good &= shapely.get_type_id(simple) == shapely.GeometryType.POLYGON
    return np.where(good, simple, polygons)
