"""Images and label rasters of a source, read through :mod:`terraprompt.raster` as every other part reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.errors import RasterioError

from terraprompt.errors import DatasetError, SceneError
from terraprompt.raster.bands import read_tile
from terraprompt.raster.scene import Scene, open_scene
from terraprompt.raster.source import gdal_env, open_dataset
from terraprompt.raster.stretch import Stretch, estimate_stretch
from terraprompt.raster.tiles import Tile

__all__ = ["Image", "RollingRows", "open_raster", "read_window", "reading"]

#: Formats that are decoded from the first row on, however few rows are asked for.
_SEQUENTIAL = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_SEQUENTIAL_PIXELS = 40_000_000  # fit into GDAL's cache of blocks
_CHUNK = 4_000_000  # pixels

Fill = Callable[[int, int, NDArray[np.uint8]], None]


class RollingRows:
    """Rows of a raster from top to bottom: those that the next window needs again are not read again.

    Args:
        fill: ``(first, end, out)`` puts rows into ``out``, uint8 (..., end - first, width).
        height, width: of the raster.
        bands: of ``out``, before its rows; None = no such axis.
    """

    def __init__(self, fill: Fill, height: int, width: int, bands: int | None = None) -> None:
        self._fill, self._height = fill, height
        self._first, self._count = 0, 0
        self._rows = np.empty((*(() if bands is None else (bands,)), 0, width), np.uint8)

    def get(self, first: int, end: int) -> NDArray[np.uint8]:
        """Rows ``first`` to ``end``, valid until the next call; ``first`` never falls from call to call.

        Raises:
            ValueError: rows that have been let go, or that are not there.
        """
        if first < self._first or end > self._height:
            raise ValueError(f"rows {first} to {end} of {self._height}, held from {self._first}")
        held = self._first + self._count
        kept = self._rows[..., first - self._first : self._count, :]
        start, count = kept.shape[-2], max(held, end) - first
        if count > self._rows.shape[-2]:
            self._rows = np.empty((*kept.shape[:-2], count, kept.shape[-1]), np.uint8)
        self._rows[..., :start, :] = kept
        if end > held:
            self._fill(max(first, held), end, self._rows[..., start:count, :])
        self._first, self._count = first, count
        return self._rows[..., : end - first, :]


@contextmanager
def open_raster(path: Path, what: str = "image") -> Iterator[Any]:
    """Open a raster whose stored values are codes, as a rasterio dataset; reads inside use a bounded block cache.

    Raises:
        DatasetError: missing, damaged or cut short.
    """
    with reading(path, what):
        file = open_dataset(path)
    with file, gdal_env():
        yield file


@contextmanager
def reading(path: str | Path, what: str = "image") -> Iterator[None]:
    """Turn what goes wrong while a raster is read into an error that names the file.

    Raises:
        DatasetError: missing, damaged or cut short.
    """
    try:
        yield
    except (SceneError, RasterioError, OSError) as error:
        reason = error.what if isinstance(error, SceneError) else " ".join(str(error.__cause__ or error).split())
        raise DatasetError(
            f"The {what} cannot be read: {reason.rstrip('.')}.",
            received=path,
            hint="Repair the copy, or set `on_broken_file: skip`.",
        ) from None


class Image:
    """An open image as an engine sees it: bands by their colour, alpha and nodata, one stretch for the whole file.

    Args:
        path: of the image.
        bands: red, green and blue, from 1; empty = as :func:`terraprompt.raster.open_scene` chooses.
        stretch: low values of the bands, then their high values; empty = estimated.

    Attributes:
        scene: the open file.
        has_gaps: pixels that are not valid can occur.

    Raises:
        DatasetError: missing, damaged, or a band that is not there.
    """

    def __init__(self, path: Path, bands: Sequence[int] = (), stretch: Sequence[float] = ()) -> None:
        with reading(path):
            self.scene = open_scene(path, tuple(bands) or None, warp=False)
            try:
                self._stretch = _recorded(stretch) if stretch else _estimated(self.scene)
            except BaseException:
                self.scene.close()
                raise
        self.has_gaps = not self.scene.always_valid

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.scene.close()

    @property
    def settings(self) -> dict[str, list[Any]]:
        """``bands`` and ``stretch`` with which the same pixels are read again."""
        return {"bands": list(self.scene.bands), "stretch": [*self._stretch.low, *self._stretch.high]}

    def rows(self, first: int, end: int, out: NDArray[np.uint8]) -> None:
        """Put rows into ``out``: uint8 (3, end - first, width); with gaps a fourth band is 1 where a pixel is valid."""
        width = self.scene.width
        with reading(self.scene.source):
            if self.has_gaps or self._stretch.mode != "none" or self.scene.channels != 3:
                rgb, valid = read_tile(self.scene, self._stretch, Tile(0, first, width, end - first))
                out[:3] = np.moveaxis(rgb, -1, 0)
                out[3:] = valid
            else:  # bytes stay as they are, and so does their order in memory
                out[:] = self.scene.read(0, first, width, end - first)[0]

    def window(self, column: int, row: int, width: int, height: int) -> NDArray[np.uint8]:
        """RGB uint8 (height, width, 3), 0 where invalid."""
        with reading(self.scene.source):
            return read_tile(self.scene, self._stretch, Tile(column, row, width, height))[0]


def _recorded(limits: Sequence[float]) -> Stretch:
    low, high = tuple(limits[: len(limits) // 2]), tuple(limits[len(limits) // 2 :])
    return Stretch("none" if {*zip(low, high, strict=True)} == {(0.0, 255.0)} else "percentile", low, high)


def _estimated(scene: Scene) -> Stretch:
    width, height = scene.width, scene.height
    if scene.path.suffix.lower() in _SEQUENTIAL and width * height <= _SEQUENTIAL_PIXELS:
        scene.read(
            0, 0, width, height
        )  # GDAL keeps all rows; the reduced read skips some, which costs a second decoding
    try:
        return estimate_stretch(scene)
    except SceneError:
        step = max(1, _CHUNK // width)
        for top in range(0, height, step):
            if scene.read(0, top, width, min(step, height - top))[1].any():
                raise
        return Stretch("none", (0.0,) * scene.channels, (255.0,) * scene.channels)  # no pixel is valid


def read_window(
    path: Path, box: tuple[int, int, int, int], *, bands: Sequence[int] = (), stretch: Sequence[float] = ()
) -> NDArray[np.uint8]:
    """Pixels of one window, RGB uint8 (height, width, 3).

    Args:
        path: of the image; the last one stays open, so that its windows are decoded once.
        box: column, row, width, height.
        bands: of :attr:`Image.settings` when the patch was cut.
        stretch: likewise.

    Raises:
        DatasetError: missing or damaged.
    """
    with reading(path):
        changed = path.stat().st_mtime_ns
    return _last_image(path, tuple(bands), tuple(stretch), changed).window(*box)


@lru_cache(maxsize=1)
def _last_image(path: Path, bands: tuple[int, ...], stretch: tuple[float, ...], changed: int) -> Image:
    return Image(path, bands, stretch)
