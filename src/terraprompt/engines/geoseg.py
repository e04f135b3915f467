"""The engine GeoSeg: training-free reasoning segmentation (arXiv 2603.03983), calibrated and fused.

A reasoner grounds the question to boxes with noun phrases, the boxes are corrected, and at native resolution two routes
draw each target: clicks from a similarity map, and the phrase. A session shows the reasoner an overview and looks at
each of its proposals at native resolution; ``answer`` does the whole for a single image.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, ModelInfo, Proposals, TileSpec
from terraprompt.engines.reasoned import REMARK, load_drawing, readable, remark, said, spent, tile_of
from terraprompt.engines.routes import ABSENT, RouteRules, Routes, Window
from terraprompt.errors import BudgetError, ConfigError, EngineError, LimitError, ReasonerError
from terraprompt.models.clip_surgery import ClipSurgery
from terraprompt.prompt import Prompt, Task
from terraprompt.segmenters import PromptableSegmenter
from terraprompt.segmenters.base import TEXT
from terraprompt.segmenters.similarity import ClipSimilarity, Similarity, TextSimilarity
from terraprompt.vlm.ask import Reading
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.box_calibration import BoxCalibration
from terraprompt.vlm.box_refinement import Correction, Mode, Refined, refine
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, Units
from terraprompt.vlm.ground import GroundedBox, ground_boxes
from terraprompt.vlm.open import open_reasoner
from terraprompt.vlm.probe import probe
from terraprompt.vlm.wording import OFFICIAL_TEMPLATE, PHRASE_TEMPLATE

__all__ = ["GeoSegEngine", "geoseg"]

log = logging.getLogger(__name__)

#: The model of the paper's Route A, on the Hugging Face hub.
CLIP = "openai/clip-vit-base-patch16"
#: Segmenter of Route B where that of Route A reads no texts.
_READER = "nano"
_PHRASE = 120  # characters of a phrase


class GeoSegEngine:
    """Answers texts through a reasoner and two routes; points and boxes alone by the segmenter of Route A.

    A text with one box and no points is taken for a target that is grounded already: the two routes look for the text
    in that box. A text with points is not read.

    Args:
        reasoner: grounds. It must be asked for boxes with phrases (:data:`terraprompt.vlm.wording.PHRASE_TEMPLATE`).
        routes: draw.
        calibration: of the reasoner: units and correction, measured on labelled boxes. None: units as declared, or
            asked for with a picture whose answer is known where they are ``AUTO``; boxes as ``correction`` says.
        correction: in place of a calibration; None = none in ``calibrated``, the release's constants in ``official``.
        tries: questions at most about one image, the first included.
        limit: targets at most.
        overlap: box IoU above which the smaller of two targets of one phrase goes.
        max_calls: passes of models that a query may take, the reasoner's and the segmenters'; what would take more
            fails before anything is drawn. None = any.
        max_seconds: after which a query fails. None = any.
        tile: how scenes are cut; None = what suits the segmenter.

    Raises:
        ConfigError: options out of range, or a calibration where it has no meaning or of another reasoner.
    """

    name = "geoseg"
    tasks = frozenset(Task)

    def __init__(
        self,
        reasoner: Reasoner,
        routes: Routes,
        *,
        calibration: BoxCalibration | None = None,
        correction: Correction | None = None,
        tries: int = 3,
        limit: int = 64,
        overlap: float = 0.5,
        max_calls: int | None = None,
        max_seconds: float | None = None,
        tile: TileSpec | None = None,
    ) -> None:
        mode = routes.rules.mode
        if (max_calls is not None and max_calls < 1) or (max_seconds is not None and max_seconds <= 0):
            raise ConfigError("A limit on calls or seconds is positive.", received=(max_calls, max_seconds))
        if calibration is not None:
            if mode == "official":
                raise ConfigError("The official mode has fixed constants; it takes no calibration.", received=mode)
            calibration.check(reasoner)
        if correction is None:
            correction = Correction.official() if mode == "official" else Correction()
            if calibration is not None:
                correction = Correction("calibrated", calibration.alpha, calibration.beta)
        if correction.mode != mode:
            raise ConfigError("The correction is of another mode.", received=f"{correction.mode} in {mode}")
        self.reasoner, self.routes = reasoner, routes
        self.calibration, self.correction = calibration, correction
        self.tries = tries if max_calls is None else min(tries, max_calls)
        self.limit, self.overlap = limit, overlap
        self.max_calls, self.max_seconds = max_calls, max_seconds
        self.tile = tile or tile_of(routes.drawing)
        self.info = self._info()
        self._lock = threading.Lock()
        self._probed: tuple[Convention | None, str] | None = None

    # The scene, as a whole

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the reasoner is shown an image of ``size``."""
        return self.reasoner.convention.view.size(size)

    def propose(self, image: NDArray[np.uint8], instruction: str) -> Proposals:
        """Ask the reasoner; see :meth:`terraprompt.engines.base.Proposer.propose`.

        Each proposal is the corrected box with its phrase. A reasoner that cannot be reached, refuses, or gives no
        usable answer is a failed proposal with the reason, and so is a query that passes its limits.
        """
        found = self._ground(image, instruction)
        if isinstance(found, Proposals):
            return found
        targets, notes, deadline = found
        prompts = tuple(Prompt(t.phrase, boxes=(t.refined.expanded,)) for t in targets)
        return Proposals("found", prompts, notes=notes, deadline=deadline)

    def _ground(
        self, image: NDArray[np.uint8], instruction: str
    ) -> tuple[tuple[GroundedBox, ...], dict[str, Any], float | None] | Proposals:
        """Targets, evidence and the end of the time; or why there are none."""
        deadline = None if self.max_seconds is None else time.monotonic() + self.max_seconds
        try:
            convention, how = self._convention()
            found = ground_boxes(
                self.reasoner,
                image,
                instruction,
                correction=self.correction,
                convention=convention,
                measured=self.calibration is not None,
                tries=self.tries,
                limit=self.limit,
                overlap=self.overlap,
                clean=_phrase,
                deadline=deadline,
            )
        except BudgetError:
            raise
        except (ReasonerError, LimitError) as error:
            return Proposals("failed", reason=readable(str(error)))
        notes = self._evidence(found, (image.shape[0], image.shape[1]), how)
        if found.status == "failed":
            return Proposals("failed", reason=readable(found.reason), notes=notes)
        if found.status == "no_target":
            return Proposals("no_target", reason=remark(found.reasoning), notes=notes)
        if fault := self._passed(notes["calls"], len(found.targets), deadline):
            return Proposals("failed", reason=fault, notes=notes)
        return found.targets, notes, deadline

    def _passed(self, asked: int, targets: int, deadline: float | None) -> str:
        """Why a query with so many questions and targets may not go on; "" if it may."""
        if deadline is not None and time.monotonic() > deadline:
            return f"The query took more than {self.max_seconds:g} seconds before anything was drawn."
        needed = asked + targets * self.routes.most_calls
        if self.max_calls is None or needed <= self.max_calls:
            return ""
        many = f"{targets} target{'' if targets == 1 else 's'}"
        return (
            f"{many} may take {needed} calls of models, {asked} of them to the reasoner, where {self.max_calls} are "
            "allowed; nothing was drawn. Allow more (max_calls), or run one route."
        )

    def _convention(self) -> tuple[Convention | None, str]:
        """How to read coordinates, and from where that is known; (None, "") = as the reasoner declares it."""
        if self.calibration is not None:
            return self.calibration.convention, "calibration on labelled boxes"
        if self.correction.mode == "official":
            return None, "official: always pixels"
        if self.reasoner.convention.units is not Units.AUTO:
            return None, ""
        with self._lock:
            if self._probed is None:
                probed = probe(self.reasoner)
                log.info(probed.said)
                self._probed = probed.convention, probed.said
            return self._probed

    def _evidence(self, found: Reading[GroundedBox], size: tuple[int, int], how: str) -> dict[str, Any]:
        """What was asked and said, as JSON values; boxes in pixels of the image, "answered" in the reasoner's units."""
        shown = self.reasoner.convention.view.size(size)
        return {
            "think": readable(found.reasoning),
            "units": found.convention.units.value,
            **({"units_from": how} if how else {}),
            "shown": {"width": shown[1], "height": shown[0]},
            "correction": asdict(self.correction),
            "verdicts": list(found.verdicts),
            "grounded": [
                {"phrase": t.phrase, "answered": list(t.answered), "box": list(t.box),
                 "refined": {"box": list(t.refined.expanded)}}
                for t in found.targets
            ],
            "mended": [readable(note, REMARK) for note in found.notes],
            "replies": [said(reply) for reply in found.replies],
            **spent(found.replies),
        }  # fmt: skip

    def _info(self) -> ModelInfo:
        routes, asked = self.routes, self.reasoner.info
        reading, source, draws = routes.reading, routes.similarity, routes.drawing.info
        names = list(dict.fromkeys([asked.model, draws.name, *([] if reading is None else [reading.info.name])]))
        parts: dict[str, Any] = {
            "reasoner": {"kind": asked.name, "model": asked.model, "where": asked.where, **asked.settings},
            "segmenter": {"name": draws.name, **draws.settings},
            "rules": asdict(routes.rules),
            "correction": asdict(self.correction),
            "tries": self.tries,
            "limit": self.limit,
            "overlap_iou": self.overlap,
            "max_calls": self.max_calls,
            "max_seconds": self.max_seconds,
        }
        if source is not None and "A" in routes.rules.routes:
            parts["similarity"] = {"name": source.name, **source.settings}
        if reading is not None and "B" in routes.rules.routes:
            text = reading.info
            parts["text_segmenter"] = {"name": text.name, "checksum": text.checksum, **text.settings}
        if self.calibration is not None:
            known = self.calibration
            parts["calibration"] = {"units": known.convention.units.value, "advised": known.advised, **known.source}
        return ModelInfo(" + ".join(names), draws.revision, draws.checksum, parts)

    # One image

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3) for Route A; the reasoner is not asked."""
        windows = [Window(image, None) for image in images]
        if "A" in self.routes.rules.routes:
            self._embed(windows)
        return [Embedding((w.image.shape[0], w.image.shape[1]), w, _nbytes(w)) for w in windows]

    def _embed(self, windows: Sequence[Window]) -> None:
        started = time.monotonic()
        made = self.routes.drawing.embed([window.image for window in windows])
        each = (time.monotonic() - started) / max(len(windows), 1)
        for window, embedding in zip(windows, made, strict=True):
            window.embedding, window.calls, window.seconds = embedding, 1, each

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``.

        A text is asked of the reasoner, about this image alone; its targets are drawn and joined. A text with a box
        goes to the two routes. The notes of the answer hold the evidence, in pixels of the image.

        Raises:
            ReasonerError: no usable answer to a text.
            LimitError: more calls or seconds than a query may take.
            BudgetError: nothing more may be asked.
        """
        if len(embeddings) != len(prompts):
            raise EngineError("Every prompt needs an embedding.", received=(len(embeddings), len(prompts)))
        return [self._answer(e, p) for e, p in zip(embeddings, prompts, strict=True)]

    def _answer(self, embedding: Embedding, prompt: Prompt) -> Answer:
        window: Window = embedding.data
        if not prompt.is_spatial:
            return self._answer_text(window, embedding.size, prompt.text or "")
        if prompt.text is not None and prompt.boxes and not prompt.points:
            return self.routes.predict(window, self._given(prompt, embedding.size), prompt.text)
        if window.embedding is None:
            self._embed([window])
        assert window.embedding is not None
        [drawn] = self.routes.drawing.predict(window.embedding, [replace(prompt, text=None, task_override=None)])
        return Answer(drawn.logits, drawn.presence, {"score": drawn.score})

    def _given(self, prompt: Prompt, size: tuple[int, int]) -> Refined:
        """A box that was corrected before, or that the user drew: only the crop is still to be found."""
        if len(prompt.boxes) > 1:
            raise EngineError(
                "An engine takes one target a prompt.",
                received=f"{len(prompt.boxes)} boxes",
                hint="Use Prompt.objects().",
            )
        return refine(prompt.boxes[0], size, alpha=0.0, beta=0.0, mode=self.correction.mode)

    def _answer_text(self, window: Window, size: tuple[int, int], text: str) -> Answer:
        found = self._ground(window.image, text)
        if isinstance(found, Proposals):
            if found.status == "failed":
                raise ReasonerError(found.reason)
            return Answer(np.full(size, ABSENT, np.float32), 0.0, {**found.notes, "targets": []})
        targets, notes, deadline = found
        logits = np.full(size, ABSENT, np.float32)
        drawn: list[Answer] = []
        for target in targets:
            if deadline is not None and time.monotonic() > deadline:
                raise LimitError(
                    f"The query took more than {self.max_seconds:g} seconds.",
                    received=f"{len(drawn)} of {len(targets)} targets drawn",
                )
            drawn.append(self.routes.predict(window, target.refined, target.phrase))
            if drawn[-1].presence is None or drawn[-1].presence >= 0.5:
                np.maximum(logits, drawn[-1].logits, out=logits)
        known = [answer.presence for answer in drawn if answer.presence is not None]
        notes |= {
            "targets": [answer.notes for answer in drawn],
            "boxes": [box for answer in drawn for box in answer.notes["boxes"]],
            "points": [point for answer in drawn for point in answer.notes.get("points", [])],
            "calls": notes["calls"] + sum(answer.notes["calls"] for answer in drawn),
            "seconds": round(notes["seconds"] + sum(answer.notes["seconds"] for answer in drawn), 3),
        }
        return Answer(logits, max(known) if len(known) == len(drawn) else None, notes)


