"""What was encoded is kept: in memory up to so many bytes, least recently used first out, and on disk if asked."""

from __future__ import annotations

import hashlib
import json
import logging
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Embedding
from terraprompt.errors import ConfigError, OutputError
from terraprompt.io.atomic import atomic_path

__all__ = ["EmbeddingCache", "PackingEngine", "cache_key"]

log = logging.getLogger(__name__)


@runtime_checkable
class PackingEngine(Protocol):
    """An engine whose embeddings can be kept on disk."""

    def pack(self, embedding: Embedding) -> dict[str, NDArray[Any]]:
        """The embedding's data as plain arrays."""
        ...

    def unpack(self, size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> Embedding:
        """The inverse of :meth:`pack`; ``size`` is the embedding's."""
        ...


def cache_key(**parts: Any) -> str:
    """A stable name (sha256, hex) for everything that an embedding depends on."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


class EmbeddingCache:
    """Embeddings by key, least recently used first out.

    Args:
        max_bytes: memory for embeddings; 0 keeps none in memory. One that is larger alone is not kept.
        folder: also keep them here, for other sessions and days; it is made if missing and never emptied.
        engine: packs embeddings for the disk; needed with ``folder``.

    Raises:
        ConfigError: a folder, but the engine cannot pack.
        OutputError: the folder cannot be made.
    """

    def __init__(self, max_bytes: int, *, folder: Path | None = None, engine: object = None) -> None:
        self._max = max_bytes
        self._held: OrderedDict[str, Embedding] = OrderedDict()
        self._bytes = 0
        self._folder = folder
        self._packer: PackingEngine | None = None
        if folder is not None:
            if not isinstance(engine, PackingEngine):
                raise ConfigError(
                    "This engine's embeddings cannot be kept on disk.",
                    received=getattr(engine, "name", engine),
                    hint="Leave out the cache folder.",
                )
            self._packer = engine
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise OutputError(f"The cache folder cannot be made ({error}).", received=folder) from error

    @property
    def nbytes(self) -> int:
        """Memory held."""
        return self._bytes

    def __len__(self) -> int:
        return len(self._held)

    def __contains__(self, key: str) -> bool:
        return key in self._held or (self._folder is not None and self._file(key).exists())

    def get(self, key: str) -> Embedding | None:
        """The embedding, now the most recently used; None if it was never seen or has been dropped."""
        found = self._held.get(key)
        if found is not None:
            self._held.move_to_end(key)
            return found
        found = self._load(key)
        if found is not None:
            self._hold(key, found)
        return found

    def put(self, key: str, embedding: Embedding) -> None:
        """Keep an embedding, dropping the least recently used for it."""
        self._hold(key, embedding)
        self._save(key, embedding)

    def _hold(self, key: str, embedding: Embedding) -> None:
        if embedding.nbytes > self._max:
            return
        old = self._held.pop(key, None)
        self._bytes += embedding.nbytes - (old.nbytes if old is not None else 0)
        self._held[key] = embedding
        while self._bytes > self._max:
            _, dropped = self._held.popitem(last=False)
            self._bytes -= dropped.nbytes

    def _file(self, key: str) -> Path:
        if self._folder is None:
            raise ConfigError("This cache has no folder.")
        return self._folder / f"{key}.npz"

    def _load(self, key: str) -> Embedding | None:
        if self._packer is None or not self._file(key).exists():
            return None
        try:
            with np.load(self._file(key), allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files}
            height, width = (int(v) for v in arrays.pop("_size"))
            return self._packer.unpack((height, width), arrays)
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            # A damaged entry costs time, not correctness: the tile is encoded again and the entry replaced.
            log.warning("Cached embedding %s is damaged and will be made again: %s", self._file(key), error)
            return None

    def _save(self, key: str, embedding: Embedding) -> None:
        if self._packer is None or self._folder is None:
            return
        arrays = self._packer.pack(embedding)
        try:
            with (
                atomic_path(self._file(key), durable=False, parents=False) as temporary,
                temporary.open("wb") as file,
            ):
                np.savez(file, _size=np.array(embedding.size), **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise OutputError(
                f"An embedding cannot be written ({error}).",
                received=self._folder,
                hint="Free some space there or leave out the cache folder.",
            ) from error
