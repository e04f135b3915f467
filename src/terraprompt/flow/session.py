"""Scene + prompt -> windows -> encode -> predict -> stitch -> Result."""

from __future__ import annotations

import math
import os
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from terraprompt import __version__
from terraprompt.engines.base import Answer, Embedding, Engine, KnowsWords, Proposals, Proposer
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
from terraprompt.flow.evidence import Evidence, ScenePrediction
from terraprompt.flow.objects import ObjectRules
from terraprompt.flow.proposals import failure, no_target_reason, notes_to_scene, proposals_to_scene, with_notes
from terraprompt.flow.settings import SegmentSettings
from terraprompt.flow.stitch import ABSENT, StitchedRows, Stitcher, apply_presence
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
from terraprompt.language.understand import Understood, understand
from terraprompt.outputs import MaskWriter, Result, Status, check_refinement
from terraprompt.outputs.mask_writer import sieve_mask
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
    settings: SegmentSettings | None = None,
    progress: Progress | None = None,
    workdir: Path | None = None,
    **options: Any,
) -> Result:
    """Find in a raster what the prompt asks for.

    Args:
        src: any raster that GDAL reads.
        prompt: a sentence, or a :class:`Prompt` with points or boxes.
        engine: name of an installed engine, or one that is loaded.
        bands: as in :func:`terraprompt.raster.open_scene`.
        bbox: as in :func:`terraprompt.raster.open_scene`. Pixel coordinates of the prompt count from its corner.
        bbox_crs: as in :func:`terraprompt.raster.open_scene`.
        stretch: as in :func:`terraprompt.raster.estimate_stretch`.
        batch: tiles encoded together; None = what the engine recommends.
        settings: as in :meth:`Session.segment`.
        progress: as in :meth:`Session.segment`.
        workdir: as in :meth:`Session.segment`.
        **options: as in :meth:`Session.segment`.

    Raises:
        SceneError, PromptError, EngineError, OutputError, ConfigError: a failure is never an empty result. (That of a
            reasoner has its own: see :meth:`Session.segment`.)
    """
    settings = (settings or SegmentSettings()).updated(options)
    with open_scene(src, bands, bbox=bbox, bbox_crs=bbox_crs) as scene:
        # One prompt needs no memory of what was seen.
        session = Session(engine, scene, stretch=stretch, batch=batch, cache_bytes=0)
        return session.segment(prompt, settings=settings, progress=progress, workdir=workdir)


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
        # A server need not be asked where nothing is kept.
        self._source_version = scene.version() if self._keeps or cache_dir else scene.source

    def segment(
        self,
        prompt: Prompt | str,
        *,
        settings: SegmentSettings | None = None,
        progress: Progress | None = None,
        workdir: Path | None = None,
        **options: Any,
    ) -> Result:
        """Segment the scene by a prompt.

        A text is predicted on every tile of the scene; points and boxes through windows around each target. An engine
        that proposes (:class:`terraprompt.engines.base.Proposer`) is shown an overview with the text instead, and each
        target that it proposes is predicted like one that was given; its evidence is in the result's notes.

        Args:
            prompt: a sentence, or a :class:`Prompt`; coordinates in any CRS, or in pixels of the scene.
            settings: of this query; None = the defaults.
            progress: called with (done, total).
            workdir: an existing folder for work files, which go with the result; None = the system's temporary folder.
            options: fields of :class:`SegmentSettings`, in place of those of ``settings``.

        Returns:
            Found or no target. Failed, with a reason and no mask, where an engine that proposes gave no usable answer.

        Raises:
            PromptError: the prompt does not fit the scene.
            ConfigError: an unknown option, or one out of range.
            BudgetError: the tokens or the money of an engine that asks others are used up.
            SceneError: no valid pixel in the extent, or damage met while reading.
            EngineError: the engine does not answer such prompts, or failed; the message names the tile.
            OutputError: the work files cannot be written.
        """
        query = self._query(prompt, (settings or SegmentSettings()).updated(options), progress)
        scene, settings = self.scene, query.settings
        with MaskWriter.create(
            workdir or Path(tempfile.gettempdir()),
            scene.width,
            scene.height,
            crs=scene.crs,
            transform=scene.transform,
            threshold=settings.threshold,
        ) as writer:
            for band in query.rows():
                writer.write_band(band.top, band.logits, band.valid)
            if query.failed:
                return query.failure(scene)
            result = writer.finish(query.provenance, **query.rules.refinement)
        return query.annotate(query.rules.apply(result, scene, query.evidence))

    def predict_mask(
        self, prompt: Prompt | str, settings: SegmentSettings | None = None, *, progress: Progress | None = None
    ) -> ScenePrediction:
        """Predict like :meth:`segment`, in memory and without files; raises the same errors.

        The mask equals ``segment(prompt, settings=settings).mask() == 1``; ``SegmentSettings(min_pixels=1)`` is the
        model's own mask, nothing sieved or filled. Takes some 10 bytes a pixel.
        """
        query = self._query(prompt, settings or SegmentSettings(), progress)
        scene, settings = self.scene, query.settings
        logits = np.full((scene.height, scene.width), ABSENT, np.float32)
        valid = np.zeros(logits.shape, bool)
        for band in query.rows():
            rows = slice(band.top, band.top + len(band.logits))
            logits[rows], valid[rows] = band.logits, band.valid
        if query.failed:
            return ScenePrediction(Status.FAILED, query.failed, None, None, None, query.evidence, query.provenance)
        limit = np.float32(math.log(settings.threshold / (1 - settings.threshold)))
        raw = np.where(valid, logits > limit, np.uint8(255))
        mask, objects, ids = sieve_mask(raw, scene.crs, scene.transform, **query.rules.refinement)
        if objects and query.rules.choose:
            scores = np.bincount(ids.reshape(-1), expit(logits).reshape(-1)) / np.maximum(
                np.bincount(ids.reshape(-1)), 1
            )
            objects = tuple(replace(item, score=float(scores[item.id])) for item in objects)
            kept = query.rules.select(objects, scene, query.evidence)
            mask[(mask == 1) & ~np.isin(ids, kept)] = 0
        found = mask == 1
        status = Status.FOUND if found.any() else Status.NO_TARGET
        reason = None if objects else query.no_target_reason
        return ScenePrediction(status, reason, found, valid, logits, query.evidence, query.provenance)

    def _query(self, prompt: Prompt | str, settings: SegmentSettings, progress: Progress | None) -> _Query:
        """Check a prompt and prepare its rows of logits; an engine that proposes is asked here."""
        given = Prompt(prompt) if isinstance(prompt, str) else prompt
        if given.task not in self.engine.tasks:
            able = ", ".join(sorted(task.value for task in self.engine.tasks))
            raise EngineError(
                f'The engine "{self.engine.name}" answers {able} prompts only.', received=given.task.value
            )
        check_refinement(self.scene.crs, **settings.refinement)
        asked = self.scene.to_pixels(given)
        proposes = isinstance(self.engine, Proposer) and not asked.is_spatial
        selector = settings.selector
        understood: Understood | None = None
        knows = isinstance(self.engine, KnowsWords) and bool(self.engine.vocabulary)
        if selector == "auto" and knows and settings.understand:
            asked, understood = self._understand(asked)
            chosen = understood.selector
            selector = None if chosen is None else ParsedSelector(understood.phrases[0], chosen)
        elif selector == "auto":
            selector = None if asked.is_spatial or proposes else parse_selector(given.text or "")
        if selector is not None:
            asked = replace(asked, text=selector.phrase)
        rules = ObjectRules.of(settings, self.scene, None if selector is None else selector.selector, understood, asked)
        provenance = self._provenance(given, selector, {**settings.effective, **rules.effective})
        if understood is not None and given.text:
            provenance |= {"understood": understood.as_json(), "unknown_words": list(understood.unknown_words)}
        query = _Query(settings, rules, provenance, understood)
        query.evidence.remark(*self._scene_remarks())
        if understood is not None:
            query.evidence.remark(*understood.remarks)
            query.refusal = understood.refusal
        if proposes:
            query.proposals = self._propose(asked.text or "")
        query.bands = self._bands(asked, query, progress)
        return query

    def _understand(self, asked: Prompt) -> tuple[Prompt, Understood]:
        """What of a text can be followed, and the prompt to ask; beside points or boxes only a category is."""
        engine = self.engine
        assert isinstance(engine, KnowsWords)
        if not asked.text:
            return asked, Understood()
        found = understand(asked.text, engine.vocabulary, engine=engine.name, is_word=engine.is_word)
        if asked.is_spatial and found.is_plain:
            return replace(asked, text=found.phrases[0]), replace(found, single=False)
        if asked.is_spatial:
            remark = f'The text beside the points or boxes was not used: "{asked.text}". A category alone would be.'
            words = found.unknown_words or tuple(asked.text.split())
            return replace(asked, text=None, task_override=None), Understood(unknown_words=words, remarks=(remark,))
        if self.scene.crs is None and (found.min_area_m2 or found.max_area_m2):
            raise ConfigError(
                "A limit in square metres needs a scene with a CRS.", received=asked.text, hint="Leave the limit out."
            )
        return asked, found

    def _scene_remarks(self) -> list[str]:
        """What must be known of the scene, and whether the model knows its ground resolution."""
        known, gsd = self.engine.info.gsd_m, self.scene.gsd_m
        if known is None or gsd is None or known[0] / 1.5 <= gsd <= known[1] * 1.5:
            return list(self.scene.remarks)
        return [
            *self.scene.remarks,
            f"The scene has {gsd:.3g} m a pixel; {self.engine.info.name} knows {known[0]:g} to {known[1]:g} m a pixel"
            f"{self.engine.info.gsd_note}: the answer may be wrong.",
        ]

    def _bands(self, asked: Prompt, query: _Query, progress: Progress | None) -> Iterator[StitchedRows]:
        settings, proposals = query.settings, query.proposals
        if query.refusal:
            return empty_rows(self.scene)
        refine = settings.threshold if settings.refine else None
        if proposals is not None and not proposals.prompts:
            return empty_rows(self.scene)
        if proposals is not None:
            return self._focus(proposals.prompts, refine, progress, query.evidence, proposals.deadline)
        if asked.is_spatial:
            return self._focus(asked.objects(), refine, progress, query.evidence, None)
        understood = query.understood or Understood((asked.text or "",))
        prompts = [replace(asked, text=text) for text in (*understood.phrases, *understood.minus)]
        return self._sweep(prompts, understood, settings.threshold, progress, query.evidence)

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

    def _sweep(
        self,
        prompts: Sequence[Prompt],
        understood: Understood,
        threshold: float,
        progress: Progress | None,
        evidence: Evidence,
    ) -> Iterator[StitchedRows]:
        """Ask every tile that holds a valid pixel, a row of tiles at a time; each tile is encoded once."""
        limit = np.float32(math.log(threshold / (1 - threshold)))
        union = len(understood.phrases)
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
                    asked_each = [self.predict(group, embeddings, [prompt] * len(group)) for prompt in prompts]
                    for tile, *answers in zip(group, *asked_each, strict=True):
                        logits = answers[0].logits
                        for answer in answers[1:union]:
                            logits = np.maximum(logits, answer.logits)
                        for answer in answers[union:]:
                            logits = np.minimum(logits, 2 * limit - answer.logits)
                        stitcher.add(tile, 2 * limit - logits if understood.negated else logits)
                        for answer in answers:
                            evidence.add(answer)
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
        evidence: Evidence,
        deadline: float | None,
    ) -> Iterator[StitchedRows]:
        """Look at each target, given by points or a box, through a window round it.

        What the engine notes on a target goes to ``evidence`` by number; after ``deadline`` a LimitError ends
        the looking.
        """
        tile = self.engine.tile
        looks = initial_windows(targets, self.scene, tile.size, tile.focus or tile.size, shared=tile.shared)
        return merge_windows(
            self._fields(looks, None if tile.shared else refine, progress, evidence, deadline), self.scene
        )

    def _fields(
        self,
        looks: Sequence[PromptWindow],
        refine: float | None,
        progress: Progress | None,
        evidence: Evidence,
        deadline: float | None,
    ) -> Iterator[WindowLogits]:
        size, done = self.engine.tile.focus or self.engine.tile.size, 0
        held: dict[Tile, Embedding] = {}
        before: WindowLogits | None = None
        for group in _batches(looks, self._batch):
            if deadline is not None and time.monotonic() > deadline:
                raise LimitError("The time for this query is over.", received=f"{done} of {len(looks)} targets drawn")
            seen = {look.target: (look, logits) for look, logits in self._look(group, held, evidence)}
            if refine is not None:
                limit = math.log(refine / (1 - refine))
                closer = [refined_window(look, logits, self.scene, size, limit) for look, logits in seen.values()]
                again = self._look([look for look in closer if look is not None], {}, evidence)
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
        self, looks: Sequence[PromptWindow], held: dict[Tile, Embedding], evidence: Evidence
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
        for look in looks:
            if look.tile not in seen:
                evidence.remark(f"Target {look.target + 1} was left out: the scene has no data there.")
        for look, answer in zip(valid_tiles, answers, strict=True):
            evidence.add(answer, target=look.target)
        held.clear()
        if valid_tiles:
            held[tiles[-1]] = seen[tiles[-1]]
        return [(look, answer.logits) for look, answer in zip(valid_tiles, answers, strict=True)]

    def _key(self, tile: Tile) -> str:
        scene, info = self.scene, self.engine.info
        return cache_key(
            source=self._source_version,
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


@dataclass
class _Query:
    """One prompt on its way through the session."""

    settings: SegmentSettings
    rules: ObjectRules
    provenance: dict[str, Any]
    understood: Understood | None = None
    refusal: str = ""
    proposals: Proposals | None = None
    bands: Iterator[StitchedRows] = field(default_factory=lambda: iter(()))
    evidence: Evidence = field(default_factory=Evidence)
    failed: str = ""
    started: float = field(default_factory=time.monotonic)

    def rows(self) -> Iterator[StitchedRows]:
        """The logits of the scene, top to bottom; they end early where what was proposed fails (see ``failed``)."""
        proposals = self.proposals
        try:
            if proposals is not None:
                self.evidence.add_proposals(proposals)
                if proposals.status == "failed":
                    self.failed = proposals.reason
                    return
            yield from self.bands
        except PromptError as error:  # of windows without a valid pixel
            if proposals is None:
                raise
            self.failed = f"What was proposed cannot be looked at: {error.what}"
        except LimitError as error:
            if proposals is None:
                raise
            self.failed = str(error)
        finally:
            if self.evidence.remarks:
                self.provenance["remarks"] = list(self.evidence.remarks)

    def failure(self, scene: Scene) -> Result:
        assert self.proposals is not None
        return replace(failure(self.failed, scene, self.provenance, self.proposals), remarks=self.remarks)

    def annotate(self, result: Result) -> Result:
        """The result with its evidence and remarks."""
        if self.proposals is not None:
            seconds = time.monotonic() - self.started
            result = with_notes(result, self.proposals, self.evidence.notes_by_target, seconds)
        remarks = self.remarks
        if remarks:  # those made once the objects were known too
            result.provenance["remarks"] = list(remarks)  # type: ignore[index]
        return replace(result, remarks=remarks, reason=self.refusal or result.reason)

    @property
    def remarks(self) -> tuple[str, ...]:
        return tuple(self.evidence.remarks)

    @property
    def no_target_reason(self) -> str | None:
        return (self.refusal or None) if self.proposals is None else no_target_reason(self.proposals)


def _batches(items: Iterable[T], size: int) -> Iterator[list[T]]:
    group: list[T] = []
    for item in items:
        group.append(item)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group
