"""The sentence: scene + prompt -> tiles -> session.encode(tiles) -> session.predict(prompt) -> stitch -> Result."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt import __version__
from terraprompt.engines.base import Answer, Embedding, Engine, Proposals, Proposer
from terraprompt.engines.registry import load_engine
from terraprompt.errors import (
    BudgetError,
    ConfigError,
    EngineError,
    LimitError,
    PromptError,
    SceneError,
    TerrapromptError,
)
from terraprompt.flow.embedding_cache import EmbeddingCache, cache_key
from terraprompt.flow.proposals import failure, notes_to_scene, proposals_to_scene, with_notes
from terraprompt.flow.selection import apply_selector
from terraprompt.flow.stitch import StitchedRows, Stitcher, apply_presence
from terraprompt.flow.windows import (
    PromptWindow,
    WindowLogits,
    empty_rows,
    initial_windows,
    merge_windows,
    refined_window,
)
from terraprompt.geometry.types import Logits
from terraprompt.io.progress import Progress
from terraprompt.language.parse_selector import ParsedSelector, describe, parse_selector
from terraprompt.outputs import MaskWriter, Result, check_refinement
from terraprompt.prompt import Prompt
from terraprompt.raster import (
    RowBand,
    Scene,
    StretchMode,
    Tile,
    estimate_stretch,
    open_scene,
    plan,
    read_bands,
    read_tile,
)
from terraprompt.raster.source import Bands

__all__ = ["Session", "segment"]

T = TypeVar("T")


def segment(
    src: str | os.PathLike[str],
    prompt: Prompt | str,
    *,
    engine: Engine | str = "nano",
    bands: Bands = None,
    bbox: tuple[float, float, float, float] | None = None,
    bbox_crs: str | None = None,
    stretch: StretchMode = "auto",
    batch: int | None = None,
    **options: Any,
) -> Result:
    """Find in a raster what the prompt asks for.

    Args:
        src: any raster that GDAL reads.
        prompt: a sentence, or a :class:`Prompt` with points or boxes.
        engine: name of an installed engine, or one that is loaded.
        bands, bbox, bbox_crs: as in :func:`terraprompt.raster.open_scene`. Pixel coordinates of the prompt count from
            the corner of the bbox.
        stretch: as in :func:`terraprompt.raster.estimate_stretch`.
        batch: tiles encoded together; None = what the engine recommends.
        options: as in :meth:`Session.segment` (threshold, refine, selector, progress, workdir, ...).

    Raises:
        SceneError, PromptError, EngineError, OutputError, ConfigError: a failure is never an empty result. (That of a
            reasoner has its own: see :meth:`Session.segment`.)
    """
    with open_scene(src, bands, bbox=bbox, bbox_crs=bbox_crs) as scene:
        # One prompt needs no memory of what was seen.
        return Session(engine, scene, stretch=stretch, batch=batch, cache_bytes=0).segment(prompt, **options)


class Session:
    """An engine in front of a scene: what was encoded is kept, so that a second prompt costs only the answer.

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
        plan: how the scene is cut for this engine.
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
        self.plan = plan(scene.width, scene.height, self.engine.tile.size, self.engine.tile.overlap)
        self._batch = self.engine.tile.batch if batch is None else batch
        if self._batch < 1:
            raise ConfigError("The batch must be at least 1.", received=batch)
        self._cache = EmbeddingCache(cache_bytes, folder=cache_dir, engine=self.engine)
        # Which pixels of a row of tiles are valid, as bits (None = all), so that a known row is not read again.
        self._valid: dict[int, NDArray[np.uint8] | None] = {}
        self._keeps = cache_bytes > 0

    def segment(
        self,
        prompt: Prompt | str,
        *,
        threshold: float = 0.5,
        refine: bool = True,
        selector: ParsedSelector | Literal["auto"] | None = "auto",
        progress: Progress | None = None,
        workdir: Path | None = None,
        **finish: Any,
    ) -> Result:
        """Scene and prompt to result.

        A text is asked of every tile of the scene; points and boxes are looked at through windows around each target.
        An engine that points (:class:`terraprompt.engines.base.Proposer`) is shown an overview with the text instead,
        and each target that it proposes is looked at like one that was given; its evidence is in the result's notes.

        Args:
            prompt: a sentence, or a :class:`Prompt`; coordinates in any CRS, or in pixels of the scene.
            threshold: probability above which a pixel is target, between 0 and 1.
            refine: look a second time, closer, at a small target that points lie on.
            selector: which of the found objects are meant: its ``phrase`` is asked in place of the text, its choice is
                made over the whole scene. "auto" takes it from a text without points and boxes
                (:func:`.parse_selector`) if the engine does not point; None sends every text to
                the engine as it is.
            progress: called with (done, total).
            workdir: an existing folder for work files, which go with the result; None = the system's temporary folder.
            finish: options of :meth:`terraprompt.outputs.MaskWriter.finish` (min_area_m2, min_pixels, fill_holes_m2,
                simplify).

        Returns:
            Found or no target. Failed, with a reason and no mask, where an engine that points gave no usable answer.

        Raises:
            PromptError: the prompt does not fit the scene.
            BudgetError: the tokens or the money of an engine that asks others are used up.
            SceneError: no valid pixel in the extent, or damage met while reading.
            EngineError: the engine does not answer such prompts, or failed; the message names the tile.
            OutputError: the canvas cannot be written.
        """
        given = Prompt(prompt) if isinstance(prompt, str) else prompt
        if not 0 < threshold < 1:
            raise ConfigError("The threshold is a probability between 0 and 1.", received=threshold)
        if given.task not in self.engine.tasks:
            able = ", ".join(sorted(task.value for task in self.engine.tasks))
            raise EngineError(
                f'The engine "{self.engine.name}" answers {able} prompts only.', received=given.task.value
            )
        check_refinement(self.scene.crs, **finish)
        asked = self.scene.to_pixels(given)
        points = isinstance(self.engine, Proposer) and not asked.is_spatial
        if selector == "auto":
            selector = None if asked.is_spatial or points else parse_selector(given.text or "")
        if selector is not None:
            asked = replace(asked, text=selector.phrase)
        settings = {"threshold": threshold, "refine": refine, **finish}
        provenance = self._provenance(given, selector, settings)
        started = time.monotonic()
        proposals = self._propose(asked.text or "") if points else None
        notes_by_target: dict[int, dict[str, Any]] = {}
        if proposals is not None and proposals.status == "failed":
            return failure(proposals.reason, self.scene, provenance, proposals)
        if proposals is not None and not proposals.prompts:
            rows = empty_rows(self.scene)
        elif proposals is not None or asked.is_spatial:
            targets = asked.objects() if proposals is None else proposals.prompts
            deadline = None if proposals is None else proposals.deadline
            rows = self._focus(targets, threshold if refine else None, progress, notes_by_target, deadline)
        else:
            rows = self._sweep(asked, progress)
        with MaskWriter.create(
            workdir or Path(tempfile.gettempdir()),
            self.scene.width,
            self.scene.height,
            crs=self.scene.crs,
            transform=self.scene.transform,
            threshold=threshold,
        ) as canvas:
            try:
                for band in rows:
                    canvas.write_band(band.top, band.logits, band.valid)
            except PromptError as error:  # of windows without a valid pixel
                if proposals is None:
                    raise
                said = f"What was proposed cannot be looked at: {error.what}"
                return failure(said, self.scene, provenance, proposals)
            except LimitError as error:
                if proposals is None:
                    raise
                return failure(str(error), self.scene, provenance, proposals)
            result = canvas.finish(provenance, **finish)
        if proposals is not None:
            result = with_notes(result, proposals, notes_by_target, time.monotonic() - started)
        return result if selector is None else apply_selector(result, selector.selector, self.scene)

    def encode(
        self, tiles: Sequence[Tile], images: Sequence[NDArray[np.uint8] | None] | None = None
    ) -> list[Embedding]:
        """Embeddings of tiles, from the cache where they are there.

        Args:
            tiles: windows of the scene.
            images: their RGB pixels (*tile.shape, 3) where they were read already, None where not.
        """
        keys = [self._key(tile) for tile in tiles]
        found = [self._cache.get(key) for key in keys]
        missing = [i for i, embedding in enumerate(found) if embedding is None]
        for group in _batches(missing, self._batch):
            here = [tiles[i] for i in group]
            given = [None if images is None else images[i] for i in group]
            pixels = [
                read_tile(self.scene, self.stretch, tile)[0] if image is None else image
                for tile, image in zip(here, given, strict=True)
            ]
            with self._engine_errors(here):
                made = self.engine.encode(pixels)
            if len(made) != len(group):
                raise EngineError(
                    f'The engine "{self.engine.name}" gave {len(made)} embeddings for {len(group)} tiles.'
                )
            for i, embedding in zip(group, made, strict=True):
                found[i] = embedding
                self._cache.put(keys[i], embedding)
        return [embedding for embedding in found if embedding is not None]

    def predict(
        self, tiles: Sequence[Tile], embeddings: Sequence[Embedding], prompts: Sequence[Prompt]
    ) -> list[Answer]:
        """Each prompt on its tile: logits (*tile.shape,) checked and tempered by presence, notes in scene pixels.

        Args:
            tiles: windows of the scene.
            embeddings: of these tiles, from :meth:`encode`.
            prompts: one a tile, in pixels of the tile's grid.
        """
        if not tiles:
            return []
        with self._engine_errors(tiles):
            answers = self.engine.predict(embeddings, prompts)
            if len(answers) != len(tiles):
                raise EngineError(f"{len(answers)} answers came back for {len(tiles)} tiles.")
        checked = []
        for tile, answer in zip(tiles, answers, strict=True):
            with self._engine_errors([tile]):
                logits, notes = apply_presence(answer, tile.shape), notes_to_scene(answer.notes, tile)
                checked.append(replace(answer, logits=logits, notes=notes))
        return checked

    def look_at(self, tile: Tile) -> NDArray[np.uint8]:
        """The stretched pixels of a window, uint8 (*tile.shape, 3), for pictures."""
        return read_tile(self.scene, self.stretch, tile)[0]

    def preview(self, height: int, width: int) -> NDArray[np.uint8]:
        """The stretched scene at a reduced size, uint8 (height, width, 3), for pictures."""
        whole = Tile(0, 0, self.scene.width, self.scene.height, (height, width))
        return self.look_at(whole)

    def _sweep(self, prompt: Prompt, progress: Progress | None) -> Iterator[StitchedRows]:
        """Ask every tile that holds a valid pixel, a row of tiles at a time."""
        tiles, stitcher = self.plan, Stitcher(self.plan)
        known = {row for row in range(tiles.rows) if self._is_known(row)}
        unread = [row for row in range(tiles.rows) if row not in known]
        asked = 0
        with closing(read_bands(self.scene, tiles, self.stretch, rows=unread)) as bands:
            for row in range(tiles.rows):
                band = None if row in known else next(bands)
                valid = self._valid_row(row) if band is None else self._remember(band)
                valid_tiles = [tile for tile in tiles.row(row) if valid[:, tile.left : tile.right].any()]
                asked += len(valid_tiles)
                done = (row + 1) * len(tiles.xs) - len(valid_tiles)
                for group in _batches(valid_tiles, self._batch):
                    # Copies, so that nothing an engine keeps holds on to the whole band.
                    images = None if band is None else [band.image(tile).copy() for tile in group]
                    embeddings = self.encode(group, images)
                    answers = self.predict(group, embeddings, [prompt] * len(group))
                    for tile, answer in zip(group, answers, strict=True):
                        stitcher.add(tile, answer.logits)
                    done += len(group)
                    if progress is not None:
                        progress(done, len(tiles))
                yield stitcher.end_row(valid)
        if not asked:
            raise SceneError("No pixel within the extent is valid.", hint="Choose another bbox.")

    def _propose(self, text: str) -> Proposals:
        """Show the whole scene, reduced where it is larger than the engine wants it; the answer in scene pixels."""
        engine, scene = self.engine, self.scene
        assert isinstance(engine, Proposer)
        whole = Tile(0, 0, scene.width, scene.height)
        with self._engine_errors([whole]):
            height, width = engine.overview((scene.height, scene.width))
            shape = min(height, scene.height), min(width, scene.width)
        image, valid = read_tile(scene, self.stretch, replace(whole, grid=shape))
        if not valid.any():
            raise SceneError("No pixel within the extent is valid.", hint="Choose another bbox.")
        with self._engine_errors([whole]):
            return proposals_to_scene(engine.propose(image, text), scene, shape)

    def _focus(
        self,
        targets: Sequence[Prompt],
        refine: float | None,
        progress: Progress | None,
        notes_by_target: dict[int, dict[str, Any]],
        deadline: float | None,
    ) -> Iterator[StitchedRows]:
        """Look at each target, given by points or a box, through a window round it.

        What the engine notes on a target goes to ``notes_by_target`` by number; after ``deadline`` a LimitError ends
        the looking.
        """
        tile = self.engine.tile
        looks = initial_windows(targets, self.scene, tile.size, tile.focus or tile.size, shared=tile.shared)
        return merge_windows(
            self._fields(looks, None if tile.shared else refine, progress, notes_by_target, deadline), self.scene
        )

    def _fields(
        self,
        looks: Sequence[PromptWindow],
        refine: float | None,
        progress: Progress | None,
        notes_by_target: dict[int, dict[str, Any]],
        deadline: float | None,
    ) -> Iterator[WindowLogits]:
        size, done = self.engine.tile.focus or self.engine.tile.size, 0
        held: dict[Tile, Embedding] = {}
        before: WindowLogits | None = None
        for group in _batches(looks, self._batch):
            if deadline is not None and time.monotonic() > deadline:
                raise LimitError("The time for this query is over.", received=f"{done} of {len(looks)} targets drawn")
            seen = {look.target: (look, logits) for look, logits in self._look(group, held, notes_by_target)}
            if refine is not None:
                limit = math.log(refine / (1 - refine))
                closer = [refined_window(look, logits, self.scene, size, limit) for look, logits in seen.values()]
                again = self._look([look for look in closer if look is not None], {}, notes_by_target)
                seen |= {look.target: (look, logits) for look, logits in again}
            for look, logits in seen.values():
                # Many answers in one window of scene pixels become one, so that memory does not grow with them.
                if before is not None and before.tile == look.tile and look.tile.grid is None:
                    logits = np.maximum(before.logits, logits)
                elif before is not None:
                    yield before
                before = WindowLogits(look, logits)
            done += len(group)
            if progress is not None:
                progress(done, len(looks))
        if before is not None:
            yield before

    def _look(
        self, looks: Sequence[PromptWindow], held: dict[Tile, Embedding], notes_by_target: dict[int, dict[str, Any]]
    ) -> list[tuple[PromptWindow, Logits]]:
        """Answers of the windows that hold a valid pixel; ``held`` passes the last window on to the next call."""
        images: dict[Tile, NDArray[np.uint8] | None] = {}
        for tile in dict.fromkeys(look.tile for look in looks):
            if tile in held:
                continue
            image, holds = None, self._key(tile) in self._cache
            if not holds:
                image, valid = read_tile(self.scene, self.stretch, tile)
                holds = bool(valid.any())
            if holds:
                images[tile] = image
        seen = held | dict(zip(images, self.encode(list(images), list(images.values())), strict=True))
        valid_tiles = [look for look in looks if look.tile in seen]
        tiles = [look.tile for look in valid_tiles]
        answers = self.predict(tiles, [seen[tile] for tile in tiles], [look.prompt for look in valid_tiles])
        notes_by_target |= {look.target: answer.notes for look, answer in zip(valid_tiles, answers, strict=True)}
        held.clear()
        if valid_tiles:
            held[tiles[-1]] = seen[tiles[-1]]
        return [(look, answer.logits) for look, answer in zip(valid_tiles, answers, strict=True)]

    def _key(self, tile: Tile) -> str:
        scene, info = self.scene, self.engine.info
        return cache_key(
            source=scene.identity,
            bands=scene.bands,
            window=(scene.left + tile.left, scene.top + tile.top, tile.width, tile.height),
            grid=tile.shape,
            stretch=asdict(self.stretch),
            model=(info.name, info.revision, info.checksum, info.settings),
        )

    def _remember(self, band: RowBand) -> NDArray[np.bool_]:
        if self._keeps:
            self._valid[band.row] = None if band.valid.all() else np.packbits(band.valid)
        return band.valid

    def _valid_row(self, row: int) -> NDArray[np.bool_]:
        shape = (self.plan.tile_height, self.plan.width)
        bits = self._valid[row]
        if bits is None:
            return np.ones(shape, bool)
        return np.unpackbits(bits, count=shape[0] * shape[1]).reshape(shape).astype(bool)

    def _is_known(self, row: int) -> bool:
        """Whether a row of tiles can be answered without reading the scene."""
        if row not in self._valid:
            return False
        valid = self._valid_row(row)
        tiles = [tile for tile in self.plan.row(row) if valid[:, tile.left : tile.right].any()]
        return all(self._key(tile) in self._cache for tile in tiles)

    @contextmanager
    def _engine_errors(self, tiles: Sequence[Tile]) -> Iterator[None]:
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

    def _provenance(self, prompt: Prompt, selector: ParsedSelector | None, settings: dict[str, Any]) -> dict[str, Any]:
        info, tile = self.engine.info, self.engine.tile
        asked = {} if selector is None else {"phrase": selector.phrase, "selector": describe(selector.selector)}
        return {
            "instruction": prompt.describe(),
            "task": prompt.task.value,
            "engine": self.engine.name,
            "model": info.name,
            "revision": info.revision,
            "checksum": info.checksum,
            "settings": {**info.settings, "tile": tile.size, "overlap": tile.overlap, **settings, **asked},
            "source": self.scene.source,
            "version": __version__,
            "bands": list(self.scene.bands),
            "stretch": asdict(self.stretch),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
