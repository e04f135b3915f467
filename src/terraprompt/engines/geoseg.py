"""The engine GeoSeg: training-free reasoning segmentation (arXiv 2603.03983), calibrated and fused.

A reasoner grounds the question to boxes with noun phrases, the boxes are corrected, and at native resolution two routes
draw each target: clicks from a similarity map, and the phrase.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, ModelInfo, TileSpec
from terraprompt.engines.propose import ProposingEngine, ReasonerOptions, Window, evidence_text, load_mask_segmenter
from terraprompt.engines.routes import RouteRules, Routes
from terraprompt.errors import ConfigError, EngineError
from terraprompt.models.clip_prompts import OVERHEAD_TEMPLATES, PUBLIC_TEMPLATES
from terraprompt.models.clip_surgery import ClipSurgery
from terraprompt.prompt import Prompt
from terraprompt.segmenters import PromptableSegmenter
from terraprompt.segmenters.base import TEXT
from terraprompt.segmenters.similarity import ClipSimilarity, Similarity, TextSimilarity
from terraprompt.vlm.ask import AskLimits, Reading
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.box_calibration import BoxCalibration
from terraprompt.vlm.box_refinement import Correction, Mode, refine
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.ground import GroundedBox, ground_boxes
from terraprompt.vlm.probe import Settled
from terraprompt.vlm.wording import OFFICIAL_TEMPLATE, PHRASE_TEMPLATE

__all__ = ["GeoSegEngine", "geoseg"]

#: The model of the paper's Route A, on the Hugging Face hub.
CLIP = "openai/clip-vit-base-patch16"
#: The language model of the paper.
PAPER_MODEL = "Qwen/Qwen3-VL-32B-Instruct"
_AS_IT_IS = View("fit", side=4096)
#: Segmenter of Route B where that of Route A reads no texts.
_READER = "nano"
_TARGETS = 64  # of a text, unless told otherwise
_PHRASE = 120  # characters of a phrase


class GeoSegEngine(ProposingEngine[GroundedBox]):
    """Answers texts through a reasoner and two routes; points and boxes alone by the segmenter of Route A.

    A text with one box and no points is taken for a target that is grounded already: the two routes look for the text
    in that box. A text with points is not read.

    Args:
        reasoner: grounds. It must be asked with :data:`terraprompt.vlm.wording.PHRASE_TEMPLATE`, or
            ``OFFICIAL_TEMPLATE`` in ``official``.
        routes: draw.
        limits: on questions about one image and their targets; None = at most 64 targets.
        calibration: of the reasoner: units and correction, measured on labelled boxes. None: units as declared, or
            asked for with a picture whose answer is known where they are ``AUTO``; boxes as ``correction`` says.
        correction: in place of a calibration; None = none in ``calibrated``, the release's constants in ``official``.
        max_calls: passes of models that a query may take, the reasoner's and the segmenters'; what would take more
            fails before anything is drawn. None = any.
        max_seconds: after which a query fails. None = any.
        tile: how scenes are cut; None = what suits the segmenter.

    Raises:
        ConfigError: options out of range, or a calibration where it has no meaning or of another reasoner.
    """

    name = "geoseg"

    def __init__(
        self,
        reasoner: Reasoner,
        routes: Routes,
        limits: AskLimits | None = None,
        *,
        calibration: BoxCalibration | None = None,
        correction: Correction | None = None,
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
        limits = limits or AskLimits(limit=_TARGETS)
        if max_calls is not None:
            limits = replace(limits, tries=min(limits.tries, max_calls))
        super().__init__(reasoner, routes.drawing, limits, max_seconds=max_seconds, tile=tile)
        self.routes, self.calibration, self.correction, self.max_calls = routes, calibration, correction, max_calls
        self.info = self._info()

    def ask(
        self, image: NDArray[np.uint8], instruction: str, convention: Convention, deadline: float | None
    ) -> Reading[GroundedBox]:
        """See :func:`terraprompt.vlm.ground.ground_boxes`."""
        return ground_boxes(
            self.reasoner,
            image,
            instruction,
            self.limits,
            correction=self.correction,
            convention=convention,
            measured=self.calibration is not None,
            clean=lambda phrase: " ".join(evidence_text(phrase).split())[:_PHRASE],
            deadline=deadline,
        )

    def convention(self, size: tuple[int, int]) -> Settled:
        """How to read coordinates about an image of ``size`` (height, width)."""
        if self.calibration is not None:
            return Settled(self.calibration.convention, "calibration on labelled boxes")
        if self.correction.mode == "official":
            return Settled(self.reasoner.convention.with_units(Units.PIXELS), "official: always pixels")
        return super().convention(size)

    def prompt(self, target: GroundedBox) -> Prompt:
        """The corrected box with its phrase."""
        return Prompt(target.phrase, boxes=(target.refined.expanded,))

    def evidence(self, reading: Reading[GroundedBox]) -> dict[str, Any]:
        """Boxes in pixels of the image, "answered" in the reasoner's own units."""
        return {
            "correction": asdict(self.correction),
            "grounded": [
                {
                    "phrase": t.phrase,
                    "answered": list(t.answered),
                    "box": list(t.box),
                    "refined": {"box": list(t.refined.expanded)},
                }
                for t in reading.targets
            ],
        }

    def refusal(self, calls: int, targets: int) -> str:
        """Why a query with so many questions and targets may not be drawn; "" if it may."""
        needed = calls + targets * self.routes.most_calls
        if self.max_calls is None or needed <= self.max_calls:
            return ""
        many = f"{targets} target{'' if targets == 1 else 's'}"
        return (
            f"{many} may take {needed} calls of models, {calls} of them to the reasoner, where {self.max_calls} are "
            "allowed; nothing was drawn. Allow more (max_calls), or run one route."
        )

    def embed(self, windows: Sequence[Window]) -> None:
        """Embed images for Route A, where it runs."""
        if "A" in self.routes.rules.routes:
            super().embed(windows)

    def draw(self, window: Window, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Draw each phrase in its box by the two routes."""
        return (self._draw_phrase(window, prompt) for prompt in prompts)

    def draw_pointed(self, window: Window, prompts: Sequence[Prompt]) -> list[Answer]:
        """Draw a text with a box by the two routes, anything else by the segmenter of Route A."""
        return [
            self._draw_phrase(window, prompt)
            if prompt.text is not None and prompt.boxes and not prompt.points
            else super(GeoSegEngine, self).draw_pointed(window, [prompt])[0]
            for prompt in prompts
        ]

    def _draw_phrase(self, window: Window, prompt: Prompt) -> Answer:
        """The box was corrected before, or the user drew it: only the crop is still to be found."""
        if len(prompt.boxes) > 1:
            raise EngineError(
                "An engine takes one target a prompt.",
                received=f"{len(prompt.boxes)} boxes",
                hint="Use Prompt.objects().",
            )
        size = (window.image.shape[0], window.image.shape[1])
        refined = refine(prompt.boxes[0], size, alpha=0.0, beta=0.0, mode=self.correction.mode)
        return self.routes.predict(window, refined, prompt.text or "")

    def notes_of(self, prompts: Sequence[Prompt], drawn: Sequence[Answer], notes: Mapping[str, Any]) -> dict[str, Any]:
        """What each target took and how its mask came about."""
        if not drawn:
            return {"targets": []}
        return {
            "targets": [answer.notes for answer in drawn],
            "boxes": [box for answer in drawn for box in answer.notes["boxes"]],
            "points": [point for answer in drawn for point in answer.notes.get("points", [])],
            "calls": notes["calls"] + sum(answer.notes["calls"] for answer in drawn),
            "seconds": round(notes["seconds"] + sum(answer.notes["seconds"] for answer in drawn), 3),
        }

    def _info(self) -> ModelInfo:
        routes, draws = self.routes, self.segmenter.info
        reading, source = routes.reading, routes.similarity
        names = [self.reasoner.info.model, draws.name, *([] if reading is None else [reading.info.name])]
        parts = {
            **self.parts,
            "rules": asdict(routes.rules),
            "correction": asdict(self.correction),
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
        return ModelInfo(" + ".join(dict.fromkeys(names)), draws.revision, draws.checksum, parts)


def geoseg(
    *,
    segmenter: str | Path = "nano",
    text_segmenter: str | Path | None = None,
    similarity: str | Path = "text",
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    setup: str | None = None,
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
    **reasoner: Any,
) -> GeoSegEngine:
    """Load the engine from names.

    Args:
        segmenter: of Route A, see :func:`terraprompt.segmenters.load_segmenter`.
        text_segmenter: of Route B; None = that of Route A where it reads texts, else nano. The paper's is sam3.
        similarity: of Route A's map: "text" = the text branch of Route B's segmenter, which works offline but is no
            second opinion; "clip" = CLIP Surgery on ViT-B/16 as in the paper; or another CLIP or SigLIP by hub name or
            folder.
        weights: other weights for a segmenter that is an engine of ours.
        device: of segmenters, CLIP and a local reasoner.
        precision: of segmenters, CLIP and a local reasoner.
        setup: "paper": the paper's own: ``mode`` official, SAM3 and CLIP ViT-B/16 by their hub names, and the model
            Qwen3-VL-32B-Instruct of the endpoint, where nothing else is said.
        mode: "calibrated", or "official": constants and rules of the release. An endpoint is then shown the picture as
            it is (made smaller over 4096 pixels), told its width and height, and read in pixels.
        routes: "AB", "A" (clicks) or "B" (text).
        refine: correct the boxes.
        calibration: file of ``terraprompt reasoner calibrate -o``.
        alpha: constants of the correction, in place of those of the calibration.
        beta: as ``alpha``.
        presence: see :class:`terraprompt.engines.routes.RouteRules`.
        disagreement: see :class:`terraprompt.engines.routes.RouteRules`.
        context: see :class:`terraprompt.engines.routes.RouteRules`.
        fusion: see :class:`terraprompt.engines.routes.RouteRules`.
        clicks: at most, the strongest; None = all.
        confidence: least one of an instance of SAM3.
        max_calls: see :class:`GeoSegEngine`.
        max_seconds: see :class:`GeoSegEngine`.
        reasoner: fields of :class:`terraprompt.engines.propose.ReasonerOptions`.

    Raises:
        ConfigError: no reasoner is named, settings contradict each other, or the calibration is of another reasoner.
        ReasonerError: the endpoint must be asked for its model and does not say.
        CheckpointError: weights that are missing, damaged or of another architecture.
        EngineError: unknown segmenter, or one that does not read what its route asks.
    """
    if setup is not None:
        if setup != "paper":
            raise ConfigError("Unknown set-up.", received=setup, hint="Known: paper.")
        mode, text_segmenter = "official", text_segmenter or "sam3"
        segmenter = "sam3" if segmenter == "nano" else segmenter
        similarity = "clip" if similarity == "text" else similarity
        if not {"model", "local"} & reasoner.keys():
            reasoner["model"] = PAPER_MODEL
    rules = RouteRules(
        mode, routes, most=clicks, disagreement=disagreement, context=context, presence=presence, fusion=fusion
    )
    known = None if calibration is None else BoxCalibration.load(calibration)
    correction = _correction(mode, refine, known, alpha, beta)
    options = ReasonerOptions.of("geoseg", reasoner)
    shown: dict[str, Any] = {}
    if mode == "official":
        if options.units not in (None, Units.PIXELS.value):
            raise ConfigError("The official mode asks for pixels.", received=options.units, hint="Leave --units out.")
        shown = {"view": _AS_IT_IS}
    limits = options.limits(_TARGETS)
    opened = options.open(
        device=device,
        served={"structured": "off"},  # the schema that endpoints are bound to wants points and knows no phrases
        template=OFFICIAL_TEMPLATE if mode == "official" else PHRASE_TEMPLATE,
        **shown,
    )
    how: dict[str, Any] = {"precision": precision, "device": device, "threshold": confidence}
    drawing = load_mask_segmenter(segmenter, weights, **how)
    reads = TEXT in drawing.reads and text_segmenter in (None, segmenter)
    reading = drawing if reads else load_mask_segmenter(text_segmenter or _READER, **how)
    source = _similarity(similarity, reading, device, mode) if "A" in routes else None
    return GeoSegEngine(
        opened,
        Routes(drawing, reading, source, rules),
        limits,
        calibration=known,
        correction=correction,
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


def _similarity(name: str | Path, reading: PromptableSegmenter, device: str, mode: Mode) -> Similarity:
    if str(name) == "text":
        return TextSimilarity(reading)
    source = CLIP if str(name) == "clip" else str(name)
    templates = PUBLIC_TEMPLATES if mode == "official" else OVERHEAD_TEMPLATES
    return ClipSimilarity(ClipSurgery.load(source, device=device, templates=templates), source)
