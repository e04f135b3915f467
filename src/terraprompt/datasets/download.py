"""Copies of data sets from the Hugging Face hub: every file checked against the hub's checksum, whole ones kept.

The hub's client fetches, tries again and gives a file its name at its end. Zip archives are unpacked beside themselves.
"""

from __future__ import annotations

import hashlib
import logging
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Any

from huggingface_hub import HfApi, hf_hub_download
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import tqdm

from terraprompt.datasets.layouts import AbsentSplitError, BrokenItemError
from terraprompt.datasets.registry import layout_of, read_samples
from terraprompt.errors import DatasetError, OutputError
from terraprompt.io.progress import Progress

__all__ = ["Download", "download"]

log = logging.getLogger(__name__)

#: The base of the hub client's errors is another class from release to release.
_NETWORK = (OSError, *HfHubHTTPError.__bases__)


@dataclass(frozen=True, slots=True)
class Download:
    """What :func:`download` left behind.

    Attributes:
        root: folder to give to the other functions: where the layout of the data set begins.
        revision: the commit on the hub that was taken.
        files: how many files it has.
        fetched: bytes that came over the network this time.
    """

    root: Path
    revision: str
    files: int
    fetched: int


@dataclass(frozen=True, slots=True)
class _File:
    name: str
    size: int
    checksum: str
    is_sha256: bool

    def is_whole(self, path: Path) -> bool:
        """Whether a file has the size and the checksum that the hub states (git's own for small files)."""
        if not path.is_file() or path.stat().st_size != self.size:
            return False
        digest = hashlib.sha256() if self.is_sha256 else hashlib.sha1(b"blob %d\0" % self.size)
        with path.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
        return digest.hexdigest() == self.checksum


def download(
    name: str,
    destination: str | Path,
    *,
    revision: str | None = None,
    jobs: int = 8,
    endpoint: str | None = None,
    progress: Progress | None = None,
) -> Download:
    """Fetch a data set, or what is missing of it.

    Args:
        name: as in :func:`~terraprompt.datasets.registry.open_dataset`.
        destination: folder of the copy; made if it is not there.
        revision: branch, tag or commit on the hub; None is the newest.
        jobs: files at a time.
        endpoint: of the hub; None is the usual one.
        progress: told (bytes here, bytes in all).

    Raises:
        DatasetError: an unknown name, a set that is not on the hub (the message says where it is), no connection, or a
            checksum that is wrong.
        OutputError: the folder cannot be written.
    """
    layout = layout_of(name)
    if layout.hub is None:
        raise DatasetError(f"{layout.title} is not on the hub.", received=name, hint=layout.where)
    folder = Path(destination).expanduser()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"The folder cannot be made ({error}).", received=folder) from None
    with _told(layout.hub):
        info = HfApi(endpoint=endpoint).dataset_info(layout.hub, revision=revision, files_metadata=True)
    commit = str(info.sha)
    files = [_file(sibling, folder) for sibling in info.siblings or ()]
    fetched = _fetch_all(files, layout.hub, commit, folder, endpoint, jobs, progress)
    for file in files:
        if file.name.lower().endswith(".zip"):
            _unpack(folder / file.name)
    return Download(_root(name, folder), commit, len(files), fetched)


def _file(sibling: Any, folder: Path) -> _File:
    name = str(sibling.rfilename)
    if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
        raise DatasetError("The hub names a file outside the data set.", received=name)
    if sibling.lfs is not None:
        return _File(name, int(sibling.lfs.size), str(sibling.lfs.sha256), True)
    if sibling.size is None or sibling.blob_id is None:
        raise DatasetError("The hub states no checksum for a file.", received=name)
    return _File(name, int(sibling.size), str(sibling.blob_id), False)


def _fetch_all(
    files: list[_File],
    repo: str,
    commit: str,
    folder: Path,
    endpoint: str | None,
    jobs: int,
    progress: Progress | None,
) -> int:
    total, lock = sum(file.size for file in files), Lock()
    here = fetched = 0

    def count(size: int, *, is_new: bool) -> None:
        nonlocal here, fetched
        with lock:
            here += size
            fetched += size if is_new else 0
            if progress:
                progress(min(here, total), total)

    pool = ThreadPoolExecutor(max(1, jobs))
    try:
        waiting = [pool.submit(_fetch, file, repo, commit, folder, endpoint, count) for file in files]
        for done in as_completed(waiting):
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)
    return fetched


def _fetch(file: _File, repo: str, commit: str, folder: Path, endpoint: str | None, count: Callable[..., None]) -> None:
    path = folder / file.name
    if file.is_whole(path):
        count(file.size, is_new=False)
        return

    class Counted(tqdm):  # type: ignore[misc]
        """Tells of bytes instead of drawing a bar of its own."""

        def __init__(self, *args: Any, **options: Any) -> None:
            super().__init__(*args, **options | {"disable": True})

        def update(self, n: float | None = 1) -> None:
            count(int(n or 0), is_new=True)

    with _told(f"{repo}, {file.name}"):
        hf_hub_download(
            repo,
            file.name,
            repo_type="dataset",
            revision=commit,
            endpoint=endpoint,
            local_dir=folder,
            force_download=True,  # what is here is not whole, whatever the client noted of it
            tqdm_class=Counted,
        )
    if not file.is_whole(path):
        path.unlink()
        raise DatasetError(
            "A file came damaged: its checksum is not the hub's.", received=path, hint="It was removed; run this again."
        )


def _unpack(archive: Path) -> None:
    """Unpack what is not unpacked yet; every member's checksum is verified on the way."""
    try:
        with zipfile.ZipFile(archive) as packed:
            for member in packed.infolist():
                target = archive.parent / member.filename
                if not member.is_dir() and not (target.is_file() and target.stat().st_size == member.file_size):
                    log.info("unpacking %s", target)
                    packed.extract(member, archive.parent)
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError) as error:
        raise DatasetError(f"An archive cannot be unpacked ({error}).", received=archive) from None
    except OSError as error:
        raise OutputError(f"An archive cannot be unpacked ({error}).", received=archive) from None


def _root(name: str, folder: Path) -> Path:
    """Where the layout begins: the folder, or one of its folders (archives often hold one)."""
    for candidate in (folder, *sorted(path for path in folder.iterdir() if path.is_dir())):
        for split in layout_of(name).splits:
            try:
                next(read_samples(name, candidate, split=split))
            except BrokenItemError:
                return candidate
            except (DatasetError, AbsentSplitError):
                continue
            return candidate
    raise DatasetError(
        "The data set was downloaded, but its layout is not the one that is known here.",
        received=folder,
        hint=f"Expected: {layout_of(name).tree}. Arrange it so, or report this.",
    )


@contextmanager
def _told(what: str) -> Iterator[None]:
    """Turn what the hub client raises into one error."""
    try:
        yield
    except DatasetError:
        raise
    except _NETWORK as error:
        said = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise DatasetError(
            "The download failed.",
            received=f"{what} ({said})",
            hint="Run it again: files that are whole are kept.",
        ) from error
