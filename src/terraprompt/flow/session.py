"""Scene + prompt -> windows -> encode -> predict -> stitch -> Result."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import tee
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, cast, overload

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

from terraprompt import __version__
from terraprompt.engines.base import Engine, KnowsWords, Proposer
from terraprompt.errors import (
    ConfigError,
    EngineError,
    PromptError,
)
from terraprompt.flow.answers import name_answers
from terraprompt.flow.ask import TileQuestion, ask_tiles, ask_whole, ask_windows, propose
from terraprompt.flow.encoded_scene import EncodedScene
from terraprompt.flow.evidence import ScenePrediction
from terraprompt.flow.objects import ObjectRules
from terraprompt.flow.query import Query
from terraprompt.flow.settings import SegmentSettings
from terraprompt.flow.stitch import ABSENT, StitchedRows
from terraprompt.flow.windows import (
    empty_rows,
)
from terraprompt.io.progress import Progress
from terraprompt.io.prompt_file import PromptLike, as_prompt
from terraprompt.language.parse_selector import ParsedSelector, describe, parse_selector
from terraprompt.language.understand import Understood, understand
from terraprompt.outputs import MaskWriter, Result, Status, check_refinement
from terraprompt.outputs.mask_writer import sieve_mask
from terraprompt.prompt import Prompt
from terraprompt.raster import (
    StretchMode,
    Tile,
    open_scene,
    read_tile,
)
from terraprompt.raster.pixel_area import NO_GROUND
from terraprompt.raster.source import Bands

__all__ = ["Session", "segment"]


@overload
def segment(src: str | os.PathLike[str], prompt: PromptLike, **options: Any) -> Result: ...
@overload
def segment(src: str | os.PathLike[str], prompt: Sequence[PromptLike], **options: Any) -> list[Result]: ...
def segment(
    src: str | os.PathLike[str],
    prompt: PromptLike | Sequence[PromptLike],
    *,
    engine: Engine | str = "nano",
    bands: Bands = None,
    bbox: tuple[float, float, float, float] | None = None,
    bbox_crs: str | None = None,
    nodata: float | Literal["none"] | None = None,
    allow_remote: bool = False,
    warp: bool = True,
    dem: str | os.PathLike[str] | float | None = None,
    stretch: StretchMode = "auto",
    batch: int | None = None,
    settings: SegmentSettings | None = None,
    progress: Progress | None = None,
    workdir: Path | None = None,
    **options: Any,
) -> Result | list[Result]:
    """Find in a raster what the prompt asks for.

    Args:
        src: any raster that GDAL reads.
        prompt: a sentence, a :class:`Prompt` with points or boxes, a vector file ("wells.gpkg", any path:
            :func:`terraprompt.io.prompt_file.read_prompt_file`), or features (a GeoDataFrame, anything with
            ``__geo_interface__``: :func:`terraprompt.io.prompt_file.prompt_from_features`).
            A list or tuple of them: each gets a result, and the scene is read and encoded once.
        engine: name of an installed engine, or one that is loaded.
        bands: as in :func:`terraprompt.raster.open_scene`.
        bbox: as in :func:`terraprompt.raster.open_scene`. Pixel coordinates of the prompt count from its corner.
        bbox_crs: as in :func:`terraprompt.raster.open_scene`.
        nodata: as in :func:`terraprompt.raster.open_scene`.
        allow_remote: as in :func:`terraprompt.raster.open_scene`.
        warp: as in :func:`terraprompt.raster.open_scene`.
        dem: as in :func:`terraprompt.raster.open_scene`.
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
    with open_scene(
        src, bands, bbox=bbox, bbox_crs=bbox_crs, nodata=nodata, allow_remote=allow_remote, warp=warp, dem=dem
    ) as scene:
        many = isinstance(prompt, list | tuple)
        prompts = prompt if isinstance(prompt, list | tuple) else [cast(PromptLike, prompt)]
        # One prompt needs no memory of what was seen; windows of several may overlap.
        session = Session(engine, scene, stretch=stretch, batch=batch, cache_bytes=1 << 28 if many else 0)
        results = session.segment_all(prompts, settings=settings, progress=progress, workdir=workdir)
        return results if many else results[0]


