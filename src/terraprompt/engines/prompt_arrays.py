"""Points, boxes and rows of a prompt as the arrays that members of the UniGeoSeg family take."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.language.interactive import spatial_instruction
from terraprompt.prompt import Prompt

__all__ = ["coordinate_rows", "drawn_prompt", "sentence_of"]

_POINTS = 6
_ROWS = 3


def drawn_prompt(prompt: Prompt) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points float32 (1, P, 3), x, y in pixels and label, -1 = absent, and box (1, 4), without area = absent."""
    points = np.zeros((1, max(_POINTS, len(prompt.points)), 3), np.float32)
    points[..., 2] = -1
    for i, ((x, y), label) in enumerate(zip(prompt.points, prompt.labels, strict=True)):
        points[0, i] = x, y, label
    return points, np.array([prompt.boxes[0] if prompt.boxes else (0, 0, 0, 0)], np.float32)


def coordinate_rows(prompt: Prompt, width: int, height: int) -> NDArray[np.float32]:
    """What the sentence's coordinates are: float32 (1, 3, 4) in [0, 1] of the image, a box or up to three points."""
    rows = np.zeros((1, _ROWS, 4), np.float32)
    if prompt.boxes:
        rows[0, 0] = np.array(prompt.boxes[0], np.float32) / np.array([width, height, width, height], np.float32)
    else:
        positive = [p for p, label in zip(prompt.points, prompt.labels, strict=True) if label == 1]
        for i, (x, y) in enumerate(positive[:_ROWS]):
            rows[0, i, :2] = np.array([x, y], np.float32) / np.array([width, height], np.float32)
    return rows


def sentence_of(prompt: Prompt) -> str:
    """The text of a prompt; of points and boxes alone, the sentence that asks for what they mark."""
    return prompt.text or spatial_instruction(np.random.default_rng(0), box=bool(prompt.boxes))
