"""Where to look for a point or a box: focus windows, and what they add up to on the scene.

A target that is pointed at needs no look at the whole scene. A small one is enlarged, so that it fills about half of
what the engine sees; one larger than a tile is seen reduced.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import PromptError
from terraprompt.flow.stitch import ABSENT, StitchedRows
from terraprompt.geometry.connectivity import label
from terraprompt.prompt import Box, Prompt
from terraprompt.raster import Scene, Tile

__all__ = ["PromptWindow", "WindowLogits", "empty_rows", "initial_windows", "merge_windows", "refined_window"]

#: Largest enlargement: beyond it there is only blur.
_ZOOM = 4.0
#: Side of a shared window over that of what it is for.
_SURROUNDED = 4 / 3
#: A second look is worth it when its window is at most so much of the first one's side.
_MUCH_SMALLER = 0.5
#: Rows of the scene that are written at once.
_ROWS = 512


@dataclass(frozen=True, slots=True)
class PromptWindow:
    """One target seen through one window.

    Attributes:
        target: number of the target in the prompt.
        asked: the prompt of this target alone, in scene pixels.
        tile: the window.
        top: no look at this target shows a row above it.
    """

    target: int
    asked: Prompt
    tile: Tile
    top: int

    @property
    def prompt(self) -> Prompt:
        """The prompt in pixels of the grid that the engine sees; negative points outside are dropped."""
        return _in_tile(self.asked, self.tile)


def initial_windows(
    targets: Sequence[Prompt], scene: Scene, size: int, focus: int | None = None, *, shared: bool = False
) -> list[PromptWindow]:
    """One look a target, from top to bottom; looks through one window stand together.

    A box: centred on it, twice its longer side, at least ``focus / 4``. Points: ``size`` pixels round the middle of the
    positive ones, or twice their spread if that is more; placed on a coarse lattice of the file, so that one more
    click nearby sees the same window (and finds it in the cache), whatever the bbox.

    Args:
        targets: one target each (:meth:`Prompt.objects`), in pixels of ``scene``.
        scene: the windows stay inside it.
        size: the engine's tile side.
        focus: grid side for a target whose size is known; None = ``size``.
        shared: boxes too get a window of ``size``, and neighbours one together; nothing is enlarged.
    """
    focus = focus or size
    looks = []
    together = _together(targets, size, scene) if shared else {}
    for number, target in enumerate(targets):
        if shared:
            tile = together[number]
        elif target.boxes:
            tile = _around(target.boxes[0], scene, focus, least=focus / _ZOOM)
        else:
            tile = _around(_bounds(target), scene, size, least=size, lattice=max(1, size // 8))
        looks.append(PromptWindow(number, target, tile, tile.top))
    return sorted(looks, key=lambda look: (look.top, look.tile.left, look.tile.width, look.tile.height))


def refined_window(
    look: PromptWindow, logits: NDArray[np.float32], scene: Scene, size: int, threshold_logit: float | np.float32 = 0.0
) -> PromptWindow | None:
    """A closer window on what lies under the positive points, if it is much smaller than the first; else None.

    Args:
        look: the first; a box was seen closely enough and gives None.
        logits: the answer, on the grid of ``look.tile``.
        scene: as in :func:`initial_windows`.
        size: as in :func:`initial_windows`.
        threshold_logit: above it a pixel is target.
    """
    tile = look.tile
    if look.asked.boxes:
        return None
    labels, _ = label(logits > threshold_logit)
    on = np.array(_positive(look.asked))
    height, width = tile.shape
    columns, rows = np.floor(tile.frame.points(on)).astype(int).T
    hit = np.unique(labels[rows.clip(0, height - 1), columns.clip(0, width - 1)])
    hit = hit[hit > 0]
    if hit.size == 0:
        return None
    ys, xs = np.nonzero(np.isin(labels, hit))
    corners = tile.frame.boxes_back([xs.min(), ys.min(), xs.max() + 1, ys.max() + 1])
    closer = _around(tuple(corners.tolist()), scene, size, least=size / _ZOOM)
    # Inside the first window, so that windows can be written in the order of their first looks.
    left = min(max(closer.left, tile.left), max(tile.left, tile.right - closer.width))
    top = min(max(closer.top, tile.top), max(tile.top, tile.bottom - closer.height))
    closer = replace(closer, left=left, top=top)
    smaller = max(closer.width, closer.height) <= _MUCH_SMALLER * max(tile.width, tile.height)
    seen = ((on >= (closer.left, closer.top)) & (on <= (closer.right, closer.bottom))).all()
    return replace(look, tile=closer) if smaller and seen else None


def _together(targets: Sequence[Prompt], size: int, scene: Scene) -> dict[int, Tile]:
    """A window for each target, shared by those that fit into three quarters of ``size``; the rest is surroundings."""
    groups: list[tuple[Box, list[int]]] = []
    order = sorted(range(len(targets)), key=lambda i: (_bounds(targets[i])[1], _bounds(targets[i])[0]))
    for i in order:
        for number, (box, members) in enumerate(groups):
            joined = _joined(box, _bounds(targets[i]))
            if max(joined[2] - joined[0], joined[3] - joined[1]) <= size / _SURROUNDED:
                groups[number] = (joined, [*members, i])
                break
        else:
            groups.append((_bounds(targets[i]), [i]))
    windows: dict[int, Tile] = {}
    for box, members in groups:
        tile = _around(box, scene, size, least=size, lattice=max(1, size // 8), zoom=1.0, room=_SURROUNDED)
        windows |= dict.fromkeys(members, tile)
    return windows


def _joined(a: Box, b: Box) -> Box:
    return min(a[0], b[0]), min(a[1], b[1]), max(a[2], b[2]), max(a[3], b[3])


def _bounds(target: Prompt) -> Box:
    """The box, else that of the positive points."""
    if target.boxes:
        return target.boxes[0]
    xs, ys = zip(*_positive(target), strict=True)
    return min(xs), min(ys), max(xs), max(ys)


def _positive(target: Prompt) -> list[tuple[float, float]]:
    return [point for point, label in zip(target.points, target.labels, strict=True) if label == 1]


def _around(
    box: Box,
    scene: Scene,
    size: int,
    *,
    least: float,
    lattice: int = 1,
    zoom: float = _ZOOM,
    room: float = 2.0,
) -> Tile:
    x0, y0, x1, y1 = box
    side = round(max(room * max(x1 - x0, y1 - y0), least))
    left, width = _fit((x0 + x1) / 2, side, scene.width, lattice, scene.left)
    top, height = _fit((y0 + y1) / 2, side, scene.height, lattice, scene.top)
    zoom = min(zoom, size / max(width, height))
    grid = (max(1, round(height * zoom)), max(1, round(width * zoom)))
    return Tile(left, top, width, height, None if grid == (height, width) else grid)


def _fit(centre: float, side: int, length: int, lattice: int, origin: int) -> tuple[int, int]:
    """Start and length of an interval around ``centre``, shifted and cut to stay within 0..length."""
    start = round((centre - side / 2 + origin) / lattice) * lattice - origin
    side = min(side, length)
    return min(max(start, 0), length - side), side


def _in_tile(target: Prompt, tile: Tile) -> Prompt:
    height, width = tile.shape
    kept = [
        ((float(x), float(y)), label)
        for (x, y), label in zip(tile.frame.points(target.points or np.empty((0, 2))), target.labels, strict=True)
        if label == 1 or (0 <= x <= width and 0 <= y <= height)
    ]
    boxes = []
    for x0, y0, x1, y1 in tile.frame.boxes(target.boxes or np.empty((0, 4))):
        boxes.append((max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height))))
    return replace(
        target,
        points=tuple((min(max(x, 0.0), float(width)), min(max(y, 0.0), float(height))) for (x, y), _ in kept),
        labels=tuple(label for _, label in kept),
        boxes=tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in boxes),
        crs=None,
    )


@dataclass(frozen=True, slots=True)
class WindowLogits:
    """The answer in one window; scene pixels are interpolated from it a few rows at a time.

    Attributes:
        look: where and for what.
        logits: float32 on the grid of ``look.tile``.
    """

    look: PromptWindow
    logits: NDArray[np.float32]
    _columns: tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]] = field(init=False, repr=False)

    @property
    def tile(self) -> Tile:
        """The window."""
        return self.look.tile

    def __post_init__(self) -> None:
        object.__setattr__(self, "_columns", _taps(0, self.tile.width, self.tile.width, self.tile.shape[1]))

    def rows(self, top: int, bottom: int) -> NDArray[np.float32]:
        """Logits (bottom - top, tile width) of scene rows, bilinear between the centres of grid pixels."""
        lower, upper, share = _taps(top - self.tile.top, bottom - self.tile.top, self.tile.height, self.tile.shape[0])
        lines = self.logits[lower] * (1 - share)[:, None] + self.logits[upper] * share[:, None]
        left, right, part = self._columns
        mixed = lines[:, left] * (1 - part) + lines[:, right] * part
        return mixed.astype(np.float32, copy=False)


def _taps(
    first: int, last: int, length: int, grid: int
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.float32]]:
    """For pixels first..last of ``length``: the two grid pixels beside each centre, and the share of the second."""
    at = np.clip((np.arange(first, last) + 0.5) * (grid / length) - 0.5, 0.0, grid - 1.0)
    lower = np.floor(at).astype(np.intp)
    return lower, np.minimum(lower + 1, grid - 1), (at - lower).astype(np.float32)


def merge_windows(fields: Iterable[WindowLogits], scene: Scene) -> Iterator[StitchedRows]:
    """Write windows onto the scene, top to bottom: the largest logit where several meet, ``ABSENT`` outside all.

    Pixels outside all windows count as valid: they were not asked about and are not read.

    Args:
        fields: in the order of ``look.top``; taken only as the rows come to them, and dropped after.
        scene: gives size and validity.

    Raises:
        PromptError: no window holds a valid pixel, or there is no window at all.
    """
    waiting = iter(fields)
    coming = next(waiting, None)
    open_fields: list[WindowLogits] = []
    any_valid = False
    for top in range(0, scene.height, _ROWS):
        bottom = min(top + _ROWS, scene.height)
        while coming is not None and coming.look.top < bottom:
            open_fields.append(coming)
            coming = next(waiting, None)
        logits = np.full((bottom - top, scene.width), ABSENT, np.float32)
        valid = np.ones((bottom - top, scene.width), bool)
        for focus in open_fields:
            tile = focus.tile
            y0, y1 = max(top, tile.top), min(bottom, tile.bottom)
            if y0 >= y1:
                continue
            here = (slice(y0 - top, y1 - top), slice(tile.left, tile.right))
            np.maximum(logits[here], focus.rows(y0, y1), out=logits[here])
            if not scene.always_valid:
                valid[here] = scene.read(tile.left, y0, tile.width, y1 - y0)[1]
            any_valid = any_valid or bool(valid[here].any())
        logits[~valid] = ABSENT
        open_fields = [focus for focus in open_fields if focus.tile.bottom > bottom]
        yield StitchedRows(top, logits, valid)
    if not any_valid:
        raise PromptError("The prompt lies where the scene has no data.", hint="Point at valid pixels.")


def empty_rows(scene: Scene) -> Iterator[StitchedRows]:
    """Rows that hold no target; all pixels count as valid, as those outside the windows of :func:`merge_windows`."""
    for top in range(0, scene.height, _ROWS):
        shape = (min(_ROWS, scene.height - top), scene.width)
        yield StitchedRows(top, np.full(shape, ABSENT, np.float32), np.ones(shape, bool))
