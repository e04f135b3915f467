"""What a segmenter is: embed an image once, predict a mask for each prompt about it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import PromptError
from terraprompt.prompt import Prompt
from terraprompt.raster.pictures import checked_image

__all__ = [
    "BOXES",
    "POINTS",
    "TEXT",
    "Instance",
    "PromptableSegmenter",
    "SegmenterAnswer",
    "SegmenterEmbedding",
    "SegmenterInfo",
    "checked_image",
    "checked_prompt",
]

POINTS, BOXES, TEXT = "points", "boxes", "text"


@dataclass(frozen=True, slots=True)
class SegmenterInfo:
    """Which weights segment: goes into every output.

    Attributes:
        name: as it was asked for, e.g. "sam2-small" or a folder.
        revision: hub commit, or "local" for a folder.
        checksum: sha256 of the weights, hex; of several files, of their checksums in order of their names.
        settings: anything that changes the answer (architecture, precision, threshold, …).
    """

    name: str
    revision: str
    checksum: str
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class SegmenterEmbedding:
    """What embedding one image left behind; opaque to everyone but its segmenter.

    Attributes:
        size: (height, width) of the image.
        data: the segmenter's own.
        nbytes: memory held, for caches.
    """

    size: tuple[int, int]
    data: Any
    nbytes: int


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object that answers a text prompt.

    Attributes:
        mask: bool (height, width) of the image.
        score: the model's confidence, 0 to 1.
        box: (x0, y0, x1, y1) in pixels of the image.
    """

    mask: NDArray[np.bool_]
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, eq=False)
class SegmenterAnswer:
    """One prompt answered on one image.

    Attributes:
        logits: float32 (height, width) of the image; positive = target.
        score: the model's own estimate of the answer's quality. SAM, SAM2, SAM3 with points or a box: predicted IoU
            (SAM's may leave 0..1 a little). SAM3 with a text: confidence of the best instance, also where it is under
            the threshold. UniGeoSeg: mean probability inside the mask, 0 for an empty one.
        presence: probability that the target is in the image at all, or None where the model does not say.
        instances: objects that answer a text, best first; empty where the model draws one mask for all.
    """

    logits: NDArray[np.float32]
    score: float
    presence: float | None = None
    instances: tuple[Instance, ...] = ()


@runtime_checkable
class PromptableSegmenter(Protocol):
    """A frozen model that turns points, a box or a text into a mask. Stateless between calls.

    Attributes:
        info: which weights.
        reads: which of "points", "boxes" and "text" a prompt may hold.
    """

    info: SegmenterInfo
    reads: frozenset[str]

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmenterEmbedding]:
        """Encode RGB uint8 images (height, width, 3) of any size: the costly half, once an image.

        Raises:
            EngineError: not such an image.
        """
        ...

    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        """Answer each prompt on one image; the image is not encoded again.

        Args:
            embedding: from :meth:`embed` of this segmenter.
            prompts: each describing one target, in pixels of the embedded image (``crs=None``, at most one box; see
                :meth:`terraprompt.prompt.Prompt.objects`). A box is cut at the image's edge. Each answer holds
                4 bytes a pixel: hand over very many prompts in portions.

        Raises:
            PromptError: a kind of prompt the segmenter does not read, several targets in one prompt, another CRS, a
                point outside the image or a box that misses it.
        """
        ...


def checked_prompt(prompt: Prompt, size: tuple[int, int], reads: frozenset[str]) -> Prompt:
    """``prompt`` with its box cut at the edge of an image of ``size`` (height, width).

    Raises:
        PromptError: see :meth:`PromptableSegmenter.predict`.
    """
    height, width = size
    if prompt.crs is not None:
        raise PromptError("A segmenter takes pixel coordinates.", received=prompt.crs)
    given = {POINTS: prompt.points, BOXES: prompt.boxes, TEXT: prompt.text}
    if unread := [kind for kind, value in given.items() if value and kind not in reads]:
        raise PromptError(
            f"This segmenter does not read {' or '.join(unread)}.",
            received=prompt.describe(),
            hint=f"It reads {', '.join(sorted(reads))}.",
        )
    if len(prompt.boxes) > 1:
        raise PromptError(
            "A segmenter takes one target a prompt.",
            received=f"{len(prompt.boxes)} boxes",
            hint="Use Prompt.objects().",
        )
    for x, y in prompt.points:
        if not (0 <= x <= width and 0 <= y <= height):
            raise PromptError("A point lies outside the image.", received=f"{x:g},{y:g} in {width} x {height} pixels")
    boxes = []
    for x0, y0, x1, y1 in prompt.boxes:
        box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(width)), min(y1, float(height)))
        if box[0] >= box[2] or box[1] >= box[3]:
            raise PromptError(
                "A box lies outside the image.", received=f"{x0:g},{y0:g},{x1:g},{y1:g} in {width} x {height} pixels"
            )
        boxes.append(box)
    return replace(prompt, boxes=tuple(boxes)) if tuple(boxes) != prompt.boxes else prompt