def geoseg(
    *,
    endpoint: str | None = None,
    model: str | None = None,
    local: str | Path | None = None,
    segmenter: str | Path = "nano",
    text_segmenter: str | Path | None = None,
    similarity: str | Path = "text",
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    mode: Mode = "calibrated",
    routes: Literal["A", "B", "AB"] = "AB",
    refine: bool = True,
    calibration: str | Path | None = None,
    alpha: float | None = None,
    beta: float | None = None,
    presence: bool = True,
    disagreement: float = 0.7,
    context: float = 0.5,
    fusion: Mode | None = None,
    clicks: int | None = None,
    confidence: float = 0.25,
    max_calls: int | None = None,
    max_seconds: float | None = None,
    units: str | None = None,
    side: int | None = None,
    tries: int = 3,
    limit: int = 64,
    overlap: float = 0.5,
    cache: str | Path | None = None,
    tokens: int | None = None,
    budget: Budget | None = None,
    key_env: str | None = None,
    timeout: float | None = None,
    max_tokens: int | None = None,
    server: Mapping[str, Any] | None = None,
    asking: Mapping[str, Any] | None = None,
) -> GeoSegEngine:
    """The engine from names.

    Args:
        endpoint, model, local: the reasoner, as in :func:`terraprompt.engines.think2seg.think2seg`.
        segmenter: of Route A, see :func:`terraprompt.segmenters.load_segmenter`.
        text_segmenter: of Route B; None = that of Route A where it reads texts, else nano. The paper's is sam3.
        similarity: of Route A's map: "text" = the text branch of Route B's segmenter, which works offline but is no
            second opinion; "clip" = CLIP Surgery on ViT-B/16 as in the paper; or another CLIP or SigLIP by hub name or
            folder.
        weights: other weights for a segmenter that is an engine of ours.
        device, precision: of segmenters, CLIP and a local reasoner.
        mode: "calibrated", or "official": constants and rules of the release.
        routes: "AB", "A" (clicks) or "B" (text).
        refine: correct the boxes.
        calibration: file of ``terraprompt reasoner calibrate -o``.
        alpha, beta: constants of the correction, in place of those of the calibration.
        presence, disagreement, context, fusion: see :class:`terraprompt.engines.routes.RouteRules`.
        clicks: at most, the strongest; None = all.
        confidence: least one of an instance of SAM3.
        max_calls, max_seconds, tries, limit, overlap: see :class:`GeoSegEngine`.
        units, side, cache, tokens, budget, key_env, timeout, max_tokens, server, asking: of the reasoner, as in
            :func:`terraprompt.engines.think2seg.think2seg`.

    Raises:
        ConfigError: no reasoner is named, settings contradict each other, or the calibration is of another reasoner.
        ReasonerError: the endpoint must be asked for its model and does not say.
        CheckpointError: weights that are missing, damaged or of another architecture.
        EngineError: unknown segmenter, or one that does not read what its route asks.
    """
    rules = RouteRules(
        mode, routes, most=clicks, disagreement=disagreement, context=context, presence=presence, fusion=fusion
    )
    known = None if calibration is None else BoxCalibration.load(calibration)
    correction = _correction(mode, refine, known, alpha, beta)
    if tokens is not None:
        if budget is not None:
            raise ConfigError("A budget is given twice.", received=tokens, hint="Put the tokens into the budget.")
        budget = Budget(tokens=tokens)
    link = {name: value for name, value in (("key_variable", key_env), ("timeout", timeout)) if value is not None}
    template = OFFICIAL_TEMPLATE if mode == "official" else PHRASE_TEMPLATE
    words = {"template": template} | ({} if max_tokens is None else {"max_tokens": max_tokens})
    reasoner = open_reasoner(
        endpoint=endpoint,
        model=model,
        local=local,
        units=units,
        side=side,
        cache=cache,
        budget=budget,
        server={**link, **(server or {})},
        device=device,
        served={"structured": "off"},  # the schema that endpoints are bound to wants points and knows no phrases
        **{**words, **(asking or {})},
    )
    how: dict[str, Any] = {"precision": precision, "device": device, "threshold": confidence}
    drawing = load_drawing(segmenter, weights, **how)
    reads = TEXT in drawing.reads and text_segmenter in (None, segmenter)
    reading = drawing if reads else load_drawing(text_segmenter or _READER, **how)
    source = _similarity(similarity, reading, device) if "A" in routes else None
    return GeoSegEngine(
        reasoner,
        Routes(drawing, reading, source, rules),
        calibration=known,
        correction=correction,
        tries=tries,
        limit=limit,
        overlap=overlap,
        max_calls=max_calls,
        max_seconds=max_seconds,
    )


