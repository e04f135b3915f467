"""Samples of the causal members: number ``i`` depends on the seed and ``i`` alone, its task on ``i / total``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor
from torch.utils.data import Dataset
from transformers import PreTrainedTokenizerFast

from terraprompt.engines.dialogue import DialogueWriter
from terraprompt.errors import DatasetError
from terraprompt.language.interactive import interactive_instruction
from terraprompt.models.unigeoseg import Dialogue
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Task
from terraprompt.training.crops import Crop, CropRecipe, TrainingExample, make_crop, single_crop
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.schedule import TaskSchedule

__all__ = [
    "CropProvider",
    "CropSource",
    "DialogueBatch",
    "TaskStream",
    "byte_tokenizer",
    "collate",
    "reply_ids",
]

_HEARD = " [/INST]"
_REPLY = " Sure, It is "
_BEFORE_ANSWER = ". \n"
_AFTER_ANSWER = ". "
_END = "<|endoftext|>"
#: Cuts of images until one holds what a task needs.
_TRIES = 64


class CropProvider(Protocol):
    """Whatever gives crops of a task, each with one example."""

    def draw(self, task: Task, rng: np.random.Generator) -> Crop:
        """A crop of ``task``, chosen by ``rng`` alone."""
        ...


class CropSource:
    """Augmented crops of mask-labelled images, one instruction each; images of which only boxes are known are left out.

    Args:
        images: the labelled images.
        shares: probability per source.
        recipe: how crops are cut; ``size`` is the model's.
    """

    def __init__(self, images: Sequence[LabeledImage], shares: Mapping[str, float], recipe: CropRecipe) -> None:
        masks = [g for g in images if not g.weak and shares.get(g.source, 0) > 0]
        objects = [g for g in masks if g.present and not g.centreline]
        self.recipe = recipe
        self.pools = {task: objects if task is Task.INTERACTIVE else masks for task in Task}
        self.weights = {task: _weights(pool, shares) for task, pool in self.pools.items()}
        if not masks:
            raise DatasetError(
                "There is nothing to train on.", received=f"{len(images)} images, none with masks and a share"
            )

    def draw(self, task: Task, rng: np.random.Generator) -> Crop:
        """A crop with an instruction of ``task``."""
        pool = self.pools[task]
        for _ in range(_TRIES if pool else 0):
            labeled = pool[int(rng.choice(len(pool), p=self.weights[task]))]
            crop = make_crop(labeled, task, 1.0 if task is Task.REASONING else 0.0, self.recipe, rng)
            items = [item for item in crop.items if item.task is task]
            if items:
                item = items[int(rng.integers(len(items)))]
                example = replace(item, text=_spoken(item, rng), answer=_answer(item))
                return single_crop(crop.image, example, crop.source)
        raise DatasetError(
            "The images hold nothing that this task can ask for.",
            received=f"{task.value}, {len(pool)} images",
            hint="Give images with objects, or a schedule without this task.",
        )


def _weights(pool: Sequence[LabeledImage], shares: Mapping[str, float]) -> NDArray[np.float64]:
    count: dict[str, int] = {}
    for labeled in pool:
        count[labeled.source] = count.get(labeled.source, 0) + 1
    weights = np.array([shares[g.source] / count[g.source] for g in pool])
    scaled: NDArray[np.float64] = weights / weights.sum() if len(weights) else weights
    return scaled


def _spoken(item: TrainingExample, rng: np.random.Generator) -> str:
    """The text; of points and boxes with their coordinates, as the released weights were trained."""
    rows = [[float(v) for v in row] for row in item.coordinates if row.any()]
    if item.task is not Task.INTERACTIVE or not rows:
        return item.text
    if any(rows[0][2:]):
        return interactive_instruction(boxes=np.clip(rows, 0, 1).tolist())
    return interactive_instruction(points=[row[:2] for row in np.clip(rows, 0, 1).tolist()])


def _answer(item: TrainingExample) -> str:
    """An answer for crops, which bring none: whether there is anything."""
    if item.presence == 0:
        return "nothing in this image"
    return "the object at that place" if item.task is Task.INTERACTIVE else "the marked area"


class TaskStream(Dataset[tuple[int, Crop]]):
    """Sample ``i`` of a training of ``total`` samples; its task follows the schedule at ``i / total``."""

    def __init__(self, source: CropProvider, schedule: TaskSchedule, seed: int, total: int) -> None:
        self.source, self.schedule, self.seed, self.total = source, schedule, seed, total

    def __len__(self) -> int:
        return self.total

    def __getitem__(self, index: int) -> tuple[int, Crop]:
        rng = np.random.default_rng([self.seed, index])
        return index, self.source.draw(self.schedule.draw(index / self.total, rng), rng)


@dataclass(frozen=True, slots=True)
class DialogueBatch:
    """B samples.

    Attributes:
        index: int64 (B,), their places in the stream.
        images: uint8 (B, 3, S, S).
        dialogue: with labels.
        target: uint8 (B, S, S).
        known: uint8 (B, S, S) or None when all is known.
    """

    index: Tensor
    images: Tensor
    dialogue: Dialogue
    target: Tensor
    known: Tensor | None

    def to(self, device: torch.device | str) -> DialogueBatch:
        """The same on another device."""
        known = None if self.known is None else self.known.to(device, non_blocking=True)
        images, target = (x.to(device, non_blocking=True) for x in (self.images, self.target))
        return replace(self, images=images, dialogue=self.dialogue.to(device), target=target, known=known)

    @property
    def words(self) -> int:
        """Tokens that are learned."""
        labels = self.dialogue.labels
        return 0 if labels is None else int((labels[:, 1:] != -100).sum())


def _ids(writer: DialogueWriter, text: str) -> list[int]:
    found: list[int] = writer.tokenizer(text, add_special_tokens=False)["input_ids"]
    return found


def reply_ids(writer: DialogueWriter, answer: str) -> list[int]:
    """Ids of all that follows the instruction: the end of the user's turn, then what is learned."""
    said = (_HEARD, _REPLY, _BEFORE_ANSWER, answer)
    before = [i for text in said for i in _ids(writer, text)]
    end = _ids(writer, _AFTER_ANSWER) + _ids(writer, writer.tokenizer.eos_token or _END)
    return [*before, writer.seg, *end]


