"""Pixels of picture files, with every fault an error that names the file.

Pillow reads nearly all; GDAL is asked for TIFFs that it cannot, and only then imported.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import DatasetError

__all__ = ["picture_size", "read_picture", "read_values"]

_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_TIFF = (".tif", ".tiff")
#: Pillow would clip these to 8 bits without a word.
_DEEP = ("I", "F")


def read_picture(path: Path, mode: Literal["RGB", "L"]) -> NDArray[np.uint8]:
    """Pixels of an 8-bit picture: uint8 (height, width, 3) for "RGB", (height, width) for "L".

    Raises:
        DatasetError: the file is missing, damaged, or has values of more than 8 bits.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(_DEEP):
                raise _too_deep(path, picture.mode)
            return np.array(picture.convert(mode), np.uint8)
    except FileNotFoundError:
        raise DatasetError("A file is missing.", received=path) from None
    except _FAULTS as error:
        if path.suffix.lower() not in _TIFF:
            raise DatasetError(f"A file cannot be read: {error}.", received=path) from None
    bands = _gdal(path)
    if bands.dtype != np.uint8:
        raise _too_deep(path, str(bands.dtype))
    if mode == "L":
        return np.ascontiguousarray(bands[0])
    return np.ascontiguousarray(np.moveaxis(bands[[0, 1, 2] if len(bands) >= 3 else [0, 0, 0]], 0, -1))


def read_values(path: Path) -> NDArray[Any]:
    """Values of a label picture as stored, (height, width): grey values of 8 or 16 bits, palette indices.

    Of a colour picture the largest of the three channels; transparency is ignored; bilevel pictures give 0 and 255.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    try:
        with Image.open(path) as picture:
            mode = picture.mode
            values = np.array(picture.convert("L") if mode == "1" else picture)
        return values if values.ndim == 2 else _flat(np.moveaxis(values, -1, 0), alpha=mode.endswith(("A", "a")))
    except FileNotFoundError:
        raise DatasetError("A file is missing.", received=path) from None
    except _FAULTS as error:
        if path.suffix.lower() not in _TIFF:
            raise DatasetError(f"A file cannot be read: {error}.", received=path) from None
    return _flat(_gdal(path), alpha=False)


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header.

    Raises:
        DatasetError: the file is missing or no picture.
    """
    try:
        with Image.open(path) as picture:
            return picture.size
    except FileNotFoundError:
        raise DatasetError("A file is missing.", received=path) from None
    except _FAULTS as error:
        if path.suffix.lower() not in _TIFF:
            raise DatasetError(f"A file cannot be read: {error}.", received=path) from None
    _, height, width = _gdal(path).shape
    return width, height


def _flat(bands: NDArray[Any], *, alpha: bool) -> NDArray[Any]:
    return np.asarray((bands[:-1] if alpha else bands[:3]).max(0))


def _gdal(path: Path) -> NDArray[Any]:
    """(bands, height, width) of a TIFF."""
    import warnings

    import rasterio
    from rasterio.errors import NotGeoreferencedWarning, RasterioError

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            with rasterio.open(path) as file:
                values: NDArray[Any] = file.read()
                return values
    except (RasterioError, OSError) as error:
        raise DatasetError(f"A file cannot be read: {error}.", received=path) from None


def _too_deep(path: Path, kind: str) -> DatasetError:
    return DatasetError(
        f"A picture has values of more than 8 bits ({kind}).",
        received=path,
        hint="Read it with terraprompt.open_scene, which stretches it.",
    )
