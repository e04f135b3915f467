"""Raster files: cloud-optimised GeoTIFF of mask or probability, PNG of a mask; the work files behind them."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree

import rasterio
import rasterio.shutil

from terraprompt import __version__
from terraprompt.errors import OutputError
from terraprompt.io.text import sanitize_text
from terraprompt.io.tiff import verify_tiff
from terraprompt.outputs.formats.style import FILL
from terraprompt.outputs.provenance import PROVENANCE_KEYS, as_text
from terraprompt.outputs.work_files import MASK_NODATA, Q_NODATA, QUANTA, gdal

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["check_creation_options", "strict_creation_options", "write_raster"]


def write_raster(
    result: Result,
    path: Path,
    *,
    probability: bool = False,
    creation_options: Mapping[str, Any] | None = None,
    others: Sequence[Result] = (),
) -> None:
    """Write a result's mask or probability: a COG, or for ``.png`` a palette PNG of the mask.

    The COG holds 0 and 1 (uint8, nodata 255, with a table of colours; overviews by mode), or float32 with NaN
    (overviews by average), and the provenance as tags. A PNG holds the same values with a black, white and
    transparent palette, and no georeference.

    Args:
        result: whose mask or probability is written.
        path: ``.tif`` or ``.png``.
        probability: write the probability in place of the mask.
        creation_options: of GDAL's COG or PNG driver; they win over ours.
        others: further results of the same scene, a band each, named by their instructions; TIFF has no colours then.

    Raises:
        OutputError: a PNG of a probability; a creation option that GDAL does not know.
    """
    is_png = path.suffix.lower() == ".png"
    if is_png and probability:
        raise OutputError("A PNG cannot hold probabilities.", received=path, hint="Use .tif.")
    if is_png and others:
        raise OutputError("A PNG cannot hold several masks.", received=path, hint="Use .tif.")
    for other in others:
        if (other.width, other.height, other.transform, other.crs) != (
            result.width, result.height, result.transform, result.crs,
        ):  # fmt: skip
            raise OutputError("Masks of one file are of one scene.", received=f"{result!r} and {other!r}")
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
    check_creation_options(options)
    colour = None if probability or others else (255, 255, 255) if is_png else FILL
    with gdal():
        folder = result.work_file("mask").parent
        vrt = folder / f"output-{secrets.token_hex(6)}.vrt"
        vrt.write_bytes(_vrt((result, *others), probability=probability, colour=colour))
        with strict_creation_options():
            rasterio.shutil.copy(vrt, path, **options)
        if not is_png:
            verify_tiff(path)


def check_creation_options(options: Mapping[str, Any]) -> None:
    """Refuse sizes of blocks by which GDAL would fail without an error that can be caught.

    Raises:
        OutputError: a BLOCKSIZE that is no multiple of 16 from 16 to 8192.
    """
    size = str(options.get("BLOCKSIZE", 512))
    if not (size.isascii() and size.isdigit() and 16 <= int(size) <= 8192 and int(size) % 16 == 0):
        raise OutputError(
            "The creation option BLOCKSIZE is a multiple of 16 from 16 to 8192.", received=size, hint="E.g. 512."
        )


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


def _vrt(results: Sequence[Result], *, probability: bool, colour: tuple[int, int, int] | None) -> bytes:
    """A virtual raster that gives work files, a band each, georeference, tags, nodata and scale without a copy."""
    first = results[0]
    root = ElementTree.Element("VRTDataset", rasterXSize=str(first.width), rasterYSize=str(first.height))

    def add(parent: ElementTree.Element, tag: str, text: object = None, **attributes: str) -> ElementTree.Element:
        element = ElementTree.SubElement(parent, tag, attributes)
        element.text = None if text is None else str(text)
        return element

    def tag(parent: ElementTree.Element, tags: Mapping[str, str]) -> None:
        metadata = add(parent, "Metadata")
        for key, value in tags.items():
            add(metadata, "MDI", value, key=key)

    if first.crs is not None:
        add(root, "SRS", first.crs.to_wkt(), dataAxisToSRSAxisMapping="1,2")
    if not first.transform.is_identity:
        add(root, "GeoTransform", ", ".join(f"{v:.17g}" for v in first.transform.to_gdal()))
    each = [_tags(result) for result in results]
    shared = {key: value for key, value in each[0].items() if all(tags.get(key) == value for tags in each)}
    tag(root, shared)
    for number, (result, tags) in enumerate(zip(results, each, strict=True), 1):
        band = add(root, "VRTRasterBand", dataType="Float32" if probability else "Byte", band=str(number))
        tag(band, {key: value for key, value in tags.items() if key not in shared})
        alone = "probability" if probability else "mask"
        named = sanitize_text(as_text(result.provenance, "instruction"), 200)
        add(band, "Description", alone if len(results) == 1 else named or alone)
        add(band, "NoDataValue", "nan" if probability else MASK_NODATA)
        if colour is not None:
            add(band, "ColorInterp", "Palette")
            table = add(band, "ColorTable")
            for entry in range(256):
                red, green, blue = map(str, colour if entry == 1 else (0, 0, 0))
                add(table, "Entry", c1=red, c2=green, c3=blue, c4="0" if entry == MASK_NODATA else "255")
        part = add(band, "ComplexSource" if probability else "SimpleSource")
        add(part, "SourceFilename", result.work_file("probability" if probability else "mask"), relativeToVRT="0")
        add(part, "SourceBand", 1)
        if probability:
            add(part, "ScaleOffset", 0)
            add(part, "ScaleRatio", repr(1 / QUANTA))
            add(part, "NODATA", Q_NODATA)
    return bytes(ElementTree.tostring(root, encoding="utf-8"))


def _tags(result: Result) -> dict[str, str]:
    """Tags of a raster file: ``TIFFTAG_SOFTWARE`` and ``TERRAPROMPT_*``."""
    keys = (*PROVENANCE_KEYS, *sorted(set(result.provenance) - set(PROVENANCE_KEYS)))
    tags = {f"TERRAPROMPT_{key.upper()}": as_text(result.provenance, key) for key in keys}
    tags["TERRAPROMPT_STATUS"] = result.status.value
    tags["TERRAPROMPT_OBJECTS"] = str(len(result.objects))
    tags["TIFFTAG_SOFTWARE"] = f"terraprompt {as_text(result.provenance, 'version') or __version__}"
    return tags