def collate(writer: DialogueWriter, samples: Sequence[tuple[int, Crop]]) -> DialogueBatch:
    """Write dialogues with their answers, and stack.

    After the instruction: `` [/INST] Sure, It is . \\n{answer}[SEG]. <|endoftext|>``; everything behind ``[/INST]`` is
    learned (spec 4; the placeholder of the mask leaves no token).
    """

    heard = _ids(writer, _HEARD)
    examples = [crop.items[0] for _, crop in samples]
    asked = [writer.instruction(s.text) for s in examples]
    told = [reply_ids(writer, s.answer)[len(heard) :] for s in examples]
    longest = max(len(a) + len(heard) + len(t) for a, t in zip(asked, told, strict=True))
    count = len(samples)
    tokens = torch.full((count, longest), writer.seg)
    labels = torch.full((count, longest), -100)
    refer = torch.zeros(count, longest, dtype=torch.bool)
    for i, (a, t) in enumerate(zip(asked, told, strict=True)):
        whole, start = [*a, *heard, *t], len(a) + len(heard)
        tokens[i, : len(whole)] = torch.tensor(whole)
        labels[i, start : len(whole)] = torch.tensor(t)
        refer[i, : len(a)] = True
    known = None
    if any(s.known is not None for s in examples):
        masks = [np.ones_like(s.target) if s.known is None else s.known for s in examples]
        known = torch.from_numpy(np.stack(masks))
    dialogue = Dialogue(
        writer.prefix,
        writer.template,
        tokens,
        refer,
        torch.tensor([TASK_INDEX[s.task] for s in examples]),
        torch.from_numpy(np.stack([s.coordinates for s in examples])),
        torch.arange(count),
        labels,
    )
    return DialogueBatch(
        torch.tensor([i for i, _ in samples]),
        torch.from_numpy(np.stack([crop.image for _, crop in samples])).permute(0, 3, 1, 2).contiguous(),
        dialogue,
        torch.from_numpy(np.stack([s.target for s in examples])),
        known,
    )


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """Bytes as tokens, then [PAD] and [SEG]: 258 in all, for small models that have no tokenizer of their own."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]")
    wrapped.add_tokens(["[SEG]"])
    return wrapped
