"""An engine in front of an open scene: windows in, checked answers in scene pixels out; embeddings are cached."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, Engine
from terraprompt.engines.registry import load_engine
from terraprompt.errors import BudgetError, ConfigError, EngineError, LimitError, TerrapromptError
from terraprompt.flow.embedding_cache import EmbeddingCache, cache_key
from terraprompt.flow.proposals import notes_to_scene
from terraprompt.flow.stitch import apply_presence
from terraprompt.prompt import Prompt
from terraprompt.raster import RowBand, Scene, ScenePreview, StretchMode, Tile, estimate_stretch, plan, read_tile

__all__ = ["EncodedScene", "batches"]

T = TypeVar("T")


class EncodedScene:
    """An engine in front of a scene: a window that was encoded once is neither read nor encoded again.

    Args:
        engine: loaded, or the name of an installed one.
        scene: open; the caller closes it.
        stretch: as in :func:`terraprompt.raster.estimate_stretch`.
        batch: tiles encoded together; None = what the engine recommends.
        cache_bytes: memory for embeddings, least recently used first out.
        cache_dir: keep embeddings on disk too, if the engine can pack them.

    Attributes:
        engine, scene: as given, loaded.
        stretch: of the scene's values, one for the whole file.
        preview: ``preview(height, width)`` is the stretched scene, uint8 (height, width, 3), for pictures.
        plan: how the scene is cut for this engine.
        batch: windows that go through the engine together.
    """

    def __init__(
        self,
        engine: Engine | str,
        scene: Scene,
        *,
        stretch: StretchMode = "auto",
        batch: int | None = None,
        cache_bytes: int = 1 << 30,
        cache_dir: Path | None = None,
    ) -> None:
        self.engine = load_engine(engine) if isinstance(engine, str) else engine
        self.scene = scene
        self.stretch = estimate_stretch(scene, stretch)
        self.preview = ScenePreview(scene, self.stretch)
        self.plan = plan(scene.width, scene.height, self.engine.tile.size, self.engine.tile.overlap)
        self.batch = self.engine.tile.batch if batch is None else batch
        if self.batch < 1:
            raise ConfigError("The batch must be at least 1.", received=batch)
        self._cache = EmbeddingCache(cache_bytes, folder=cache_dir, engine=self.engine)
        # Which pixels of a row of tiles are valid, as bits (None = all), so that a known row is not read again.
        self._valid: dict[int, NDArray[np.uint8] | None] = {}
        self._keeps = cache_bytes > 0
        # A server need not be asked where nothing is kept.
        self._source_version = scene.version() if self._keeps or cache_dir else scene.source

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.engine.name!r}, {self.scene!r})"

    def encode(
        self, tiles: Sequence[Tile], images: Sequence[NDArray[np.uint8] | None] | None = None
    ) -> list[Embedding]:
        """Embeddings of tiles, from the cache where they are there.

        Args:
            tiles: windows of the scene.
            images: their RGB pixels (*tile.shape, 3) where they were read already, None where not.
        """
        keys = [self.cache_key(tile) for tile in tiles]
        found = [self._cache.get(key) for key in keys]
        missing = [i for i, embedding in enumerate(found) if embedding is None]
        for group in batches(missing, self.batch):
            here = [tiles[i] for i in group]
            given = [None if images is None else images[i] for i in group]
            pixels = [
                read_tile(self.scene, self.stretch, tile)[0] if image is None else image
                for tile, image in zip(here, given, strict=True)
            ]
            with self.engine_errors(here):
                made = self.engine.encode([self.scene.flip.array(image) for image in pixels])
            if len(made) != len(group):
                raise EngineError(
                    f'The engine "{self.engine.name}" gave {len(made)} embeddings for {len(group)} tiles.'
                )
            for i, embedding in zip(group, made, strict=True):
                found[i] = embedding
                self._cache.put(keys[i], embedding)
        return [embedding for embedding in found if embedding is not None]

    def predict(
        self,
        tiles: Sequence[Tile],
        embeddings: Sequence[Embedding],
        prompts: Sequence[Prompt],
        *,
        certain: bool = False,
    ) -> list[Answer]:
        """Each prompt on its tile: logits (*tile.shape,) checked and tempered by presence, notes in scene pixels.

        Args:
            tiles: windows of the scene.
            embeddings: of these tiles, from :meth:`encode`.
            prompts: one a tile, in pixels of the tile's grid.
            certain: a target is known to be there: presence is not looked at.
        """
        if not tiles:
            return []
        flip = self.scene.flip
        with self.engine_errors(tiles):
            seen = [flip.prompt(prompt, tile.shape) for tile, prompt in zip(tiles, prompts, strict=True)]
            answers = self.engine.predict(embeddings, seen)
            if len(answers) != len(tiles):
                raise EngineError(f"{len(answers)} answers came back for {len(tiles)} tiles.")
        checked = []
        for tile, answer in zip(tiles, answers, strict=True):
            with self.engine_errors([tile]):
                sure = replace(answer, presence=None) if certain else answer
                logits = flip.array(apply_presence(sure, tile.shape))
                notes = notes_to_scene(answer.notes, tile, flip)
                checked.append(replace(answer, logits=logits, notes=notes))
        return checked

    def holds(self, tile: Tile) -> bool:
        """Whether the embedding of a window is in the cache."""
        return self.cache_key(tile) in self._cache

    def cache_key(self, tile: Tile) -> str:
        """Name of everything that the embedding of a window depends on."""
        scene, info = self.scene, self.engine.info
        return cache_key(
            source=self._source_version,
            bands=scene.bands,
            window=(scene.left + tile.left, scene.top + tile.top, tile.width, tile.height),
            grid=tile.shape,
            stretch=asdict(self.stretch),
            model=(info.name, info.revision, info.checksum, info.settings),
        )

    def remember(self, band: RowBand) -> NDArray[np.bool_]:
        """Keep which pixels of a row of tiles are valid; returns them, bool (tile height, scene width)."""
        if self._keeps:
            self._valid[band.row] = None if band.valid.all() else np.packbits(band.valid)
        return band.valid

    def valid_row(self, row: int) -> NDArray[np.bool_]:
        """Valid pixels of a row of tiles that was read before, bool (tile height, scene width)."""
        shape = (self.plan.tile_height, self.plan.width)
        bits = self._valid[row]
        if bits is None:
            return np.ones(shape, bool)
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)

    def is_encoded(self, row: int) -> bool:
        """Whether a row of tiles can be answered without reading the scene."""
        if row not in self._valid:
            return False
        valid = self.valid_row(row)
        tiles = [tile for tile in self.plan.row(row) if valid[:, tile.left : tile.right].any()]
        return all(self.holds(tile) for tile in tiles)

    @contextmanager
    def engine_errors(self, tiles: Sequence[Tile]) -> Iterator[None]:
        """Whatever goes wrong in an engine becomes an EngineError that names the tile; but a spent budget stays one."""
        try:
            yield
        except (BudgetError, LimitError):
            raise
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            if isinstance(error, TerrapromptError):
                said = error.what if error.received is None else f"{error.what} Received: {error.received}."
            raise EngineError(
                f'The engine "{self.engine.name}" failed: {said}',
                received=f"tile {'; '.join(str(tile) for tile in tiles)} of {self.scene.source}",
                hint=getattr(error, "hint", None),
            ) from error


def batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Lists of at most ``size`` items, in order."""
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
