"""What an engine is: perceive an image once, answer many prompts about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terraprompt.prompt import Prompt, Task

__all__ = ["Answer", "Embedding", "Engine", "ModelInfo", "TileSpec"]


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """Which weights answered: goes into every output.

    Attributes:
        name: e.g. "nano".
        revision: version or hub commit of the weights.
        checksum: sha256 of the weights file, hex; "" if there are no weights.
        settings: anything that changes the answer (threshold, precision, …).
    """

    name: str
    revision: str
    checksum: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class TileSpec:
    """How the engine wants a scene to be cut.

    Attributes:
        size: tile side in pixels at the scene's own resolution.
        overlap: pixels shared by neighbouring tiles; the margin of half of it is where an answer near a tile's edge
            is not trusted when another tile sees the pixel better. For a purely local model twice its receptive radius
            makes tiled and whole answers equal.
        multiple: tile sides are padded up to a multiple of this before the model sees them.
        batch: tiles perceived together.
        focus: grid side of the window round a single target (a box fills about half of it); 0 = ``size``.
    """

    size: int = 512
    overlap: int = 128
    multiple: int = 32
    batch: int = 4
    focus: int = 0


@dataclass(frozen=True, slots=True)
class Embedding:
    """What perceiving one image left behind; opaque to everyone but its engine.

    Attributes:
        size: (height, width) of the image that was perceived.
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
        notes: intermediate evidence (boxes, points, reasoning text, …).
    """

    logits: NDArray[np.float32]
    presence: float | None = None
    notes: dict[str, Any] = field(default_factory=dict)


@runtime_checkable
class Engine(Protocol):
    """A system that segments by instruction. Stateless between calls; what is costly lives in embeddings."""

    name: str
    info: ModelInfo
    tile: TileSpec
    tasks: frozenset[Task]

    def perceive(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode images.

        Args:
            images: RGB uint8 arrays (height, width, 3), already stretched; may differ in size.
        """
        ...

    def answer(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``; the same embedding may appear several times.

        Args:
            embeddings: from :meth:`perceive` of this engine.
            prompts: with points and boxes in pixel coordinates of the perceived image (``crs=None``), each describing
                one target.
        """
        ...
