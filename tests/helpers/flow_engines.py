"""Engines without weights, for tests of the flow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.prompt import Prompt, Task


class BoxFilterEngine:
    """Target where the mean of the 15 x 15 pixels around is bright: purely local, receptive radius 7.

    Args:
        presence: told for a tile image.
        spoil: changes the logits before they are returned.
    """

    name = "boxfilter"
    tasks = frozenset(Task)

    def __init__(
        self,
        size: int = 96,
        overlap: int = 32,
        *,
        radius: int = 7,
        revision: str = "1",
        presence: Callable[[np.ndarray], float | None] = lambda image: None,
        spoil: Callable[[np.ndarray], Any] = lambda logits: logits,
    ) -> None:
        self.info = ModelInfo("boxfilter", revision, "0" * 64, {"radius": radius})
        self.tile = TileSpec(size, overlap, 1, 3)
        self.radius, self.presence, self.spoil = radius, presence, spoil
        self.encoded: list[tuple[int, int]] = []
        self.asked: list[Prompt] = []

    def logits(self, image: np.ndarray) -> np.ndarray:
        """float32 (h, w)."""
        grey = image.astype(np.float32).mean(axis=-1)
        return ndimage.uniform_filter(grey, 2 * self.radius + 1, mode="constant") / 16 - 8

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        self.encoded += [image.shape[:2] for image in images]
        return [Embedding(image.shape[:2], image, image.nbytes) for image in images]

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        assert len(embeddings) == len(prompts)
        self.asked += prompts
        return [Answer(self.spoil(self.logits(e.data)), self.presence(e.data)) for e in embeddings]

    def pack(self, embedding: Embedding) -> dict[str, np.ndarray]:
        return {"image": embedding.data}

    def unpack(self, size: tuple[int, int], arrays: dict[str, np.ndarray]) -> Embedding:
        return Embedding(size, arrays["image"], arrays["image"].nbytes)


class PointedEngine(BoxFilterEngine):
    """Target: the bright regions under the positive points, or those that a box holds; no filter."""

    name = "pointed"

    def __init__(self, size: int = 96, overlap: int = 32) -> None:
        super().__init__(size, overlap, radius=0)

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        self.asked += prompts
        return [Answer(self._regions(e.data, p)) for e, p in zip(embeddings, prompts, strict=True)]

    def _regions(self, image: np.ndarray, prompt: Prompt) -> np.ndarray:
        logits = self.logits(image)
        labels, _ = ndimage.label(logits > 0)
        wanted = {
            labels[min(int(y), len(labels) - 1), min(int(x), labels.shape[1] - 1)]
            for (x, y), label in zip(prompt.points, prompt.labels, strict=True)
            if label
        }
        for x0, y0, x1, y1 in prompt.boxes:
            wanted |= set(np.unique(labels[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))]))
        return np.where(np.isin(labels, sorted(wanted - {0})), logits, np.minimum(logits, -4)).astype(np.float32)
