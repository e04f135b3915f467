"""Files that are either whole or not there: a temporary name while writing, one rename at the end."""

from __future__ import annotations

import os
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from terraprompt.errors import OutputError
from terraprompt.io.leftovers import TEMPORARY, owner

__all__ = ["atomic_folder", "atomic_path", "check_replaceable", "remove_temporaries", "write_atomic"]


@contextmanager
def atomic_path(path: Path, *, durable: bool = True, sidecars: bool = False, parents: bool = True) -> Iterator[Path]:
    """Write to a temporary name in the same folder, then rename.

    Whatever goes wrong, also Ctrl-C, the old file stays and the temporary one goes.

    Args:
        path: of the file to be.
        durable: wait until the content is on the disk before the rename.
        sidecars: also remove whatever else was written under a name that begins with the temporary one.
        parents: create the folder if it is missing.

    Yields:
        The temporary path, with the same extension.

    Raises:
        OSError: as it comes.
    """
    prefix = f"{TEMPORARY}{owner()}-{secrets.token_hex(6)}-"
    stem = os.fsencode(path.stem)[-80:].decode(errors="ignore")  # bytes count
    temporary = path.with_name(f"{prefix}{stem}{path.suffix.lower()}")
    if parents:
        path.parent.mkdir(parents=True, exist_ok=True)
    try:
        yield temporary
        if durable:
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        for left in path.parent.iterdir() if sidecars else (temporary,):
            if left.name.startswith(prefix):
                with suppress(OSError):
                    if left.is_dir():  # some drivers make one where they do not know the extension
                        shutil.rmtree(left)
                    else:
                        left.unlink()


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Fill a folder beside ``path``, which takes its place at the end; whatever goes wrong, the old one stays.

    Yields:
        The folder, empty.

    Raises:
        OutputError: see :func:`check_replaceable`.
    """
    check_replaceable(path)
    part = path.with_name(f".{path.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir(parents=True)
    try:
        yield part
        check_replaceable(path)
        if path.exists():
            shutil.rmtree(path)
        part.rename(path)
    finally:
        shutil.rmtree(part, ignore_errors=True)


def check_replaceable(path: Path) -> None:
    """Refuse to replace what is no folder of weights: a file, or a folder with folders in it (a home, a project).

    Raises:
        OutputError: such is at ``path``.
    """
    if path.exists() and not (path.is_dir() and not any(inside.is_dir() for inside in path.iterdir())):
        raise OutputError(
            "What is at the target is no folder of weights alone; it is never replaced.",
            received=path,
            hint="Choose another folder.",
        )


def write_atomic(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Replace a file by bytes or UTF-8 text as a whole; see :func:`atomic_path`."""
    with atomic_path(path, durable=durable) as temporary:
        temporary.write_bytes(content.encode() if isinstance(content, str) else content)


def remove_temporaries(folder: Path) -> None:
    """Remove what a process that was killed left in a folder and below it; nothing may be writing there."""
    for path in folder.rglob(f"{TEMPORARY}*"):
        path.unlink()
