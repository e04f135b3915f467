"""Work folders and temporary files that carry the process that made them, so that those of dead ones can be found."""

from __future__ import annotations

import functools
import hashlib
import os
import re
import shutil
import socket
from dataclasses import dataclass
from pathlib import Path

__all__ = ["TEMPORARY", "WORK", "Leftover", "leftovers", "owner"]

#: Beginnings of names: of temporary files beside outputs, and of work folders.
TEMPORARY, WORK = ".tmp-", "terraprompt-"
_NAME = re.compile(rf"(?:{re.escape(TEMPORARY)}|{WORK})(?P<host>[0-9a-f]{{8}})-(?P<pid>\d+)-")


@functools.cache
def _host() -> str:
    return hashlib.sha256(socket.gethostname().encode()).hexdigest()[:8]


def owner() -> str:
    """This process, as names carry it: a hash of the machine's name, and the process id."""
    return f"{_host()}-{os.getpid()}"


@dataclass(frozen=True, slots=True)
class Leftover:
    """What a process that is no more left behind.

    Attributes:
        path: of the file or folder.
        size: bytes of it and all below it.
    """

    path: Path
    size: int

    def remove(self) -> None:
        """Remove it.

        Raises:
            OSError: as it comes.
        """
        if self.path.is_dir():
            shutil.rmtree(self.path)
        else:
            self.path.unlink()


def leftovers(folder: Path) -> list[Leftover]:
    """Work folders and temporary files in a folder, of this user, made on this machine by processes that are no more.

    What a living process made is never listed, nor what came from another machine or does not say.
    """
    try:
        found = sorted(path for path in folder.iterdir() if _NAME.match(path.name))
    except OSError:
        return []
    return [Leftover(path, _size(path)) for path in found if _is_left(path)]


def _is_left(path: Path) -> bool:
    made = _NAME.match(path.name)
    try:
        mine = not path.is_symlink() and path.stat().st_uid == os.getuid()
    except OSError:
        return False
    return made is not None and mine and made["host"] == _host() and not _lives(int(made["pid"]))


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


def _size(path: Path) -> int:
    parts = [path, *path.rglob("*")] if path.is_dir() else [path]
    return sum(part.lstat().st_size for part in parts if part.is_file() or part.is_symlink())
