"""Where in a picture something like a phrase is: the source of the clicks of GeoSeg's Route A.

Two sources: CLIP Surgery, as in the paper, which needs public weights; and the text branch of a segmenter, for work
offline. The second is no second opinion: it is the same network that Route B asks, looked at coarsely.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from terraprompt.errors import EngineError
from terraprompt.models.clip_surgery import ClipSurgery
from terraprompt.prompt import Prompt
from terraprompt.segmenters.base import TEXT, PromptableSegmenter

__all__ = ["ClipSimilarity", "Similarity", "TextSimilarity"]

_CELLS = 32  # a side: as many as CLIP ViT-B/16 sees of 512 pixels


@runtime_checkable
class Similarity(Protocol):
    """Says how like a phrase each part of a picture is.

    Attributes:
        name: of the weights, for outputs.
        settings: anything that changes the map, as JSON values.
        calls: passes of a model that one map takes.
    """

    name: str
    settings: dict[str, Any]
    calls: int

    def map(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.float32]:
        """Raw similarity, float32 (h, w), any range, at any resolution up to the image's.

        Args:
            image: RGB uint8 (H, W, 3), from 1 x 1.
            phrase: a noun phrase.
        """
        ...


class ClipSimilarity:
    """CLIP Surgery (arXiv 2304.05653), as in the paper.

    Args:
        surgery: loaded.
        name: of its weights.
        size: side that pictures are stretched to; 512 with patches of 16 gives maps of 32 x 32.
    """

    calls = 1

    def __init__(self, surgery: ClipSurgery, name: str, *, size: int = 512) -> None:
        self.surgery, self.name, self.size = surgery, name, size
        self.settings = {
            "kind": "clip_surgery",
            "size": size,
            "layers": surgery.layers,
            "templates": len(surgery.templates),
        }

    def map(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.float32]:
        """See :meth:`Similarity.map`."""
        found: NDArray[np.float32] = self.surgery.similarity([image], [phrase], size=self.size)[0, 0]
        return found


class TextSimilarity:
    """The logits of a segmenter's text branch on the picture, averaged to at most 32 x 32 cells.

    Args:
        segmenter: reads texts; "nano" works offline.

    Raises:
        EngineError: it reads no texts.
    """

    calls = 2  # it sees, and it answers

    def __init__(self, segmenter: PromptableSegmenter) -> None:
        if TEXT not in segmenter.reads:
            raise EngineError(
                "This segmenter reads no texts, so it cannot say where a phrase is.",
                received=segmenter.info.name,
                hint="Take nano or sam3, or CLIP Surgery: --similarity openai/clip-vit-base-patch16.",
            )
        self.segmenter = segmenter
        self.name = segmenter.info.name
        self.settings = {"kind": "text_branch", "cells": _CELLS}

    def map(self, image: NDArray[np.uint8], phrase: str) -> NDArray[np.float32]:
        """See :meth:`Similarity.map`."""
        [embedding] = self.segmenter.embed([image])
        [answer] = self.segmenter.predict(embedding, [Prompt(phrase)])
        return self.of(answer.logits)

    def of(self, answered: NDArray[np.float32]) -> NDArray[np.float32]:
        """The map of logits (H, W) that this segmenter has given already about the picture."""
        logits = torch.from_numpy(np.ascontiguousarray(answered, np.float32))[None, None]
        size = (min(logits.shape[2], _CELLS), min(logits.shape[3], _CELLS))
        cells: NDArray[np.float32] = F.adaptive_avg_pool2d(logits, size)[0, 0].numpy()
        return cells
