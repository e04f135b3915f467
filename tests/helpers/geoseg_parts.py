"""Segmenters and similarity maps without weights, and answers in the words that GeoSeg asks for."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from scipy import ndimage

from terraprompt.prompt import Prompt
from terraprompt.segmenters import SegmenterAnswer, SegmenterEmbedding, SegmenterInfo

__all__ = ["BrightMap", "BrightSegmenter", "MapOf", "item", "listed", "official", "scene_of"]

Drawn = Callable[[np.ndarray, Prompt], np.ndarray]


def item(box: Sequence[float], label: str = "bright roof") -> dict[str, Any]:
    return {"bbox_2d": list(box), "label": label}


def listed(*items: Any) -> str:
    return f"```json\n{json.dumps(items)}\n```"


def official(box: Sequence[float], phrase: str = "bright roof") -> str:
    return json.dumps({"bbox": list(box), "prompt": phrase})


def scene_of(height: int, width: int, *boxes: tuple[int, int, int, int]) -> np.ndarray:
    """Dark, uint8 (H, W, 3), with bright boxes."""
    image = np.full((height, width, 3), 20, np.uint8)
    for x0, y0, x1, y1 in boxes:
        image[y0:y1, x0:x1] = 240
    return image


def bright(image: np.ndarray, prompt: Prompt) -> np.ndarray:
    """By a text everything bright, by points the bright regions under them."""
    mask = image[..., 0] > 120
    if prompt.text is not None:
        return mask
    labels, _ = ndimage.label(mask)
    at = [labels[min(int(y), mask.shape[0] - 1), min(int(x), mask.shape[1] - 1)] for x, y in prompt.points]
    return np.isin(labels, [label for label in at if label])


class BrightSegmenter:
    """Draws what is bright, or whatever it is told to.

    Attributes:
        embedded: shapes of the images.
        asked: prompts, with the shape of their image.
    """

    reads = frozenset({"points", "boxes", "text"})

    def __init__(
        self,
        *,
        text: Drawn = bright,
        points: Drawn = bright,
        text_score: float = 0.8,
        points_score: float = 0.9,
        presence: float | None = None,
        reads: Sequence[str] = ("points", "boxes", "text"),
        before: Callable[[], None] = lambda: None,
    ) -> None:
        self.info = SegmenterInfo("bright", "1", "0" * 64, {})
        self.reads = frozenset(reads)
        self.text, self.points, self.presence = text, points, presence
        self.scores, self.before = (text_score, points_score), before
        self.embedded: list[tuple[int, ...]] = []
        self.asked: list[tuple[tuple[int, ...], Prompt]] = []

    def embed(self, images: Sequence[np.ndarray]) -> list[SegmenterEmbedding]:
        self.embedded += [image.shape[:2] for image in images]
        return [SegmenterEmbedding(image.shape[:2], image, image.nbytes) for image in images]

    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        out = []
        for prompt in prompts:
            self.before()
            self.asked.append((embedding.size, prompt))
            by_text = prompt.text is not None
            mask = (self.text if by_text else self.points)(embedding.data, prompt)
            score = self.scores[not by_text]
            logits = np.where(mask, 1.0, -1.0).astype(np.float32) * np.log(score / (1 - score)).astype(np.float32)
            out.append(SegmenterAnswer(logits, score, self.presence if by_text else None))
        return out


class MapOf:
    """A similarity map from a function of the image."""

    name, calls = "made", 1

    def __init__(self, made: Callable[[np.ndarray], np.ndarray]) -> None:
        self.settings: dict[str, Any] = {"kind": "made"}
        self.made = made
        self.seen: list[tuple[tuple[int, ...], str]] = []

    def map(self, image: np.ndarray, phrase: str) -> np.ndarray:
        self.seen.append((image.shape[:2], phrase))
        return self.made(image).astype(np.float32)


def BrightMap() -> MapOf:  # noqa: N802
    """As similar as it is bright."""
    return MapOf(lambda image: image[..., 0])
