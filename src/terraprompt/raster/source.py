"""Opening a raster: one handle, clear errors, and which bands are shown as red, green and blue."""

from __future__ import annotations

import json
import os
import re
import urllib.request
import uuid
import warnings
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio.enums import ColorInterp
from rasterio.env import ensure_env_with_credentials
from rasterio.errors import NotGeoreferencedWarning, RasterioIOError

from terraprompt.errors import SceneError
from terraprompt.io.redact import redact_source
from terraprompt.raster.far_sources import INDIRECT_DRIVERS, is_local, refuse_far_sources

__all__ = [
    "Bands",
    "choose_bands",
    "default_bands",
    "gdal_env",
    "open_dataset",
    "read_palette",
    "source_label",
    "source_version",
]

Bands = int | str | Sequence[int | str] | None

#: Enough for one row of blocks of a 20,000 px wide 8-band scene; GDAL's default is a share of all memory, which on a
#: large machine would be the biggest part of the whole flow.
_BLOCK_CACHE_BYTES = 192 * 1024 * 1024


def gdal_env() -> rasterio.Env:
    """GDAL settings for opening and reading; use it in every thread that reads.

    Damaged JPEG data is an error (GDAL's default paints it grey), block decoding may use all cores, and the block
    cache is bounded unless the user set ``GDAL_CACHEMAX``.
    """
    options: dict[str, Any] = {"GDAL_ERROR_ON_LIBJPEG_WARNING": True, "GDAL_NUM_THREADS": "ALL_CPUS"}
    if "GDAL_CACHEMAX" not in os.environ:
        options["GDAL_CACHEMAX"] = _BLOCK_CACHE_BYTES
    return rasterio.Env(**options)


def open_dataset(src: str | os.PathLike[str], *, allow_remote: bool = False) -> Any:
    """Open a raster for reading and refuse what no request could use.

    Args:
        src: a path or anything else that GDAL opens.
        allow_remote: whether a VRT or service file may name hosts, other folders and raw files. What ``src`` itself
            names is always opened, remote or not; inside archives and on hosts no VRT is followed without this.

    Returns:
        An open ``rasterio.DatasetReader``; the caller closes it.

    Raises:
        SceneError: missing file, not a raster, no bands, or complex values.
    """
    name = os.fspath(src)
    if not name:
        raise SceneError("The scene has no name.", hint="Give the path of a raster file.")
    try:
        there = is_local(name) and Path(name).exists()
    except OSError as error:
        raise SceneError(f"The scene's name cannot be looked up ({error.strerror}).", received=name[:200]) from error
    if there and not (Path(name).is_file() or Path(name).is_dir()):
        raise SceneError("The scene is no file but a pipe, socket or device.", received=name, hint="Give a file.")
    if not allow_remote:
        refuse_far_sources(name)
    checked = allow_remote or is_local(name)
    try:
        with gdal_env() as env, warnings.catch_warnings():
            # A scene without georeferencing is welcome here; its prompts are in pixels.
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            dataset = rasterio.open(name) if checked else _open_direct(name, set(env.drivers()) - INDIRECT_DRIVERS)
    except RasterioIOError as error:
        label = source_label(name)
        cause = error if label == name else None  # a traceback would show what the label hides
        if is_local(name) and not Path(name).exists():
            raise SceneError("The scene does not exist.", received=label, hint="Check the path.") from cause
        raise SceneError(
            f"The scene cannot be opened as a raster ({redact_source(str(error))}).",
            received=label,
            hint="Check with gdalinfo that the file is complete and of a format that GDAL reads."
            + (
                "" if checked else " A VRT on a host or in an archive needs --allow-remote (Python: allow_remote=True)."
            ),
        ) from cause
    try:
        _refuse_unusable(dataset, source_label(name))
    except SceneError:
        dataset.close()
        raise
    return dataset


@ensure_env_with_credentials  # type: ignore[untyped-decorator]
def _open_direct(name: str, drivers: set[str]) -> Any:
    """``rasterio.open`` with only these drivers allowed."""
    return rasterio.DatasetReader(name, driver=sorted(drivers))


