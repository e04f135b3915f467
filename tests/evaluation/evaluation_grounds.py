"""A small data set on disk, and loaders of engines whose answers are known."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from flow_engines import BoxFilterEngine
from terraprompt.datasets.registry import Dataset
from terraprompt.datasets.sample import MaskFile, Sample
from terraprompt.engines.base import Answer, Embedding
from terraprompt.prompt import Prompt, Task

HOSTILE = '<script>alert("x")</script> & "quotes" | pipe'


class Bright(BoxFilterEngine):
    """Everything bright is the target, whatever is asked; some words make it answer otherwise."""

    name = "bright"

    def __init__(self, *, slow: float = 0.0, slack: int = 0, down: bool = False) -> None:
        super().__init__(128, 32, radius=0, revision=str(slack))
        self.slow, self.slack, self.down = slow, slack, down

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        time.sleep(self.slow)
        self.asked += prompts
        return [self._one(e.data, p) for e, p in zip(embeddings, prompts, strict=True)]

    def _one(self, image: np.ndarray, prompt: Prompt) -> Answer:
        text = prompt.text or ""
        if self.down or "break" in text:
            raise RuntimeError(HOSTILE)
        if "die" in text:
            os._exit(9)
        logits = np.where(image.mean(-1) > 128, 8, -8).astype(np.float32)
        logits[:, : self.slack] = -8
        if "nothing" in text:
            logits[:] = -8
        return Answer(logits, notes={"reasoning": f"it is bright: {text}", "boxes": np.array([[4.0, 4, 20, 20]])})


@dataclass(frozen=True)
class BrightLoader:
    """Loads :class:`Bright` in any process."""

    slow: float = 0.0
    slack: int = 0
    down: bool = False

    def load(self) -> Bright:
        """A fresh engine."""
        return Bright(slow=self.slow, slack=self.slack, down=self.down)


def make_dataset(folder: Path, images: int = 4, *, texts: Sequence[str] = ("the roofs", "what is bright")) -> Dataset:
    """``images`` pictures with two roofs; two texts and a box each, and one sample about something absent."""
    folder.mkdir(parents=True, exist_ok=True)
    samples: list[Sample] = []
    for i in range(images):
        truth = np.zeros((64, 96), np.uint8)
        truth[8:24, 8 : 30 + 4 * i] = 1
        truth[40:50, 60:80] = 1
        image, mask, none = (folder / f"{i}{part}.png" for part in ("", "_mask", "_none"))
        Image.fromarray(np.where(truth[..., None], 240, 15).astype(np.uint8).repeat(3, 2)).save(image)
        Image.fromarray(truth * 255).save(mask)
        Image.fromarray(truth * 0).save(none)
        for k, text in enumerate(texts):
            samples.append(
                Sample(f"{i}/text-{k}", image, Task.REFERRING, (text,), MaskFile(mask), category="roof", level="easy",
                       split="test", source="made")
            )  # fmt: skip
        samples.append(
            Sample(f"{i}/box", image, Task.INTERACTIVE, (), MaskFile(mask), boxes=((8.0, 8, 30 + 4 * i, 24),),
                   category="roof", split="test", source="made")
        )  # fmt: skip
        samples.append(
            Sample(f"{i}/absent", image, Task.REFERRING, ("nothing here",), MaskFile(none), category="lake",
                   split="test", source="made")
        )  # fmt: skip
    # images are not neighbours in every data set
    return Dataset("made", "test", tuple(samples[::2] + samples[1::2]))
