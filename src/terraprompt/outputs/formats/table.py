"""Output formats by kind and extension: ours, and those of the entry points ``terraprompt.formats``."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

from terraprompt.errors import OutputError
from terraprompt.io.entry_points import installed, load_installed
from terraprompt.io.files import check_writable, unknown_suffix
from terraprompt.outputs.formats.geopackage import GeoPackage
from terraprompt.outputs.formats.picture import write_picture
from terraprompt.outputs.formats.raster import write_raster
from terraprompt.outputs.formats.vector import write_vector
from terraprompt.outputs.result import Kind

__all__ = ["FORMATS", "Format", "check_target", "find_format", "media_type"]

GROUP = "terraprompt.formats"


@dataclass(frozen=True, slots=True)
class Format:
    """A file format of results.

    Attributes:
        name: as GDAL calls it where GDAL knows it.
        suffixes: extensions, lower case with the dot.
        kind: which method of a result writes it: "mask" for ``save_mask``, "vector", "picture".
        write: ``write(result, path, **options)`` makes the file. The path is a temporary one with the extension
            asked for; it is renamed when the function returns. ``options`` are those of the method (mask:
            probability, creation_options, and others where there are several; vector: layer; picture: scene_rgb,
            prompt, max_side).
        media_type: for catalogues; None if there is none.
        parts: extensions of further files that belong to it, old ones too.
        find_database: the database at a path that gets one more layer in place of being replaced, or None.
    """

    name: str
    suffixes: tuple[str, ...]
    kind: Kind
    write: Callable[..., None]
    media_type: str | None = None
    parts: tuple[str, ...] = ()
    find_database: Callable[[str | Path], GeoPackage | None] = lambda path: None


def _vector(driver: str, media: str, *suffixes: str, **more: Any) -> Format:
    return Format(driver, suffixes, "vector", functools.partial(write_vector, driver=driver), media, **more)


_SHAPEFILE = (".shx", ".dbf", ".prj", ".cpg", ".qpj", ".sbn", ".sbx", ".qix")
_GEOTIFF = "image/tiff; application=geotiff; profile=cloud-optimized"
FORMATS: tuple[Format, ...] = (
    Format("COG", (".tif", ".tiff"), "mask", write_raster, _GEOTIFF),
    Format("PNG", (".png",), "mask", write_raster, "image/png"),
    _vector("GPKG", "application/geopackage+sqlite3", ".gpkg", find_database=GeoPackage.find),
    _vector("GeoJSON", "application/geo+json", ".geojson", ".json"),
    _vector("FlatGeobuf", "application/vnd.flatgeobuf", ".fgb"),
    _vector("Parquet", "application/vnd.apache.parquet", ".parquet", ".geoparquet"),
    _vector("ESRI Shapefile", "application/vnd.shp", ".shp", parts=_SHAPEFILE),
    Format("PNG", (".png",), "picture", write_picture, "image/png"),
    Format("JPEG", (".jpg", ".jpeg"), "picture", write_picture, "image/jpeg"),
    Format("WebP", (".webp",), "picture", write_picture, "image/webp"),
)


def find_format(kind: Kind, path: str | Path, name: str | None = None) -> Format:
    """Look up the format of a file.

    Args:
        kind: of the file.
        path: whose extension tells the format.
        name: of a format, if the extension shall not decide.

    Raises:
        OutputError: unknown extension or name; a format of another package that cannot be imported.
    """
    suffix = Path(path).suffix.lower()
    by_suffix = next((row for row in _rows(kind) if suffix in row.suffixes), None)
    if by_suffix is None:
        raise unknown_suffix(path, kind, [known for row in _rows(kind) for known in row.suffixes])
    by_name = by_suffix if name is None else next((row for row in _rows(kind) if row.name == name), None)
    if by_name is None:
        names = ", ".join(row.name for row in _rows(kind))
        raise OutputError(f"This {kind} format is not known.", received=name, hint=f"Formats: {names}.")
    if by_name.parts and suffix not in by_name.suffixes:
        raise unknown_suffix(path, by_name.name, by_name.suffixes)
    return by_name


def check_target(
    path: str | Path, overwrite: bool = False, *, kind: Kind | None = None, layer: str = "", named: bool = False
) -> Path:
    """Make sure, before any work, that a result can be written to a file later; None allows any kind.

    Args:
        path: of the file to be.
        overwrite: whether a file that is there may be replaced; of a GeoPackage, the layer of this name alone.
        kind: of the file.
        layer: of a vector file; "" = not known yet.
        named: whether the user named the layer.

    Raises:
        OutputError: unknown extension; see :func:`terraprompt.io.files.check_writable` and :meth:`.GeoPackage.check`.
    """
    if kind is not None:
        chosen = find_format(kind, path)
        if (database := chosen.find_database(path)) is not None:
            if layer:
                database.check(layer, overwrite=overwrite, named=named)
            return database.path
        for part in chosen.parts:
            check_writable(Path(path).with_suffix(part), overwrite)
    elif not any(Path(path).suffix.lower() in row.suffixes for row in _rows()):
        raise unknown_suffix(path, "result", list(dict.fromkeys(known for row in _rows() for known in row.suffixes)))
    return check_writable(path, overwrite)


def media_type(path: str | Path) -> str | None:
    """Media type of a file by its extension, or None."""
    suffix = Path(path).suffix.lower()
    return next((row.media_type for row in _rows() if suffix in row.suffixes), None)


def _rows(kind: Kind | None = None) -> Iterator[Format]:
    """Formats of a kind, or all; other packages are imported only after ours have been passed over."""
    rows = itertools.chain(FORMATS, (_load(name) for name in installed(GROUP)))
    yield from (row for row in rows if kind in (None, row.kind))


def _load(name: str) -> Format:
    row = load_installed(GROUP, name, OutputError)
    if not isinstance(row, Format) or row.kind not in get_args(Kind):
        raise OutputError(
            f'The entry point of "{name}" is no output format.', received=row, hint="See docs/extend/format.md."
        )
    return row
