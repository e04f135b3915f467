"""The engine Think2Seg: a reasoner answers boxes and points, a frozen segmenter draws (Think2Seg-RS)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, ModelInfo, TileSpec
from terraprompt.engines.propose import (
    REMARK,
    ProposingEngine,
    ReasonerOptions,
    Window,
    evidence_text,
    load_mask_segmenter,
)
from terraprompt.prompt import Prompt
from terraprompt.segmenters import PromptableSegmenter
from terraprompt.vlm.answer_parser import AnswerRules, Instance
from terraprompt.vlm.ask import AskLimits, Reading, ask
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.conventions import Convention

__all__ = ["Think2SegEngine", "think2seg"]

_POINTS = 64  # a target; more say nothing new, and a hundred thousand would fill the memory
_TOGETHER = 16  # prompts on one image, so that a hundred masks are not held at once


class Think2SegEngine(ProposingEngine[Instance]):
    """Any reasoner with any promptable segmenter.

    A text that comes with points or boxes is not read: what is pointed at is drawn.

    Args:
        reasoner, segmenter, limits: as of :class:`ProposingEngine`.
        rules: what an item of the reasoner's answer must hold; the reasoner must be asked by the same ones.
        tile: how scenes are cut, and whether targets share windows; None = what suits the segmenter.
    """

    name = "think2seg"
    certain = True

    def __init__(
        self,
        reasoner: Reasoner,
        segmenter: PromptableSegmenter,
        limits: AskLimits | None = None,
        *,
        rules: AnswerRules | None = None,
        tile: TileSpec | None = None,
    ) -> None:
        super().__init__(reasoner, segmenter, limits or AskLimits(), tile=tile)
        self.rules = rules or AnswerRules()
        draws = segmenter.info
        name = f"{reasoner.info.model} + {draws.name}"
        self.info = ModelInfo(name, draws.revision, draws.checksum, {**self.parts, "rules": asdict(self.rules)})

    def ask(
        self, image: NDArray[np.uint8], instruction: str, convention: Convention, deadline: float | None
    ) -> Reading[Instance]:
        """See :func:`terraprompt.vlm.ask.ask`."""
        return ask(
            self.reasoner,
            image,
            instruction,
            self.limits,
            rules=self.rules,
            convention=convention,
            deadline=deadline,
        )

    def prompt(self, target: Instance) -> Prompt:
        """Points (the first 64) and box of an instance."""
        boxes = () if target.box is None else (target.box,)
        return Prompt(points=target.points[:_POINTS], labels=target.labels[:_POINTS], boxes=boxes)

    def evidence(self, reading: Reading[Instance]) -> dict[str, Any]:
        """What was answered, in the reasoner's own units."""
        answered = [
            {
                "box": None if v.box is None else list(v.box),
                "points": [[x, y, label] for (x, y), label in zip(v.points, v.labels, strict=True)],
                **({"name": evidence_text(v.name, REMARK)} if v.name else {}),
            }
            for v in (() if reading.answered is None else reading.answered.instances)
        ]
        mended = [evidence_text(note, REMARK) for note in reading.notes]
        if crowded := sum(len(v.points) > _POINTS for v in reading.targets):
            mended.append(f"{crowded} instances had more than {_POINTS} points; the first are kept.")
        return {"answered": answered, "mended": mended}

    def draw(self, window: Window, prompts: Sequence[Prompt]) -> Iterator[Answer]:
        """Draw by the segmenter; its doubt that there is a target is not asked for, the reasoner saw one."""
        for first in range(0, len(prompts), _TOGETHER):
            for drawn in self.segmenter.predict(self.embedding_of(window), prompts[first : first + _TOGETHER]):
                yield Answer(drawn.logits)

    def notes_of(self, prompts: Sequence[Prompt], drawn: Sequence[Answer], notes: Mapping[str, Any]) -> dict[str, Any]:
        """Boxes and points of the proposals."""
        return {
            "boxes": [list(box) for prompt in prompts for box in prompt.boxes],
            "points": [[x, y, v] for p in prompts for (x, y), v in zip(p.points, p.labels, strict=True)],
        }


def think2seg(
    *,
    segmenter: str | Path = "nano",
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    multimask: bool | None = None,
    rules: AnswerRules | None = None,
    points: int | None = 2,
    negatives: int = 0,
    boxes: bool = True,
    schema: bool | None = None,
    **reasoner: Any,
) -> Think2SegEngine:
    """Load the engine from names.

    Args:
        segmenter: see :func:`terraprompt.segmenters.load_segmenter`.
        weights: other weights for a segmenter that is an engine of ours, e.g. from ``terraprompt train``.
        device: torch device of segmenter and local reasoner.
        precision: of the segmenter.
        multimask: of the segmenter.
        rules: as in :class:`Think2SegEngine`; None = what the next three say.
        points: positive points that are asked for, a target; 0 = a box alone, None = any number.
        negatives: negative points that are asked for, a target.
        boxes: ask for boxes; False = points alone.
        schema: whether an endpoint binds its answers to a JSON schema where it can (the default); False for checkpoints
            that were trained on the tagged form.
        reasoner: fields of :class:`terraprompt.engines.propose.ReasonerOptions`.

    Raises:
        ConfigError: no reasoner is named, or settings contradict each other.
        ReasonerError: the endpoint must be asked for its model and does not say.
        CheckpointError: weights that are missing, damaged or of another architecture.
        EngineError: unknown segmenter or option.
    """
    rules = rules or AnswerRules(points, negatives, boxes)
    structured: dict[str, Any] = {} if schema is None else {"structured": "auto" if schema else "off"}
    options = ReasonerOptions.of("think2seg", reasoner)
    limits = options.limits(256)
    opened = options.open(device=device, rules=rules, **structured)
    drawing = load_mask_segmenter(segmenter, weights, precision=precision, device=device, multimask=multimask)
    return Think2SegEngine(opened, drawing, limits, rules=rules)
