"""Raster files: cloud-optimised GeoTIFF of mask or probability, PNG of a mask; the work files behind them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import numpy as np
import rasterio
import rasterio.shutil
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.windows import Window

from terraprompt.errors import OutputError
from terraprompt.io.files import replacing, translated
from terraprompt.io.tiff import verify_tiff
from terraprompt.outputs.provenance import raster_tags

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = [
    "BLOCK",
    "MASK_NODATA",
    "QUANTA",
    "Q_NODATA",
    "bands",
    "create_work",
    "gdal",
    "read_rows",
    "strict_creation_options",
    "write_raster",
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


def write_raster(
    result: Result,
    path: str | Path,
    *,
    probability: bool = False,
    overwrite: bool = False,
    creation_options: Mapping[str, Any] | None = None,
) -> Path:
    """Write a result's mask or probability: a COG, or for ``.png`` a palette PNG of the mask.

    The COG holds 0 and 1 (uint8, nodata 255; overviews by mode), or float32 with NaN (overviews by average),
    and the provenance as tags. A PNG holds the same values with a black, white and transparent palette, and
    no georeference.

    Args:
        result: whose mask or probability is written.
        path: ``.tif`` or ``.png``.
        probability: write the probability in place of the mask.
        overwrite: replace a file that is there.
        creation_options: of GDAL's COG or PNG driver; they win over ours.

    Raises:
        OutputError: see :func:`terraprompt.io.files.check_target`; a full disk; a PNG of a probability.
    """
    is_png = Path(path).suffix.lower() == ".png"
    if is_png and probability:
        raise OutputError("A PNG cannot hold probabilities.", received=path, hint="Use .tif.")
    options: dict[str, Any]
    if is_png:
        options = {"driver": "PNG", "WRITE_METADATA_AS_TEXT": "YES"}
    else:
        options = {
            "driver": "COG", "COMPRESS": "DEFLATE", "BLOCKSIZE": 512, "BIGTIFF": "IF_SAFER",
            "OVERVIEWS": "AUTO",
            "NUM_THREADS": "ALL_CPUS", "PREDICTOR": "YES" if probability else "NO",
            "OVERVIEW_RESAMPLING": "AVERAGE" if probability else "MODE",
        }  # fmt: skip
    options |= {key.upper(): value for key, value in (creation_options or {}).items()}
    options["driver"] = "PNG" if is_png else "COG"
    with gdal(), replacing(path, overwrite, kind="mask") as temporary:
        source = result.work_file("probability" if probability else "mask")
        vrt = source.parent / f"{source.stem}-{secrets.token_hex(6)}.vrt"
        vrt.write_bytes(_vrt(result, source, probability=probability, palette=is_png))
        with strict_creation_options():
            rasterio.shutil.copy(vrt, temporary, **options)
        if not is_png:
            verify_tiff(temporary)
    return Path(path)


#: Warnings of GDAL about creation options in this context; None outside :func:`strict_creation_options`.
_warnings: ContextVar[list[str] | None] = ContextVar("creation_option_warnings", default=None)


class _CreationOptionHandler(logging.Handler):
    """Collects warnings for the context that caused them, so that threads do not hear each other."""

    def emit(self, record: logging.LogRecord) -> None:
        collected = _warnings.get()
        if collected is not None and "creation option" in (text := record.getMessage()):
            collected.append(text)


logging.getLogger("rasterio").addHandler(_CreationOptionHandler(logging.WARNING))


@contextmanager
def strict_creation_options() -> Iterator[None]:
    """Raise on a creation option that GDAL would ignore with a warning.

    Raises:
        OutputError: an option or its value is unknown to the driver.
    """
    collected: list[str] = []
    token = _warnings.set(collected)
    try:
        yield
    finally:
        _warnings.reset(token)
    if collected:
        raise OutputError(
            "GDAL does not understand a creation option.",
            received=collected[0],
            hint="See the options of its COG driver; nothing was written.",
        )


def _vrt(result: Result, source: Path, *, probability: bool, palette: bool) -> bytes:
    """A virtual raster that gives a work file its georeference, tags, nodata and scale without a copy."""
    root = ElementTree.Element("VRTDataset", rasterXSize=str(result.width), rasterYSize=str(result.height))

    def add(parent: ElementTree.Element, tag: str, text: object = None, **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag, attributes)
        element.text = None if text is None else str(text)
        return element

    if result.crs is not None:
        add(root, "SRS", result.crs.to_wkt(), dataAxisToSRSAxisMapping="1,2")
    if not result.transform.is_identity:
        add(root, "GeoTransform", ", ".join(f"{v:.17g}" for v in result.transform.to_gdal()))
    metadata = add(root, "Metadata")
    for key, value in raster_tags(result).items():
        add(metadata, "MDI", value, key=key)
    band = add(root, "VRTRasterBand", dataType="Float32" if probability else "Byte", band="1")
    add(band, "Description", "probability" if probability else "mask")
    add(band, "NoDataValue", "nan" if probability else MASK_NODATA)
    if palette:
        add(band, "ColorInterp", "Palette")
        table = add(band, "ColorTable")
        for entry in range(256):
            grey = "255" if entry == 1 else "0"
            add(table, "Entry", c1=grey, c2=grey, c3=grey, c4="0" if entry == MASK_NODATA else "255")
    part = add(band, "ComplexSource" if probability else "SimpleSource")
    add(part, "SourceFilename", source.name, relativeToVRT="1")
    add(part, "SourceBand", 1)
    if probability:
        add(part, "ScaleOffset", 0)
        add(part, "ScaleRatio", repr(1 / QUANTA))
        add(part, "NODATA", Q_NODATA)
    return bytes(ElementTree.tostring(root, encoding="utf-8"))