class Session(EncodedScene):
    """An engine in front of a scene that answers prompts; a second prompt costs only the answer."""

    def segment(
        self,
        prompt: PromptLike,
        *,
        settings: SegmentSettings | None = None,
        progress: Progress | None = None,
        workdir: Path | None = None,
        **options: Any,
    ) -> Result:
        """Segment the scene by a prompt.

        A text is predicted on every tile of the scene; points and boxes through windows around each target. An engine
        that proposes (:class:`terraprompt.engines.base.Proposer`) is shown an overview with the text instead, and each
        target that it proposes is predicted like one that was given; its evidence is in the result's notes. With
        ``flow="published"`` all of them are asked of the whole scene as one picture.

        Args:
            prompt: a sentence, a :class:`Prompt`, a vector file or features; coordinates in any CRS, or in pixels of
                the scene. Features outside the scene are left out with a remark.
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
        (result,) = self.segment_all([prompt], settings=settings, progress=progress, workdir=workdir, **options)
        return result

    def segment_all(
        self,
        prompts: Sequence[PromptLike],
        *,
        settings: SegmentSettings | None = None,
        progress: Progress | None = None,
        workdir: Path | None = None,
        **options: Any,
    ) -> list[Result]:
        """Segment the scene by several prompts; texts of every tile share one reading and one encoding of the scene.

        Args:
            prompts: as in :meth:`segment`.
            settings: of all of them.
            progress: as in :meth:`segment`.
            workdir: as in :meth:`segment`; takes some 3 bytes a pixel for each prompt.
            options: as in :meth:`segment`.

        Returns:
            A result for each prompt, in their order.

        Raises:
            PromptError: there is none; or as :meth:`segment`, of any of them.
        """
        if not prompts:
            raise PromptError("There is no prompt.", hint="Give at least one.")
        given = (settings or SegmentSettings()).updated(options)
        queries = [self._query(prompt, given, progress) for prompt in prompts]
        self._join(queries, progress)
        scene, results = self.scene, list[Result]()
        with ExitStack() as stack:
            writers = [
                stack.enter_context(
                    MaskWriter.create(
                        workdir or Path(tempfile.gettempdir()), scene.width, scene.height,
                        crs=scene.crs, transform=scene.transform, threshold=given.threshold,
                    )
                )
                for _ in queries
            ]  # fmt: skip
            pairs = list(zip(queries, writers, strict=True))
            joint = [pair for pair in pairs if pair[0].question is not None]
            for group in ([joint] if joint else []) + [[pair] for pair in pairs if pair[0].question is None]:
                for rows in zip(*(query.rows() for query, _ in group), strict=True):
                    for (_, writer), band in zip(group, rows, strict=True):
                        writer.write_band(band.top, band.logits, band.valid)
            for query, writer in pairs:
                if query.failed:
                    results.append(query.failure(scene))
                    continue
                result = writer.finish(query.provenance, **query.rules.refinement)
                chosen = query.rules.apply(result, scene, query.evidence)
                answer = query.annotate(name_answers(chosen, query.asked, scene, query.evidence))
                marks = query.asked if query.asked.is_spatial else None
                results.append(replace(answer, backdrop=self.preview, prompt=marks))
        return results

    def _join(self, queries: Sequence[Query], progress: Progress | None) -> None:
        """Give queries that ask every tile their share of one pass over the scene, to be read side by side."""
        joint = [(query, query.question) for query in queries if query.question is not None]
        if joint:
            columns = tee(ask_tiles(self, [question for _, question in joint], progress), len(joint))
            for number, ((query, _), rows) in enumerate(zip(joint, columns, strict=True)):
                query.bands = map(itemgetter(number), rows)

    def predict_mask(
        self,
        prompt: PromptLike,
        settings: SegmentSettings | None = None,
        *,
        progress: Progress | None = None,
    ) -> ScenePrediction:
        """Predict like :meth:`segment`, in memory and without files; raises the same errors.

        The mask equals ``segment(prompt, settings=settings).mask() == 1``; ``SegmentSettings(min_pixels=1)`` is the
        model's own mask, nothing sieved or filled. Takes some 10 bytes a pixel.
        """
        query = self._query(prompt, settings or SegmentSettings(), progress)
        self._join([query], progress)
        scene, settings = self.scene, query.settings
        logits = np.full((scene.height, scene.width), ABSENT, np.float32)
        valid = np.zeros(logits.shape, bool)
        for band in query.rows():
            rows = slice(band.top, band.top + len(band.logits))
            logits[rows], valid[rows] = band.logits, band.valid
        if query.failed:
            return ScenePrediction(Status.FAILED, query.failed, None, None, None, query.evidence, query.provenance)
        raw = np.where(valid, logits > settings.threshold_logit, np.uint8(255))
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

    def _query(self, prompt: PromptLike, settings: SegmentSettings, progress: Progress | None) -> Query:
        """Check a prompt and prepare its rows of logits; an engine that proposes is asked here."""
        given, left_out = as_prompt(prompt), tuple[str, ...]()
        if given.features:
            given, left_out = self.scene.inside(given)
        if given.task not in self.engine.tasks:
            able = ", ".join(sorted(task.value for task in self.engine.tasks))
            raise EngineError(
                f'The engine "{self.engine.name}" answers {able} prompts only.', received=given.task.value
            )
        check_refinement(self.scene.ground is not None, **settings.refinement)
        asked = self.scene.to_pixels(given)
        proposes = isinstance(self.engine, Proposer) and not asked.is_spatial
        selector = settings.selector if settings.flow == "product" else None
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
        query = Query(asked, settings, rules, provenance, understood)
        query.evidence.remark(*left_out, *self._scene_remarks())
        if settings.simplify and self.scene.ground is None:
            query.evidence.remark(f"simplify was taken as {settings.simplify:g} pixels: {NO_GROUND}.")
        if understood is not None:
            query.evidence.remark(*understood.remarks)
            query.refusal = understood.refusal
        if proposes:
            query.proposals = propose(self, asked.text or "", reduce=settings.flow == "product")
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
        if self.scene.ground is None and (found.min_area_m2 or found.max_area_m2):
            raise ConfigError(
                f"A limit in square metres was asked for, but {NO_GROUND}.",
                received=asked.text,
                hint="Leave the limit out.",
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

    def _bands(self, asked: Prompt, query: Query, progress: Progress | None) -> Iterator[StitchedRows]:
        settings, proposals = query.settings, query.proposals
        if query.refusal:
            return empty_rows(self.scene)
        closer = settings.threshold_logit if settings.refine else None
        if proposals is not None and not proposals.prompts:
            return empty_rows(self.scene)
        if settings.flow == "published":
            if proposals is None:
                return ask_whole(self, asked.objects(), progress, query.evidence, None)
            targets, certain = proposals.prompts, proposals.certain
            return ask_whole(self, targets, progress, query.evidence, proposals.deadline, certain=certain)
        if proposals is not None:
            return ask_windows(self, proposals.prompts, closer, progress, query.evidence, proposals.deadline)
        if asked.is_spatial:
            return ask_windows(self, asked.objects(), closer, progress, query.evidence, None)
        understood = query.understood or Understood((asked.text or "",))
        prompts = [replace(asked, text=text) for text in (*understood.phrases, *understood.minus)]
        query.question = TileQuestion(prompts, understood, settings.threshold_logit, query.evidence)
        return iter(())

    def look_at(self, tile: Tile) -> NDArray[np.uint8]:
        """The stretched pixels of a window, uint8 (*tile.shape, 3), for pictures."""
        return read_tile(self.scene, self.stretch, tile)[0]

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
            "settings": {
                **info.settings,
                "tile": tile.size,
                "overlap": tile.overlap,
                **self.scene.read_options,
                **settings,
                **asked,
            },
            "source": self.scene.source,
            "version": __version__,
            "bands": list(self.scene.bands),
            "stretch": asdict(self.stretch),
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
        }
