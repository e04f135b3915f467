"""Our own models as segmenters: an engine's interactive branch, and its text branch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import EngineError
from terraprompt.prompt import Prompt, Task
from terraprompt.segmenters.base import (
    BOXES,
    POINTS,
    TEXT,
    SegmenterAnswer,
    SegmenterEmbedding,
    SegmenterInfo,
    checked_image,
    checked_prompt,
)

__all__ = ["UniGeoSegSegmenter"]


class _Answering(Protocol):
    """The part of :class:`terraprompt.engines.base.Engine` that is used; engines build on models, not the reverse."""

    info: Any
    tasks: frozenset[Task]

    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Any]: ...

    def predict(self, embeddings: Sequence[Any], prompts: Sequence[Prompt]) -> list[Any]: ...


class UniGeoSegSegmenter:
    """An engine of terraprompt that draws what points, a box or a text mean, e.g. "nano".

    Args:
        engine: loaded; must take interactive prompts.

    Raises:
        EngineError: it takes none.
    """

    def __init__(self, engine: _Answering) -> None:
        if Task.INTERACTIVE not in engine.tasks:
            raise EngineError(
                "This engine takes no points and boxes, so it cannot segment for another.",
                received=engine.info.name,
                hint="Take nano, or one of the SAM family.",
            )
        self.engine = engine
        info = engine.info
        self.info = SegmenterInfo(info.name, info.revision, info.checksum, dict(info.settings))
        texts = {TEXT} if engine.tasks - {Task.INTERACTIVE} else set()
        self.reads = frozenset({POINTS, BOXES} | texts)

    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmenterEmbedding]:
        """Encode RGB uint8 images (H, W, 3) of any size."""
        found = self.engine.encode([checked_image(image) for image in images])
        return [SegmenterEmbedding(e.size, e, e.nbytes) for e in found]

    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        """Answer prompts of points, a box, a text, or a text with points or a box."""
        checked = [checked_prompt(prompt, embedding.size, self.reads) for prompt in prompts]
        found = self.engine.predict([embedding.data] * len(checked), checked)
        return [SegmenterAnswer(a.logits, _certainty(a.logits), a.presence) for a in found]


def _certainty(logits: NDArray[np.float32]) -> float:
    """Mean probability inside the mask; 0 for an empty one."""
    inside = logits[logits > 0].astype(np.float64)
    return float((1 / (1 + np.exp(-inside))).mean()) if inside.size else 0.0
