"""Pixels of images: rows that are decoded once, windows, 16 bits brought to 8."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.windows import Window

from terraprompt.errors import DatasetError
from terraprompt.raster.pictures import read_rgb

__all__ = ["Image", "RollingRows", "open_raster", "read_window", "reading"]

#: Formats whose pixels cannot be reached without decoding all before them; small ones are decoded whole.
_WHOLE = (".png", ".jpg", ".jpeg", ".bmp", ".webp")
_WHOLE_PIXELS = 40_000_000
_LOOK = 1024  # side of the overview from which a stretch is estimated
_SHARES = (2.0, 98.0)
#: GDAL keeps decoded blocks; without a bound up to a twentieth of the memory in every process.
_CACHE_LEAST, _CACHE_MOST = 16 << 20, 512 << 20

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
    """A rasterio dataset; damage becomes an error that names the file, also where a decoder would only warn.

    Raises:
        DatasetError: missing, damaged or cut short.
    """
    with warnings.catch_warnings(), rasterio.Env(GDAL_ERROR_ON_LIBJPEG_WARNING=True):
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with reading(path, what):
            file = rasterio.open(path)
        with file, rasterio.Env(GDAL_CACHEMAX=_cache_bytes(file)):
            yield file


def _cache_bytes(file: Any) -> int:
    """Room for two rows of blocks, beside what files that are open already were given: a row of windows may end in
    the middle of blocks, which the next one reads again.
    """
    tall = max(int(shape[0]) for shape in file.block_shapes)
    row: int = tall * int(file.width) * sum(np.dtype(name).itemsize for name in file.dtypes)
    given = int(rasterio.env.getenv().get("GDAL_CACHEMAX", 0))
    return min(max(_CACHE_LEAST, given + 2 * row), _CACHE_MOST)


@contextmanager
def reading(path: Path, what: str = "image") -> Iterator[None]:
    """Turn what GDAL raises into an error that names the file.

    Raises:
        DatasetError: missing, damaged or cut short.
    """
    try:
        yield
    except (RasterioError, OSError) as error:
        said = " ".join(str(error.__cause__ or error).split()).rstrip(".")
        raise DatasetError(
            f"The {what} cannot be read: {said}.", received=path, hint="Repair the copy, or set `on_broken_file: skip`."
        ) from None


class Image:
    """An open image as RGB of 8 bits.

    Args:
        file: rasterio dataset.
        bands: red, green and blue, from 1; empty = the first three, or the first thrice.
        stretch: low and high value of each band; None estimates them where the file has no 8 bits.

    Attributes:
        bands: as used.
        stretch: as used; empty for 8 bits.
        has_gaps: pixels without data can occur.

    Raises:
        DatasetError: a band that is not there.
    """

    def __init__(self, file: Any, bands: Sequence[int] = (), stretch: Sequence[float] | None = None) -> None:
        self._file = file
        self._pixels: NDArray[np.uint8] | None = None
        self.bands = tuple(bands) or ((1, 2, 3) if file.count >= 3 else (1, 1, 1))
        if missing := [band for band in self.bands if band > file.count]:
            raise DatasetError(f"An image has {file.count} bands, band {missing[0]} is asked for.", received=file.name)
        is_plain = all(file.dtypes[band - 1] == "uint8" for band in self.bands)
        self.stretch: tuple[float, ...] = () if is_plain else tuple(stretch or _stretch(file, self.bands))
        self.has_gaps = file.nodata is not None or not is_plain

    @classmethod
    def of_array(cls, pixels: NDArray[np.uint8]) -> Image:
        """An image that has been read already, RGB uint8 (height, width, 3)."""
        image = cls.__new__(cls)
        image._pixels = np.ascontiguousarray(np.moveaxis(pixels, -1, 0))
        image.bands, image.stretch, image.has_gaps = (1, 2, 3), (), False
        return image

    def rows(self, first: int, end: int, out: NDArray[np.uint8]) -> None:
        """Put rows into ``out``: uint8 (3, end - first, width); with gaps a fourth band is 1 where there is data."""
        if self._pixels is not None:
            out[:] = self._pixels[:, first:end]
        else:
            self._read(0, first, out)

    def window(self, column: int, row: int, width: int, height: int) -> NDArray[np.uint8]:
        """uint8 (height, width, 3)."""
        bands = np.empty((3 + self.has_gaps, height, width), np.uint8)
        self._read(column, row, bands)
        out = np.empty((height, width, 3), np.uint8)
        for band, values in enumerate(bands[:3]):  # three times as fast as a copy of the moved axis
            out[..., band] = values
        return out

    def _read(self, column: int, row: int, out: NDArray[np.uint8]) -> None:
        """The window that fits ``out``, whose fourth band is there if the file has gaps."""
        height, width = out.shape[1:]
        window, bands = Window(column, row, width, height), list(self.bands)
        with reading(self._file.name):
            if not self.has_gaps:
                self._file.read(bands, window=window, out=out)
                return
            raw = self._file.read(bands, window=window)
        nodata = self._file.nodata
        valid = np.ones((height, width), np.bool_)
        if nodata is not None:
            valid &= ~(np.isnan(raw) if np.isnan(nodata) else raw == nodata).all(0)
        if self.stretch:
            lows, highs = np.array(self.stretch).reshape(-1, 2).T[:, :, None, None]
            numbers = raw.astype(np.float32)
            valid &= np.isfinite(numbers).all(0)
            scaled = (np.nan_to_num(numbers, posinf=0, neginf=0) - lows) / np.maximum(highs - lows, 1e-9)
            raw = np.round(np.clip(scaled, 0, 1) * 255)
        out[:3], out[3] = raw, valid


def _stretch(file: Any, bands: Sequence[int]) -> tuple[float, ...]:
    scale = max(1, max(file.width, file.height) / _LOOK)
    shape = (len(bands), max(1, int(file.height / scale)), max(1, int(file.width / scale)))
    with reading(file.name):
        look = file.read(list(bands), out_shape=shape, masked=True).astype(np.float64)
    out: list[float] = []
    for band in look:
        values = band.compressed()
        values = values[np.isfinite(values)]
        low, high = np.percentile(values, _SHARES) if values.size else (0.0, 1.0)
        out += [float(low), float(high)]
    return tuple(out)


def read_window(
    path: Path,
    box: tuple[int, int, int, int],
    *,
    bands: Sequence[int] = (),
    stretch: Sequence[float] = (),
) -> NDArray[np.uint8]:
    """Pixels of one window, RGB uint8 (height, width, 3).

    Args:
        path: of the image.
        box: column, row, width, height.
        bands: as :class:`Image` used them when the patch was cut.
        stretch: as :class:`Image` used them when the patch was cut.

    Raises:
        DatasetError: missing or damaged.
    """
    column, row, width, height = box
    if path.suffix.lower() in _WHOLE and not stretch:
        with open_raster(path) as file:
            is_small = file.width * file.height <= _WHOLE_PIXELS
        if is_small:
            return np.ascontiguousarray(
                _whole(path, tuple(bands), path.stat().st_mtime_ns)[row : row + height, column : column + width]
            )
    with open_raster(path) as file:
        return Image(file, bands, stretch).window(column, row, width, height)


@lru_cache(maxsize=1)
def _whole(path: Path, bands: tuple[int, ...], changed: int) -> NDArray[np.uint8]:
    if path.suffix.lower() == ".webp":
        return read_rgb(path)[0]
    with open_raster(path) as file:
        return Image(file, bands).window(0, 0, file.width, file.height)
