"""Reading a scene from top to bottom: one handle, the next row of tiles decoded while the current one is used."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terraprompt.raster.scene import Scene
from terraprompt.raster.stretch import Stretch
from terraprompt.raster.tiles import Tile, TilePlan

__all__ = ["RowBand", "read_band", "read_bands", "read_tile"]

#: Pixels read at once: bounds what is held in the scene's own type before it becomes RGB bytes.
_CHUNK = 4_000_000


@dataclass(frozen=True, slots=True)
class RowBand:
    """The pixels of one row of tiles.

    Attributes:
        row: index of the row in the plan.
        top: first row of pixels, in the scene.
        rgb: uint8 (height, scene width, 3), stretched; 0 where invalid.
        valid: bool (height, scene width).
    """

    row: int
    top: int
    rgb: NDArray[np.uint8]
    valid: NDArray[np.bool_]

    def image(self, tile: Tile) -> NDArray[np.uint8]:
        """RGB of one tile of the row, (height, width, 3); a view."""
        return self.rgb[:, tile.left : tile.right]

    def holds(self, tile: Tile) -> bool:
        """Whether any pixel of the tile is valid."""
        return bool(self.valid[:, tile.left : tile.right].any())


def read_bands(
    scene: Scene, tiles: TilePlan, stretch: Stretch, *, rows: Sequence[int] | None = None
) -> Generator[RowBand, None, None]:
    """The row bands of a plan, top to bottom.

    A thread decodes the next band while the caller works on the current one, so two bands are held at a time. Rows of
    pixels that a band shares with the one before are copied, not decoded again.

    Args:
        scene: what to read.
        tiles: a plan for ``scene.width`` x ``scene.height``.
        stretch: from the scene's values to RGB bytes.
        rows: indexes of the rows to read, ascending; None = all.

    Raises:
        SceneError: damage, as :meth:`Scene.read` words it, when the band concerned is asked for.
    """
    wanted = list(range(tiles.rows)) if rows is None else list(rows)
    if not wanted:
        return
    with ThreadPoolExecutor(1, thread_name_prefix="terraprompt-read") as pool:
        coming = pool.submit(read_band, scene, tiles, stretch, wanted[0])
        for following in [*wanted[1:], None]:
            band = coming.result()
            if following is not None:
                coming = pool.submit(read_band, scene, tiles, stretch, following, before=band)
            yield band
            del band  # the caller alone decides how long it lives


def read_band(scene: Scene, tiles: TilePlan, stretch: Stretch, row: int, *, before: RowBand | None = None) -> RowBand:
    """One row of tiles; what the band ``before`` already holds is copied from it."""
    top, height = tiles.ys[row], tiles.tile_height
    rgb = np.empty((height, scene.width, 3), np.uint8)
    valid = np.empty((height, scene.width), bool)
    shared = 0
    if before is not None and before.top <= top < before.top + len(before.rgb):
        shared = before.top + len(before.rgb) - top
        rgb[:shared] = before.rgb[-shared:]
        valid[:shared] = before.valid[-shared:]
    for x0, y0, x1, y1 in _chunks(scene, top + shared, top + height):
        colours, good = _read_rgb(scene, stretch, Tile(x0, y0, x1 - x0, y1 - y0))
        rgb[y0 - top : y1 - top, x0:x1] = colours
        valid[y0 - top : y1 - top, x0:x1] = good
    return RowBand(row, top, rgb, valid)


def read_tile(scene: Scene, stretch: Stretch, tile: Tile) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """One tile on its own: RGB uint8 (height, width, 3) and valid (height, width), both on ``tile.shape``.

    A grid coarser than the scene is read reduced, through overviews where there are any; a finer one is interpolated
    bilinearly from the scene's pixels.
    """
    height, width = tile.shape
    if height > tile.height or width > tile.width:
        rgb, valid = _read_rgb(scene, stretch, Tile(tile.left, tile.top, tile.width, tile.height))
        return _enlarge(rgb, valid, (height, width))
    return _read_rgb(scene, stretch, tile)


def _read_rgb(scene: Scene, stretch: Stretch, tile: Tile) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    values, valid = scene.read(tile.left, tile.top, tile.width, tile.height, shape=tile.shape)
    rgb = stretch.apply(values)
    if not valid.all():
        rgb[~valid] = 0
    return rgb, valid


def _enlarge(
    rgb: NDArray[np.uint8], valid: NDArray[np.bool_], shape: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    from PIL import Image

    size = (shape[1], shape[0])
    larger = np.asarray(Image.fromarray(rgb).resize(size, Image.Resampling.BILINEAR))
    return larger, np.asarray(Image.fromarray(valid).resize(size, Image.Resampling.NEAREST))


def _chunks(scene: Scene, top: int, bottom: int) -> Iterator[tuple[int, int, int, int]]:
    """Rectangles (x0, y0, x1, y1) that cover rows top..bottom along the blocks in which the file is stored."""
    _, block_width = scene.block_shape
    if block_width >= scene.width:
        step = max(1, _CHUNK // scene.width)
        for y in range(top, bottom, step):
            yield 0, y, scene.width, min(y + step, bottom)
        return
    step = max(1, _CHUNK // max(1, bottom - top) // block_width) * block_width
    start = -(scene.left % block_width)  # a bbox may begin inside a block
    for x in range(start, scene.width, step):
        yield max(x, 0), top, min(x + step, scene.width), bottom
