"""Tiled work files behind a result: mask and quantised probability, written and read by rows."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.windows import Window

from terraprompt.io.files import translated

__all__ = [
    "BLOCK",
    "MASK_NODATA",
    "QUANTA",
    "Q_NODATA",
    "bands",
    "create_work",
    "gdal",
    "read_rows",
    "write_rows",
]

MASK_NODATA = 255
# Probabilities are kept as uint16: 0 … 65534 for 0 … 1, 65535 for nodata.
QUANTA, Q_NODATA = 65534, 65535
BLOCK = 256
_PIXELS_AT_ONCE = 1 << 23


@contextmanager
def gdal() -> Iterator[None]:
    """GDAL settings of our files: a small block cache (its default grows with the machine), no sidecars."""
    with rasterio.Env(GDAL_CACHEMAX=64, GDAL_PAM_ENABLED="NO"):
        yield


def bands(width: int, height: int) -> Iterator[tuple[int, int]]:
    """Row ranges of whole blocks, some million pixels each, from top to bottom."""
    rows = max(1, _PIXELS_AT_ONCE // (width * BLOCK)) * BLOCK
    for first in range(0, height, rows):
        yield first, min(first + rows, height)


def create_work(path: Path, width: int, height: int, dtype: str) -> Any:
    """Open a new tiled work file for writing; its georeference is a placeholder, not the scene's."""
    profile: dict[str, Any] = {
        "driver": "GTiff", "width": width, "height": height, "count": 1, "dtype": dtype, "tiled": True,
        "blockxsize": BLOCK, "blockysize": BLOCK, "bigtiff": "IF_SAFER",
        "transform": Affine(1, 0, 1, 0, -1, 1),
    }  # fmt: skip
    with translated(path):
        try:
            # Six times as fast as DEFLATE at the same size, but not in every build of GDAL.
            return rasterio.open(path, "w", **profile, compress="ZSTD", zstd_level=1)
        except rasterio.errors.RasterioError:
            return rasterio.open(path, "w", **profile, compress="DEFLATE", zlevel=1)


def write_rows(dataset: Any, rows: NDArray[np.generic], first_row: int) -> None:
    """Write an array (h, W) into an open work file."""
    dataset.write(rows, 1, window=Window(0, first_row, rows.shape[1], rows.shape[0]))


def read_rows(dataset: Any, first_row: int, last_row: int) -> NDArray[Any]:
    """Read rows ``[first_row, last_row)`` of an open work file, an array (h, W)."""
    return np.asarray(dataset.read(1, window=Window(0, first_row, dataset.width, last_row - first_row)))
