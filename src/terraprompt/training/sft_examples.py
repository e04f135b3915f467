"""What a reasoner learns from: samples with masks, and answers composed from the masks.

Coordinates are continuous pixels: x right, y down, (0, 0) the outer corner of the first pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.datasets.pack import Record
from terraprompt.datasets.sample import RunLengths, Sample
from terraprompt.datasets.sampling import tight_box
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.geometry.connectivity import label
from terraprompt.language.absence import absent_categories
from terraprompt.language.writer import category_instruction
from terraprompt.prompt import Task
from terraprompt.training.rendered import RENDERED, RenderedScene
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units

__all__ = [
    "MemorySample",
    "SftExample",
    "answer_text",
    "instances_of",
    "pack_questions",
    "rounded",
    "scene_questions",
    "sft_examples",
]


@dataclass(frozen=True, slots=True, eq=False)
class MemorySample(Sample):
    """A sample whose image is held in memory: ``pixels`` RGB uint8 (height, width, 3)."""

    pixels: NDArray[np.uint8] = field(default_factory=lambda: np.zeros((0, 0, 3), np.uint8))

    def load_image(self) -> NDArray[np.uint8]:
        """See :class:`~terraprompt.datasets.sample.Sample`."""
        return self.pixels

    @classmethod
    def make(
        cls,
        name: str,
        instructions: tuple[str, ...],
        pixels: NDArray[np.uint8],
        mask: NDArray[np.uint8],
        category: str = "",
    ) -> MemorySample:
        """A sample ``name`` that ``mask`` (height, width) answers, 1 = target."""
        truth = RunLengths.encode(mask)
        return cls(name, Path(), Task.REFERRING, instructions, truth, category=category, pixels=pixels)


@dataclass(frozen=True, slots=True, eq=False)
class SftExample:
    """A question with the words that answer it.

    Attributes:
        image: RGB uint8 (height, width, 3).
        instruction: the question.
        answer: what the reasoner shall say, in its own coordinates.
    """

    image: NDArray[np.uint8]
    instruction: str
    answer: str


def instances_of(
    mask: NDArray[np.generic], *, points: int = 2, least: int = 16, most: int = 16
) -> tuple[Instance, ...]:
    """Connected parts of a mask (8 neighbours) as tight boxes with interior points, the largest part first.

    The first point is the pixel farthest from the edge of the part; each further one is as deep in the part and as far
    from the others as can be had together.

    Args:
        mask: (height, width), not 0 = target.
        points: of each instance; a part of fewer pixels repeats them.
        least: parts of fewer pixels are left out, unless all are that small.
        most: parts that are kept at most.
    """
    labels, count = label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [int(i) for i in np.argsort(-sizes, kind="stable")[:most]]
    kept = [i for i in order if sizes[i] >= least] or order
    return tuple(_instance(labels == i + 1, points) for i in kept)


def _instance(part: NDArray[np.bool_], points: int) -> Instance:
    box = tight_box(part)
    x0, y0, x1, y1 = (int(v) for v in box)
    inside = np.pad(part[y0:y1, x0:x1], 1)
    depth = ndimage.distance_transform_edt(inside)
    spots: list[tuple[float, float]] = []
    away = np.full(inside.shape, np.inf)
    rows, columns = np.indices(inside.shape)
    for _ in range(points):
        score = np.where(inside, np.minimum(depth, away / 2), -1.0)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        spots.append((x0 + float(column) - 0.5, y0 + float(row) - 0.5))
        away = np.minimum(away, np.hypot(rows - row, columns - column))
    return Instance(box, tuple(spots))


def answer_text(instances: Sequence[Instance], think: str) -> str:
    """The tagged form that the format rewards accept; numbers without needless decimals."""
    items = [
        {
            **({} if v.box is None else {"bbox_2d": [_short(n) for n in v.box]}),
            "positive_points": [
                [_short(x), _short(y)] for (x, y), label in zip(v.points, v.labels, strict=True) if label
            ],
        }
        for v in instances
    ]
    return f"<think>{think}</think><answer>```json\n{json.dumps(items)}\n```</answer>"


def sft_examples(
    samples: Sequence[Sample], convention: Convention, *, points: int = 2, step: float | None = None, seed: int = 0
) -> list[SftExample]:
    """Compose an example from each sample: boxes and interior points of its mask, a short thought, one wording.

    Args:
        samples: with masks; one without target teaches the empty list.
        convention: the reasoner's.
        points: of each instance.
        step: coordinates are rounded to multiples of this; None = 1, of fractions 0.001.
        seed: draws the wording.
    """
    rng = np.random.default_rng(seed)
    step = step or (0.001 if convention.units is Units.UNIT else 1.0)
    made = []
    for sample in samples:
        image, mask = sample.load_image(), sample.load_mask()
        found = convention.from_source(instances_of(mask, points=points), mask.shape[:2])
        text = answer_text([rounded(v, step) for v in found], _thought(len(found)))
        made.append(SftExample(image, sample.instructions[int(rng.integers(len(sample.instructions)))], text))
    return made


def rounded(instance: Instance, step: float) -> Instance:
    """The instance with all coordinates at multiples of ``step``."""
    if step <= 0:
        raise ConfigError("A step of coordinates is above 0.", received=step)
    box = None
    if instance.box is not None:
        x0, y0, x1, y1 = (round(v / step) * step for v in instance.box)
        box = (x0, y0, x1, y1)
    points = tuple((round(x / step) * step, round(y / step) * step) for x, y in instance.points)
    return Instance(box, points, instance.labels, instance.name)


def pack_questions(records: Sequence[Record], *, seed: int = 0, wordings: int = 4, absent: bool = True) -> list[Sample]:
    """Questions about the mask-labelled images of a pack: every category in words of name and of purpose.

    Args:
        records: those with boxes or centre lines only are passed over; they have no masks.
        seed: of the wordings.
        wordings: of each kind a question.
        absent: also ask for one category an image that is not in it.

    Raises:
        DatasetError: no record has masks.
    """
    rng = np.random.default_rng(seed)
    made: list[Sample] = []

    def add(record: Record, category: str, mask: NDArray[np.uint8]) -> None:
        words = _wordings(category, wordings, rng)
        name, truth = f"{record.id}/{category}", RunLengths.encode(mask)
        made.append(Sample(name, record.image, Task.REFERRING, words, truth, category=category, source=record.source))

    for record in records:
        if record.label_kind != "mask":
            continue
        for category in record.present:
            add(record, category, record.load_mask(category))
        missing = absent_categories(record)
        if absent and missing:
            category = missing[int(rng.integers(len(missing)))].category
            add(record, category, np.zeros((record.height, record.width), np.uint8))
    if not made:
        raise DatasetError("There is nothing to train on: no record has masks.", received=f"{len(records)} records")
    return made


def scene_questions(
    scenes: Iterable[RenderedScene], categories: Sequence[str] = RENDERED, *, seed: int = 0, wordings: int = 4
) -> list[Sample]:
    """Questions about rendered scenes: each of the categories that is visible in a scene."""
    rng = np.random.default_rng(seed)
    made: list[Sample] = []
    for scene in scenes:
        for category in categories:
            mask = scene.mask(category)
            if mask.any():
                name = f"rendered/{scene.style}/{scene.seed}/{category}"
                made.append(MemorySample.make(name, _wordings(category, wordings, rng), scene.rgb, mask, category))
    return made


def _wordings(category: str, count: int, rng: np.random.Generator) -> tuple[str, ...]:
    tasks = (Task.REFERRING, Task.REASONING)
    drawn = [category_instruction(category, rng, task=tasks[i % 2]) for i in range(2 * count)]
    return tuple(dict.fromkeys(drawn))


def _thought(count: int) -> str:
    if not count:
        return "Nothing in the image fulfils the task."
    return "One region fulfils the task." if count == 1 else f"{count} regions fulfil the task."


def _short(value: float) -> int | float:
    kept = float(f"{value:.4g}")
    return int(kept) if kept.is_integer() else kept
