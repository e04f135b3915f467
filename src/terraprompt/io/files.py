"""Files that are either whole or not there: checks before, a temporary name during, one rename after."""

from __future__ import annotations

import errno
import logging
import os
import re
import shutil
import sqlite3
import tempfile
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyogrio.errors
from rasterio._err import CPLE_BaseError
from rasterio.errors import RasterioError

from terraprompt.errors import OutputError
from terraprompt.io.atomic import atomic_path
from terraprompt.io.leftovers import WORK, owner

__all__ = ["JSON_SUFFIXES", "WorkFolder", "check_writable", "is_database", "replacing", "translated", "unknown_suffix"]

log = logging.getLogger(__name__)

JSON_SUFFIXES = (".json", ".geojson")

# What GDAL and editors leave beside a file; it describes the old content, so it goes with it.
_SIDECARS = (".aux.xml", ".ovr", ".msk", "-wal", "-shm", "-journal")

_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# As C's strerror and SQLite say it; SQLite calls a limit on the size of files an I/O error.
_NO_ROOM_WORDS = re.compile("no space left|disk is full|disk quota|file too large|disk i/o error", re.IGNORECASE)
_LITTLE = 1 << 20  # bytes

# pyogrio's errors share no base class of their own.
_WRITE_ERRORS = (
    OSError,
    sqlite3.Error,
    RasterioError,
    CPLE_BaseError,
    pyogrio.errors.DataSourceError,
    pyogrio.errors.DataLayerError,
    pyogrio.errors.CRSError,
    pyogrio.errors.FieldError,
    pyogrio.errors.GeometryError,
    pyogrio.errors.FeatureError,
    pa.ArrowException,
)


def check_writable(
    path: str | Path, overwrite: bool = False, *, kind: str = "result", suffixes: Sequence[str] = ()
) -> Path:
    """Make sure, before any work, that a file can be written later.

    Args:
        path: where the file shall go; a link is followed.
        overwrite: whether a file that is there may be replaced.
        kind: what the file is called in the error.
        suffixes: extensions that are understood; none given: any.

    Returns:
        The path with links resolved.

    Raises:
        OutputError: unknown extension, no such folder, a folder without write permission, a file that is there, or
            one that is never replaced: a database, a device.
    """
    path = Path(path)
    if suffixes and path.suffix.lower() not in suffixes:
        raise unknown_suffix(path, kind, suffixes)
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise OutputError(
            "The name of the output is not UTF-8 text.", received=ascii(str(path)), hint="Choose another name."
        ) from None
    try:
        path = Path(os.path.realpath(path))
        if path.is_symlink():
            raise OutputError("The output is a link that leads round in a circle.", received=path, hint="Remove it.")
        if not path.parent.is_dir():
            raise OutputError("The folder of the output does not exist.", received=path.parent, hint="Create it first.")
        if path.is_dir():
            raise OutputError("The output is a folder.", received=path, hint="Give the name of a file.")
        if path.exists() and not path.is_file():
            raise OutputError("The output is no regular file.", received=path, hint="Give the name of a file.")
        if is_database(path):
            raise OutputError(
                "The output is a database; databases are never replaced.", received=path, hint="Choose another name."
            )
        if path.exists() and not overwrite:
            raise OutputError(
                "The output is already there.",
                received=path,
                hint="Allow it with --overwrite, or choose another name.",
            )
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise _output_error(path, error) from error
    return path


def is_database(path: Path) -> bool:
    """Whether a file is an SQLite database, e.g. a GeoPackage: it may hold more than one can replace."""
    with translated(path):
        if not path.is_file():
            return False
        with path.open("rb") as file:
            return file.read(16) == b"SQLite format 3\0"


def unknown_suffix(path: str | Path, kind: str, suffixes: Sequence[str]) -> OutputError:
    """Make the error about a file whose extension names no format."""
    return OutputError(
        f"The format of a {kind} file is told by its extension.", received=path, hint=f"Use {', '.join(suffixes)}."
    )


@contextmanager
def replacing(
    path: str | Path,
    overwrite: bool = False,
    *,
    kind: str = "result",
    suffixes: Sequence[str] = (),
    parts: Sequence[str] = (),
) -> Iterator[Path]:
    """Write to a temporary name in the same folder, then rename; whatever goes wrong, the old file stays.

    Args:
        path: as in :func:`check_writable`.
        overwrite: as in :func:`check_writable`.
        kind: as in :func:`check_writable`.
        suffixes: as in :func:`check_writable`.
        parts: extensions of files that belong to it: renamed with it where they were written, else removed.

    Yields:
        The temporary path (same extension). Whatever else begins with its name is removed at the end.

    Raises:
        OutputError: as :func:`check_writable`, and when the disk is full or the writer fails.
    """
    path = check_writable(path, overwrite, kind=kind, suffixes=suffixes)
    beside = {part: check_writable(path.with_suffix(part), overwrite, kind=kind) for part in parts}
    with translated(path):
        with atomic_path(path, sidecars=True) as temporary:
            try:
                with translated(path):  # while what was written still fills the disk
                    yield temporary
            except OutputError as error:
                if error.received != temporary:
                    raise
                raise OutputError(error.what, received=path, hint=error.hint) from error
            if path.exists() and not overwrite:
                raise OutputError("The output appeared meanwhile.", received=path, hint="Choose another name.")
            for part, place in beside.items():
                if (written := temporary.with_suffix(part)).exists():
                    written.replace(place)
                else:
                    place.unlink(missing_ok=True)
        for suffix in _SIDECARS:
            if os.path.lexists(sidecar := path.with_name(path.name + suffix)):
                sidecar.unlink()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what file writers raise into an :class:`OutputError` about ``path``."""
    try:
        yield
    except _WRITE_ERRORS as error:
        raise _output_error(path, error) from error


def _output_error(path: Path, error: Exception) -> OutputError:
    number = error.errno if isinstance(error, OSError) else None  # GDAL's errors count otherwise
    hint = "What was there before is untouched."
    said = f"{error} {error.__cause__}"  # rasterio's errors point at GDAL's
    if number in _NO_ROOM or _NO_ROOM_WORDS.search(said) or (number is None and _is_full(path)):
        hint = f"The disk is full or a limit was reached. {hint}"
    elif number == errno.ENAMETOOLONG:
        return OutputError("The name of the output is too long.", received=path, hint="Choose a shorter one.")
    elif number in (errno.EACCES, errno.EPERM, errno.EROFS):
        hint = f"Choose a folder you may write to. {hint}"
    return OutputError(f"Writing failed: {str(error).rstrip('.')}.", received=path, hint=hint)


def _is_full(path: Path) -> bool:
    """GDAL does not always say why it could not write."""
    try:
        return shutil.disk_usage(path if path.is_dir() else path.parent).free < _LITTLE
    except OSError:
        return False


class WorkFolder:
    """A private folder for work files, removed when its last user closes it or when nobody refers to it any
    more.

    Args:
        parent: an existing folder with room for about 3 bytes a pixel.
    """

    def __init__(self, parent: Path) -> None:
        try:
            self.path = Path(tempfile.mkdtemp(prefix=f"{WORK}{owner()}-", dir=parent))
        except OSError as error:
            raise _output_error(Path(parent), error) from error
        self._remove = weakref.finalize(self, shutil.rmtree, self.path, ignore_errors=True)
        self._users = 0

    def join(self) -> None:
        """Count one more user."""
        self._users += 1

    def leave(self) -> None:
        """Count one user less; the last one removes the folder."""
        self._users -= 1
        if self._users <= 0:
            self.remove()

    def remove(self) -> None:
        """Remove the folder now."""
        self._remove()
