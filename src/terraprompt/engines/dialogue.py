"""Prompts as token ids: the sentence round the image and the instruction (spec 4)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer

from terraprompt.errors import CheckpointError
from terraprompt.language.interactive import interactive_instruction
from terraprompt.models.unigeoseg.causal import Dialogue
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Prompt, Task

__all__ = ["SYSTEM", "DialogueWriter"]

#: LLaVA's system sentence for this layout of prompts; a checkpoint trained with another says so by ``system``.
SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual content that the user "
    "provides, and assist the user with a variety of tasks using natural language."
)
_PREFIX = "[INST] <<SYS>>\n{system}\n<</SYS>>\n\nThis is an image "
_TEMPLATE = ", Please doing Reasoning Segmentation according to the following instruction:\n"
_SEG = "[SEG]"
_ROWS = 3


@dataclass(frozen=True, slots=True)
class DialogueWriter:
    """Writes dialogues with a checkpoint's own tokenizer.

    Attributes:
        tokenizer: of transformers.
        seg: id of [SEG], which ends every instruction.
        prefix, template: int64 ids of the constant words before and after the image.
    """

    tokenizer: Any
    seg: int
    prefix: Tensor
    template: Tensor

    @classmethod
    def load(cls, folder: Path, vocabulary: int, *, system: str = SYSTEM) -> DialogueWriter:
        """From the tokenizer's files in ``folder``.

        Raises:
            CheckpointError: there is none, it lacks [SEG], or it is larger than the ``vocabulary`` of the weights.
        """
        try:
            tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            said = str(error).strip().splitlines()[:1]
            raise CheckpointError(
                "The folder of weights holds no usable tokenizer.",
                received=f"{folder}: {said[0] if said else type(error).__name__}",
                hint="Copy tokenizer.json and tokenizer_config.json (or vocab.json and merges.txt) of the release "
                "into it.",
            ) from error
        return cls.of(tokenizer, vocabulary, system=system, where=folder)

    @classmethod
    def of(
        cls, tokenizer: Any, vocabulary: int, *, system: str = SYSTEM, where: Path | str = "tokenizer"
    ) -> DialogueWriter:
        """From a tokenizer of transformers; raises as :meth:`load` does."""
        seg = tokenizer.get_vocab().get(_SEG)
        if seg is None or max(seg, len(tokenizer) - 1) >= vocabulary:
            raise CheckpointError(
                "The tokenizer is not that of these weights.",
                received=f"{where}: {len(tokenizer)} tokens, {_SEG} is {seg}, embeddings for {vocabulary}",
            )

        def ids(text: str) -> Tensor:
            return torch.tensor(tokenizer(text, add_special_tokens=False)["input_ids"], dtype=torch.int64)

        return cls(tokenizer, int(seg), ids(_PREFIX.format(system=system)), ids(_TEMPLATE))

    def instruction(self, text: str) -> list[int]:
        """Ids of an instruction, [SEG] at its end."""
        found: list[int] = self.tokenizer(f" {text}", add_special_tokens=False)["input_ids"]
        return [*found, self.seg]

    def write(self, prompts: Sequence[Prompt], sizes: Sequence[tuple[int, int]], image: Tensor) -> Dialogue:
        """One dialogue of M prompts.

        Args:
            prompts: coordinates in pixels of their image; one target each.
            sizes: (height, width) of the image of each.
            image: int64 (M,), index of the image of each.
        """
        rows = [coordinate_rows(prompt, size) for prompt, size in zip(prompts, sizes, strict=True)]
        ids = [self.instruction(prompt.text or _spoken(prompt, row)) for prompt, row in zip(prompts, rows, strict=True)]
        longest = max(map(len, ids))
        tokens = torch.full((len(ids), longest), self.seg)
        refer = torch.zeros(len(ids), longest, dtype=torch.bool)
        for i, one in enumerate(ids):
            tokens[i, : len(one)] = torch.tensor(one)
            refer[i, : len(one)] = True
        task = torch.tensor([TASK_INDEX[prompt.task] for prompt in prompts])
        return Dialogue(self.prefix, self.template, tokens, refer, task, torch.stack(rows), image)


def coordinate_rows(prompt: Prompt, size: tuple[int, int]) -> Tensor:
    """(3, 4) float32: a box ``x0, y0, x1, y1`` or up to three positive points ``x, y, 0, 0`` in [0, 1] of the image.

    A point in the very corner is moved by 1e-6, because a row of zeros is one that is absent.
    """
    rows = torch.zeros(_ROWS, 4)
    if prompt.task is not Task.INTERACTIVE:
        return rows
    height, width = size
    # in double: a coordinate of a sentence that went to pixels comes back as the float32 that the sentence gives
    scale = torch.tensor([width, height, width, height], dtype=torch.float64)
    if prompt.boxes:
        rows[0] = (torch.tensor(prompt.boxes[0], dtype=torch.float64) / scale).clamp(0, 1)
    else:
        positive = [point for point, label in zip(prompt.points, prompt.labels, strict=True) if label == 1]
        for i, point in enumerate(positive[:_ROWS]):
            rows[i, :2] = (torch.tensor(point, dtype=torch.float64) / scale[:2]).clamp(1e-6, 1)
    return rows


def _spoken(prompt: Prompt, rows: Tensor) -> str:
    """The fixed sentence of points or a box, coordinates included, as the released weights were trained."""
    used = rows[rows.abs().sum(1) > 0].tolist()
    boxes = used if prompt.boxes else []
    points = [] if prompt.boxes else [row[:2] for row in used]
    return interactive_instruction(points=points, boxes=boxes)
