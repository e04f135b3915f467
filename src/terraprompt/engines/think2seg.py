"""The engine Think2Seg: a reasoner looks at the scene and points, a frozen segmenter draws (Think2Seg-RS).

Any :class:`~terraprompt.vlm.base.Reasoner` with any
:class:`~terraprompt.segmenters.base.PromptableSegmenter`. A session shows the reasoner an overview and looks at
each of its proposals at native resolution; ``answer`` does the whole for a single image.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer, Embedding, ModelInfo, Proposals, TileSpec
from terraprompt.engines.reasoned import REMARK, load_drawing, readable, remark, said, spent, tile_of
from terraprompt.errors import BudgetError, ConfigError, EngineError, ReasonerError
from terraprompt.prompt import Prompt, Task
from terraprompt.segmenters import PromptableSegmenter, SegmenterEmbedding
from terraprompt.vlm.answer_parser import AnswerRules, Instance
from terraprompt.vlm.ask import Reading, ask
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, Units
from terraprompt.vlm.open import open_reasoner
from terraprompt.vlm.probe import probe

__all__ = ["Think2SegEngine", "think2seg"]

log = logging.getLogger(__name__)

_ABSENT = -30.0
_POINTS = 64  # a target; more say nothing new, and a hundred thousand would fill the memory
_TOGETHER = 16  # prompts on one image, so that a hundred masks are not held at once


@dataclass(frozen=True, slots=True)
class _Seen:
    """An image, for the reasoner, and what the segmenter made of it."""

    image: NDArray[np.uint8]
    embedding: SegmenterEmbedding


class Think2SegEngine:
    """Answers texts through a reasoner, points and boxes by the segmenter alone.

    A text that comes with points or boxes is not read: what is pointed at is drawn.

    Args:
        reasoner: says where. One that answers in ``AUTO`` units is first asked about a picture whose answer is known,
            once.
        segmenter: draws.
        rules: what an item of the reasoner's answer must hold; the reasoner must be asked by the same ones.
        tries: questions at most about one image, the first included.
        limit: targets at most.
        overlap: box IoU above which the smaller of two targets goes.
        tile: how scenes are cut, and whether targets share windows; None = what suits the segmenter.
    """

    name = "think2seg"
    tasks = frozenset(Task)

    def __init__(
        self,
        reasoner: Reasoner,
        segmenter: PromptableSegmenter,
        *,
        rules: AnswerRules | None = None,
        tries: int = 3,
        limit: int = 256,
        overlap: float = 0.5,
        tile: TileSpec | None = None,
    ) -> None:
        if tries < 1 or limit < 1 or not 0 < overlap <= 1:
            raise ConfigError(
                "Tries and limit are at least 1, the overlap is above 0 and at most 1.",
                received=(tries, limit, overlap),
            )
        self.reasoner, self.segmenter = reasoner, segmenter
        self.rules = rules or AnswerRules()
        self.tries, self.limit, self.overlap = tries, limit, overlap
        self.tile = tile or tile_of(segmenter)
        asked, draws = reasoner.info, segmenter.info
        self.info = ModelInfo(
            f"{asked.model} + {draws.name}",
            draws.revision,
            draws.checksum,
            {
                "reasoner": {"kind": asked.name, "model": asked.model, "where": asked.where, **asked.settings},
                "segmenter": {"name": draws.name, **draws.settings},
                "rules": asdict(self.rules),
                "tries": tries,
                "limit": limit,
                "overlap_iou": overlap,
            },
        )
        self._lock = threading.Lock()
        self._probed: tuple[Convention | None, str] | None = None

    # The scene, as a whole

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which the reasoner is shown an image of ``size``."""
        return self.reasoner.convention.view.size(size)

    def propose(self, image: NDArray[np.uint8], instruction: str) -> Proposals:
        """Ask the reasoner; see :meth:`terraprompt.engines.base.Proposer.propose`.

        A reasoner that cannot be reached, refuses, or gives no usable answer is a failed proposal with the reason.
        """
        try:
            convention, how = self._convention()
        except BudgetError:
            raise
        except ReasonerError as error:
            return Proposals("failed", reason=readable(str(error)))
        reading = ask(
            self.reasoner,
            image,
            instruction,
            rules=self.rules,
            tries=self.tries,
            limit=self.limit,
            overlap=self.overlap,
            convention=convention,
        )
        notes = _evidence(reading, self.reasoner.convention.view.size((image.shape[0], image.shape[1])), how)
        if reading.status == "failed":
            return Proposals("failed", reason=readable(reading.reason), notes=notes)
        if reading.status == "no_target":
            return Proposals("no_target", reason=remark(reading.reasoning), notes=notes)
        crowded = sum(len(v.points) > _POINTS for v in reading.targets)
        if crowded:
            notes["mended"].append(f"{crowded} instances had more than {_POINTS} points; the first are kept.")
        return Proposals("found", tuple(_prompt(v) for v in reading.targets), notes=notes)

    def _convention(self) -> tuple[Convention | None, str]:
        """How to read coordinates, and from where that is known; (None, "") = as the reasoner declares it."""
        if self.reasoner.convention.units is not Units.AUTO:
            return None, ""
        with self._lock:
            if self._probed is None:
                probed = probe(self.reasoner)
                log.info(probed.said)
                self._probed = probed.convention, probed.said
            return self._probed

    # One image

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3) for the segmenter; the reasoner is not asked."""
        made = self.segmenter.embed(images)
        return [
            Embedding(e.size, _Seen(image, e), e.nbytes + image.nbytes) for image, e in zip(images, made, strict=True)
        ]

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``.

        A text is asked of the reasoner, about this image alone; its targets are drawn and joined. The notes of the
        answer hold the evidence, with "boxes" and "points" in pixels of the image.

        Raises:
            ReasonerError: no usable answer to a text.
            BudgetError: nothing more may be asked.
        """
        if len(embeddings) != len(prompts):
            raise EngineError("Every prompt needs an embedding.", received=(len(embeddings), len(prompts)))
        out: list[Answer | None] = [None] * len(prompts)
        pointed: dict[int, list[int]] = {}
        for i, (embedding, prompt) in enumerate(zip(embeddings, prompts, strict=True)):
            if prompt.is_spatial:
                pointed.setdefault(id(embedding), []).append(i)
            else:
                out[i] = self._answer_text(embedding, prompt.text or "")
        for indexes in pointed.values():
            seen: _Seen = embeddings[indexes[0]].data
            asked = [replace(prompts[i], text=None, task_override=None) for i in indexes]
            for i, drawn in zip(indexes, self.segmenter.predict(seen.embedding, asked), strict=True):
                out[i] = Answer(drawn.logits, drawn.presence, {"score": drawn.score})
        return [answer for answer in out if answer is not None]

    def _answer_text(self, embedding: Embedding, text: str) -> Answer:
        seen: _Seen = embedding.data
        proposals = self.propose(seen.image, text)
        if proposals.status == "failed":
            raise ReasonerError(proposals.reason)
        logits = np.full(embedding.size, _ABSENT, np.float32)
        for first in range(0, len(proposals.prompts), _TOGETHER):
            for drawn in self.segmenter.predict(seen.embedding, proposals.prompts[first : first + _TOGETHER]):
                np.maximum(logits, drawn.logits, out=logits)
        notes = {
            **proposals.notes,
            "boxes": [list(box) for prompt in proposals.prompts for box in prompt.boxes],
            "points": [[x, y, v] for p in proposals.prompts for (x, y), v in zip(p.points, p.labels, strict=True)],
        }
        return Answer(logits, None if proposals.prompts else 0.0, notes)