def source_label(name: str) -> str:
    """Name of a source for messages, outputs and logs: with secrets replaced; an existing local path as it is."""
    label = redact_source(name)
    return name if label == name or (is_local(name) and Path(name).exists()) else label


def source_version(files: Iterable[str]) -> str:
    """Version of the content behind GDAL file names, for cache keys; members of a VRT count, at any depth.

    A local file: path, size and time of change. An http source: its ETag, or time of change and size, as the server
    says. Anything else, or a server that does not say: a new random value, so that nothing stale is ever reused.
    """
    versions: set[str] = set()
    waiting = list(files) or [""]
    seen: set[str] = set()
    while waiting:
        name = waiting.pop()
        if name in seen:
            continue
        seen.add(name)
        path = _file_behind(name)
        if path is None:
            versions.add(_http_version(name) or uuid.uuid4().hex)
            continue
        stat = path.stat()
        versions.add(f"{path.resolve()}|{stat.st_size}|{stat.st_mtime_ns}")
        if name.lower().endswith(".vrt"):
            with gdal_env(), warnings.catch_warnings():
                warnings.simplefilter("ignore", NotGeoreferencedWarning)
                try:
                    with rasterio.open(name) as dataset:
                        waiting += dataset.files
                except RasterioIOError:  # a member that is missing; reading will say so
                    versions.add(uuid.uuid4().hex)
    return "\n".join(sorted(versions))


def _file_behind(name: str) -> Path | None:
    """The local file, or the local archive that holds it."""
    path = Path(re.sub(r"^(/vsi(zip|tar|gzip|7z|rar)/)+", "/", name) if name.startswith("/vsi") else name)
    return next((p for p in (path, *path.parents) if p.is_file()), None) if name else None


def _http_version(name: str) -> str | None:
    url = name.removeprefix("/vsicurl/")
    if not url.startswith(("http://", "https://")):
        return None
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=5) as reply:
            etag, changed, size = (reply.headers.get(key) for key in ("ETag", "Last-Modified", "Content-Length"))
    except (OSError, ValueError):
        return None
    version = etag or (changed and f"{changed}|{size}")
    return f"{url}|{version}" if version else None


def _refuse_unusable(dataset: Any, name: str) -> None:
    if dataset.count == 0:
        inside = redact_source(", ".join(dataset.subdatasets[:4]))
        raise SceneError(
            "The scene has no bands.",
            received=name,
            hint=f"Open one of its subdatasets: {inside}." if inside else "Choose a file with at least one band.",
        )
    if any(np.dtype(t).kind == "c" or t.startswith("complex") for t in dataset.dtypes):
        raise SceneError(
            "The scene holds complex values.",
            received=f"{name} ({dataset.dtypes[0]})",
            hint="Write its amplitude to a new raster first, e.g. with gdal_calc.py or gdal_translate on AMPLITUDE.",
        )


def choose_bands(dataset: Any, bands: Bands = None) -> tuple[int, ...]:
    """Which bands are seen, as 1-based indexes: one (grey) or three (red, green, blue).

    Args:
        dataset: an open rasterio dataset.
        bands: one or three 1-based indexes, band descriptions or colour names (case does not matter). None: the bands
            marked red, green and blue; else the first three that are not alpha; else, with one or two, the first.

    Raises:
        SceneError: unknown band, index out of range, neither one nor three bands, or nothing but alpha.
    """
    if bands is not None:
        wanted = [bands] if isinstance(bands, int | str) else list(bands)
        if len(wanted) not in (1, 3):
            raise SceneError("One band (grey) or three bands (red, green, blue) are needed.", received=wanted)
        return tuple(_band_index(dataset, band) for band in wanted)
    return default_bands(dataset)[0]


