"""What an engine is: encode an image once, answer many prompts about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import EngineError
from terraprompt.prompt import Prompt, Task

__all__ = [
    "Answer",
    "Embedding",
    "Engine",
    "KnowsWords",
    "ModelInfo",
    "Proposals",
    "Proposer",
    "TileSpec",
    "check_pairs",
    "checked_target",
]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which weights answered: goes into every output.

    Attributes:
        name: e.g. "nano".
        revision: version or hub commit of the weights.
        checksum: sha256 of the weights file, hex; "" if there are no weights.
        settings: anything that changes the answer (threshold, precision, …).
        gsd_m: finest and coarsest metres a pixel that the model knows; None = not said.
        gsd_note: exceptions, to be put behind that range.
        limits: sentences on what the model cannot do.
    """

    name: str
    revision: str
    checksum: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    gsd_m: tuple[float, float] | None = None
    gsd_note: str = ""
    limits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How the engine wants a scene to be cut.

    Attributes:
        size: tile side in pixels at the scene's own resolution.
        overlap: pixels shared by neighbouring tiles; the margin of half of it is where an answer near a tile's edge
            is not trusted when another tile sees the pixel better. For a purely local model twice its receptive radius
            makes tiled and whole answers equal.
        multiple: tile sides are padded up to a multiple of this before the model sees them.
        batch: tiles encoded together.
        focus: grid side of the window round a single target (a box fills about half of it); 0 = ``size``.
        shared: look at single targets at the scene's own resolution, through windows of ``size`` that neighbours
            share, in place of an enlarged one for each. For engines whose encoding is costly and that see small
            things well.
        resizes: the engine brings a picture of any size onto its own square itself; else the published flow letterboxes
            whole pictures to ``size``.
    """

    size: int = 512
    overlap: int = 128
    multiple: int = 32
    batch: int = 4
    focus: int = 0
    shared: bool = False
    resizes: bool = False


@dataclass(frozen=True, slots=True)
class Embedding:
    """What encoding one image left behind; opaque to everyone but its engine.

    Attributes:
        size: (height, width) of the image that was encoded.
        data: the engine's own.
        nbytes: memory held, for the session's cache.
    """

    size: tuple[int, int]
    data: Any
    nbytes: int


@dataclass(frozen=True, slots=True)
class Answer:
    """One prompt answered on one image.

    Attributes:
        logits: float32 (height, width) of the image; positive = target. NaN is not allowed.
        presence: probability that the image holds any target, or None where the engine does not say.
        notes: intermediate evidence (boxes, points, reasoning text, …). Coordinates stand under the keys "box", "crop"
            (one box), "boxes" and "points" at any depth, in pixels of the image; the flow moves them to the scene.
            "calls" and "seconds" are what this answer cost.
        remarks: sentences that the user must read: what of the prompt was left out, what was guessed.
    """

    logits: NDArray[np.float32]
    presence: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


@runtime_checkable
class Engine(Protocol):
    """A system that segments by instruction. Stateless between calls; what is costly lives in embeddings."""

    name: str
    info: ModelInfo
    tile: TileSpec
    tasks: frozenset[Task]

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode images.

        Args:
            images: RGB uint8 arrays (height, width, 3), already stretched; may differ in size.
        """
        ...

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``; the same embedding may appear several times.

        Args:
            embeddings: from :meth:`encode` of this engine.
            prompts: with points and boxes in pixel coordinates of the encoded image (``crs=None``), each describing
                one target.
        """
        ...


@dataclass(frozen=True, slots=True)
class Proposals:
    """Where a text's targets are, as points and boxes; or that there are none; or why nobody knows.

    Attributes:
        status: "found", "no_target" or "failed".
        prompts: one target each, points and at most one box, in pixels of the image that was asked about; empty unless
            found.
        reason: of a failure; a remark on "no_target", if there is one.
        notes: evidence as JSON values (reasoning, replies, verdicts, what was mended, tokens, seconds, ...). What
            stands under "grounded" is in pixels of that image too, as in :class:`Answer`.
        deadline: ``time.monotonic()`` at which drawing is given up; None = it may take its time.
        remarks: as in :class:`Answer`.
        certain: every prompt has a target: published flows do not ask whether what draws it doubts that.

    Raises:
        EngineError: the parts contradict each other.
    """

    status: Literal["found", "no_target", "failed"]
    prompts: tuple[Prompt, ...] = ()
    reason: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)
    deadline: float | None = None
    remarks: tuple[str, ...] = ()
    certain: bool = False

    def __post_init__(self) -> None:
        if self.status not in ("found", "no_target", "failed") or (self.status == "failed" and not self.reason):
            raise EngineError("A proposal needs a status, a failed one also a reason.", received=self.status)
        if bool(self.prompts) != (self.status == "found"):
            raise EngineError(
                "Prompts are proposed if and only if something is found.",
                received=f"{len(self.prompts)} prompts, {self.status}",
            )
        for prompt in self.prompts:
            if not prompt.is_spatial or prompt.crs is not None or len(prompt.boxes) > 1:
                raise EngineError(
                    "A proposed prompt is about one target, in pixels, with points or a box.",
                    received=prompt.describe(),
                )


@runtime_checkable
class KnowsWords(Protocol):
    """An engine with a closed vocabulary: sentences are taken apart before it is asked.

    Attributes:
        vocabulary: the categories that it knows, names of the training vocabulary; () = open after all.
    """

    vocabulary: tuple[str, ...]

    def is_word(self, word: str) -> bool:
        """Whether a lower-case word is one of English, so no misspelt noun."""
        ...


@runtime_checkable
class Proposer(Engine, Protocol):
    """An engine that reads a text by pointing: it looks at the whole scene once and says where to look closer.

    A scene is shown to it as one picture; what it proposes is answered at the scene's own resolution.
    """

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        """(height, width) at which it wants to see a scene of ``size``; more than the scene has is not read."""
        ...

    def propose(self, image: NDArray[np.uint8], instruction: str) -> Proposals:
        """Find the targets of a text.

        Args:
            image: RGB uint8 (height, width, 3) of the whole scene, already stretched; may be squeezed.
            instruction: what to find, in the user's words.

        Raises:
            BudgetError: asking could cost more than is left; it stops a whole run, see
                :class:`terraprompt.errors.BudgetError`.
        """
        ...


def check_pairs(embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> None:
    """Raise an EngineError unless there are as many embeddings as prompts."""
    if len(embeddings) != len(prompts):
        raise EngineError("Every prompt needs an embedding.", received=(len(embeddings), len(prompts)))


def checked_target(prompt: Prompt) -> Prompt:
    """``prompt`` if it is in pixels and about one target.

    Raises:
        EngineError: it has a CRS, or more than one box.
    """
    if prompt.crs is not None:
        raise EngineError("An engine takes pixel coordinates.", received=prompt.crs)
    if len(prompt.boxes) > 1:
        raise EngineError(
            "An engine takes one target a prompt.",
            received=f"{len(prompt.boxes)} boxes",
            hint="Use Prompt.objects().",
        )
    return prompt