def think2seg(
    *,
    endpoint: str | None = None,
    model: str | None = None,
    local: str | Path | None = None,
    segmenter: str | Path = "nano",
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    multimask: bool = False,
    units: str | None = None,
    side: int | None = None,
    rules: AnswerRules | None = None,
    tries: int = 3,
    limit: int = 256,
    overlap: float = 0.5,
    cache: str | Path | None = None,
    tokens: int | None = None,
    budget: Budget | None = None,
    key_env: str | None = None,
    timeout: float | None = None,
    max_tokens: int | None = None,
    schema: bool | None = None,
    server: Mapping[str, Any] | None = None,
    asking: Mapping[str, Any] | None = None,
) -> Think2SegEngine:
    """The engine from names.

    Args:
        endpoint, model: of an OpenAI-compatible server; else ``TERRAPROMPT_ENDPOINT``, ``TERRAPROMPT_REASONER_MODEL``.
        local: folder or hub name of a reasoner for this process; else ``TERRAPROMPT_REASONER_LOCAL``.
        segmenter: see :func:`terraprompt.segmenters.load_segmenter`.
        weights: other weights for a segmenter that is an engine of ours, e.g. from ``terraprompt train``.
        device: torch device of segmenter and local reasoner.
        precision, multimask: of the segmenter.
        units: of the reasoner's coordinates: "pixels", "0..1", "0..1000", or "auto" = find out; None = the default of
            its family (:mod:`terraprompt.vlm.conventions`).
        side: show the reasoner a square of so many pixels; None = the default of its family.
        rules, tries, limit, overlap: as in :class:`Think2SegEngine`.
        cache: folder for replies of an endpoint; a question that was answered is not asked again.
        tokens: how many may be used by this engine, question and answer together.
        budget: in place of ``tokens``: also of money, or shared by several engines.
        key_env: environment variable that holds the endpoint's key.
        timeout: seconds for one reply.
        max_tokens: of one answer.
        schema: whether an endpoint binds its answers to a JSON schema where it can (the default); False for checkpoints
            that were trained on the tagged form.
        server: further fields of :class:`terraprompt.vlm.transport.ServerConfig`.
        asking: further fields of :class:`terraprompt.vlm.endpoint.EndpointSettings` or
            :class:`terraprompt.vlm.local.LocalReasoner` (template, temperature, ...).

    Raises:
        ConfigError: no reasoner is named, or settings contradict each other.
        ReasonerError: the endpoint must be asked for its model and does not say.
        CheckpointError: weights that are missing, damaged or of another architecture.
        EngineError: unknown segmenter.
    """
    if tokens is not None:
        if budget is not None:
            raise ConfigError("A budget is given twice.", received=tokens, hint="Put the tokens into the budget.")
        budget = Budget(tokens=tokens)
    structured = None if schema is None else "auto" if schema else "off"
    link = _given(key_variable=key_env, timeout=timeout)
    words = _given(max_tokens=max_tokens, structured=structured)
    rules = rules or AnswerRules()
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
        rules=rules,
        **{**words, **(asking or {})},
    )
    drawing = load_drawing(segmenter, weights, precision=precision, device=device, multimask=multimask)
    return Think2SegEngine(reasoner, drawing, rules=rules, tries=tries, limit=limit, overlap=overlap)


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _prompt(instance: Instance) -> Prompt:
    boxes = () if instance.box is None else (instance.box,)
    points, labels = instance.points[:_POINTS], instance.labels[:_POINTS]
    return Prompt(points=points, labels=labels, boxes=boxes)


def _evidence(reading: Reading[Instance], shown: tuple[int, int], how: str) -> dict[str, Any]:
    """What was asked and said, as JSON values; "answered" in the reasoner's own units."""
    answered = () if reading.answered is None else reading.answered.instances
    return {
        "think": readable(reading.reasoning),
        "units": reading.convention.units.value,
        **({"units_from": how} if how else {}),
        "shown": {"width": shown[1], "height": shown[0]},
        "verdicts": list(reading.verdicts),
        "answered": [
            {
                "box": None if v.box is None else list(v.box),
                "points": [[x, y, label] for (x, y), label in zip(v.points, v.labels, strict=True)],
                **({"name": readable(v.name, REMARK)} if v.name else {}),
            }
            for v in answered
        ],
        "mended": list(reading.notes),
        "replies": [said(reply) for reply in reading.replies],
        **spent(reading.replies),
    }