def default_bands(dataset: Any) -> tuple[tuple[int, ...], str]:
    """The bands seen where none are named, and why these."""
    colours = dataset.colorinterp
    marked = [ColorInterp.red, ColorInterp.green, ColorInterp.blue]
    named = _named_colours(dataset)
    if all(colour in colours for colour in marked):
        bands = tuple(colours.index(colour) + 1 for colour in marked)
        differ = named is not None and named != bands
        return bands, "marked as red, green and blue" + (
            f", though the names say {','.join(map(str, named or ()))}" if differ else ""
        )
    if named is not None:
        names = ", ".join(dataset.descriptions[band - 1] or f"band {band}" for band in named)
        return named, f"named as red, green and blue ({names})"
    usable = [i + 1 for i, colour in enumerate(colours) if colour is not ColorInterp.alpha]
    if not usable:
        raise SceneError("The scene has no band but an alpha band.", received=source_label(dataset.name))
    return tuple(usable[:3] if len(usable) >= 3 else usable[:1]), "the first; none is marked or named by colour"


def _named_colours(dataset: Any) -> tuple[int, ...] | None:
    """Red, green and blue by descriptions, STAC tags, or the codes of Sentinel-2 and Landsat 8 (B4, B3, B2)."""
    # GDAL splits the name of a tag at its colon: "eo:bands=[...]" comes back as "eo" with "bands=[...]".
    tags = {key.casefold(): value for key, value in dataset.tags().items()}
    text = str(tags.get("eo:bands") or tags.get("eo_bands") or tags.get("eo") or "[]")
    try:
        catalogue = json.loads(text[text.find("[") :])
    except (ValueError, RecursionError):
        catalogue = []
    listed = [b for b in catalogue if isinstance(b, dict)] if isinstance(catalogue, list) else []
    colours: dict[str, int] = {}
    codes: dict[str, int] = {}
    for band in range(1, dataset.count + 1):
        tags = {key.casefold(): value for key, value in dataset.tags(band).items()}
        entry = listed[band - 1] if len(listed) == dataset.count else {}
        own = [tags.get(key) for key in ("eo:common_name", "eo", "common_name")]
        texts = [*own, entry.get("common_name"), entry.get("name"), dataset.descriptions[band - 1]]
        said = " ".join(str(text or "") for text in texts).casefold().replace("_", " ")
        words = set(re.findall(r"[a-z]+\d*[a-z]*", said))
        if not words & {"edge", "rededge", "nir", "infrared", "near", "swir", "mask", "alpha"}:
            for colour in words & {"red", "green", "blue"}:
                colours.setdefault(colour, band)
        for code in words:
            codes.setdefault(re.sub(r"^b0", "b", code), band)
    for table, keys in ((colours, ("red", "green", "blue")), (codes, ("b4", "b3", "b2"))):
        if all(key in table for key in keys) and len({table[key] for key in keys}) == 3:
            return tuple(table[key] for key in keys)
    return None


def _band_index(dataset: Any, band: int | str) -> int:
    if isinstance(band, str) and not band.strip().lstrip("-").isdigit():
        wanted = band.strip().casefold()
        for names in (dataset.descriptions, [colour.name for colour in dataset.colorinterp]):
            folded = [(name or "").strip().casefold() for name in names]
            if wanted in folded:
                return folded.index(wanted) + 1
        known = [name for name in dataset.descriptions if name]
        hint = f"Its bands are named {', '.join(known)}." if known else f"Give indexes 1 to {dataset.count}."
        raise SceneError("The scene has no band of this name.", received=band, hint=hint)
    index = int(band)
    if not 1 <= index <= dataset.count:
        raise SceneError("The band index is out of range.", received=index, hint=f"Give indexes 1 to {dataset.count}.")
    return index


def read_palette(dataset: Any, bands: tuple[int, ...]) -> NDArray[np.uint8] | None:
    """The colour table ``(256 or 65536, 4)`` RGBA of a paletted band that is read alone, else None."""
    if len(bands) != 1 or dataset.colorinterp[bands[0] - 1] is not ColorInterp.palette:
        return None
    dtype = np.dtype(dataset.dtypes[bands[0] - 1])
    if dtype not in (np.uint8, np.uint16):
        return None
    table = np.zeros((np.iinfo(dtype).max + 1, 4), np.uint8)
    for value, rgba in dataset.colormap(bands[0]).items():
        if value < len(table):
            table[value] = rgba
    return table