def _correction(
    mode: Mode, wanted: bool, known: BoxCalibration | None, alpha: float | None, beta: float | None
) -> Correction | None:
    """What the options say; None = what mode and calibration say."""
    if mode == "official":
        if alpha is not None or beta is not None:
            raise ConfigError("The official mode has fixed constants.", received=(alpha, beta))
        return Correction.official(refined=wanted)
    if not wanted:
        if alpha is not None or beta is not None:
            raise ConfigError("Without refinement there are no constants.", received=(alpha, beta))
        return Correction()
    if alpha is None and beta is None:
        return None
    base = Correction() if known is None else Correction("calibrated", known.alpha, known.beta)
    return Correction(
        "calibrated", base.alpha if alpha is None else float(alpha), base.beta if beta is None else float(beta)
    )


def _similarity(name: str | Path, reading: PromptableSegmenter, device: str) -> Similarity:
    if str(name) == "text":
        return TextSimilarity(reading)
    source = CLIP if str(name) == "clip" else str(name)
    return ClipSimilarity(ClipSurgery.load(source, device=device), source)


def _phrase(words: str) -> str:
    """A stranger's phrase: in one line, of a bounded length."""
    return " ".join(readable(words).split())[:_PHRASE]


def _nbytes(window: Window) -> int:
    held = 0 if window.embedding is None else window.embedding.nbytes
    return window.image.nbytes + held
