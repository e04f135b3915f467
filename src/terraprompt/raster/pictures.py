"""Pixels of image files as every part of the product sees them, and values of label files.

Ordinary 8-bit pictures are decoded by Pillow; everything else is read as a :class:`~terraprompt.raster.scene.Scene`,
and only then is GDAL imported.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import DatasetError, EngineError, SceneError

if TYPE_CHECKING:
    from terraprompt.raster.scene import Scene
    from terraprompt.raster.source import Bands
    from terraprompt.raster.stretch import StretchMode

T = TypeVar("T")

__all__ = ["checked_image", "open_picture", "picture_size", "read_rgb", "read_values"]

_FAULTS = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)
_TIFF = (".tif", ".tiff")
#: Modes that Pillow would clip to 8 bits without a word.
_DEEP = ("I", "F")


def read_rgb(
    path: str | Path, *, bands: Bands = None, stretch: StretchMode = "auto"
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Read an image as an engine sees it.

    TIFFs, pictures of more than 8 bits, and every file for which ``bands`` or ``stretch`` is given are read as scenes
    are: bands by their colour, alpha, mask and nodata, one stretch for the whole file. Other pictures are Pillow's RGB.

    Args:
        path: of any raster.
        bands: see :func:`terraprompt.raster.open_scene`.
        stretch: see :func:`terraprompt.raster.estimate_stretch`.

    Returns:
        (rgb, valid): uint8 (height, width, 3), 0 where invalid, and bool (height, width).

    Raises:
        DatasetError: the file is missing or damaged.
    """
    path = Path(path)
    if bands is None and stretch == "auto" and path.suffix.lower() not in _TIFF:
        seen = _with_pillow(path, _picture_rgb)
        if seen is not None:
            return seen
    with _scene_errors(path):
        from terraprompt.raster.bands import read_tile
        from terraprompt.raster.scene import open_scene
        from terraprompt.raster.stretch import estimate_stretch
        from terraprompt.raster.tiles import Tile

        with open_scene(path, bands, warp=False) as scene:
            width, height = scene.width, scene.height
            if not scene.always_valid and not scene.read(0, 0, width, height)[1].any():
                return np.zeros((height, width, 3), np.uint8), np.zeros((height, width), bool)
            return read_tile(scene, estimate_stretch(scene, stretch), Tile(0, 0, width, height))


def _picture_rgb(picture: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.bool_]] | None:
    if picture.mode.startswith(_DEEP):
        return None
    rgb = np.array(picture.convert("RGB"), np.uint8)
    if not picture.has_transparency_data:
        return rgb, np.ones(rgb.shape[:2], bool)
    valid = np.asarray(picture.convert("RGBA"))[..., 3] > 0
    rgb[~valid] = 0
    return rgb, valid


@contextmanager
def open_picture(path: Path) -> Iterator[Scene]:
    """Open an image as evaluators of papers read it: Pillow's RGB without its alpha, no nodata, no place.

    GDAL decodes a JPEG with other colours between its blocks. TIFFs and pictures of more than 8 bits are GDAL's.

    Raises:
        DatasetError: the file is missing or damaged.
        SceneError: one that GDAL cannot use.
    """
    from rasterio.errors import NotGeoreferencedWarning
    from rasterio.io import MemoryFile

    from terraprompt.raster.scene import Scene, open_scene

    tiff = path.suffix.lower() in _TIFF
    rgb = (
        None if tiff else _with_pillow(path, lambda p: None if p.mode.startswith(_DEEP) else np.array(p.convert("RGB")))
    )
    if rgb is None:
        with open_scene(path, nodata="none", warp=False) as scene:
            yield scene
        return
    height, width = rgb.shape[:2]
    with MemoryFile() as memory, warnings.catch_warnings():
        warnings.simplefilter("ignore", NotGeoreferencedWarning)
        with memory.open(driver="GTiff", width=width, height=height, count=3, dtype="uint8") as out:
            out.write(np.ascontiguousarray(rgb.transpose(2, 0, 1)))
        with Scene(memory.open(), source=str(path), bands=(1, 2, 3), nodata="none") as scene:
            yield scene


def read_values(path: Path) -> NDArray[Any]:
    """Values of a label picture as stored, (height, width): grey values of 8 or 16 bits, palette indices.

    Of a colour picture the largest of the three channels; transparency is ignored; bilevel pictures give 0 and 255.

    Raises:
        DatasetError: the file is missing or damaged.
    """
    values = _with_pillow(path, _picture_values)
    if values is None:
        with _scene_errors(path):
            from terraprompt.raster.source import open_dataset

            with open_dataset(path) as file:
                values = file.read()[:3].max(0)
    return values


def _picture_values(picture: Image.Image) -> NDArray[Any]:
    values = np.array(picture.convert("L") if picture.mode == "1" else picture)
    if values.ndim == 2:
        return values
    return np.asarray(values[..., : -1 if picture.mode.endswith(("A", "a")) else 3].max(-1))


def picture_size(path: Path) -> tuple[int, int]:
    """(width, height) in pixels, from the header.

    Raises:
        DatasetError: the file is missing or no picture.
    """
    size = _with_pillow(path, lambda picture: picture.size)
    if size is None:
        with _scene_errors(path):
            from terraprompt.raster.source import open_dataset

            with open_dataset(path) as file:
                size = file.width, file.height
    return size


def _with_pillow(path: Path, read: Callable[[Image.Image], T]) -> T | None:
    """What ``read`` makes of a picture; None if it is a TIFF that Pillow cannot read."""
    try:
        with Image.open(path) as picture:
            return read(picture)
    except FileNotFoundError:
        raise DatasetError("A file is missing.", received=path) from None
    except _FAULTS as error:
        if path.suffix.lower() in _TIFF:
            return None
        raise DatasetError(f"A file cannot be read: {error}.", received=path) from None


@contextmanager
def _scene_errors(path: Path) -> Iterator[None]:
    if not path.exists():
        raise DatasetError("A file is missing.", received=path)
    try:
        yield
    except (SceneError, OSError) as error:
        text = error.what if isinstance(error, SceneError) else str(error)
        raise DatasetError(f"A file cannot be read: {text.rstrip('.')}.", received=path) from None


def checked_image(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """``image`` if it is uint8 (height, width, 3) with at least one pixel.

    Raises:
        EngineError: it is not.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise EngineError("An image must be uint8 (height, width, 3).", received=(image.dtype, image.shape))
    return image
