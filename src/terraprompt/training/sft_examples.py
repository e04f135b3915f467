"""What a reasoner learns from: samples with masks, and answers composed from the masks.

Coordinates are continuous pixels: x right, y down, (0, 0) the outer corner of the first pixel.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, overload

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
from terraprompt.vlm.answer_parser import AnswerRules, Instance
from terraprompt.vlm.conventions import Convention, Units

__all__ = [
    "WORDINGS",
    "MemorySample",
    "SftExample",
    "answer_text",
    "asked_wordings",
    "dataset_questions",
    "instances_of",
    "pack_questions",
    "rounded",
    "scene_questions",
    "sft_examples",
]

#: How a sample with several wordings is asked: each is a prompt of its own (Think2Seg-RS), or one of them is.
WORDINGS = ("each", "one")


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
    mask: NDArray[np.generic],
    *,
    points: int = 2,
    negatives: int = 0,
    boxes: bool = True,
    least: int = 16,
    most: int = 16,
) -> tuple[Instance, ...]:
    """Connected parts of a mask (8 neighbours) as tight boxes with interior points, the largest part first.

    The first point is the pixel farthest from the edge of the part; each further one is as deep in the part and as far
    from the others as can be had together. Negative points are chosen alike, off the mask and near the box.

    Args:
        mask: (height, width), not 0 = target.
        points: of each instance; a part of fewer pixels repeats them.
        negatives: negative points of each instance; none where the mask leaves no pixel near the box.
        boxes: False leaves the boxes out.
        least: parts of fewer pixels are left out, unless all are that small.
        most: parts that are kept at most.
    """
    labels, count = label(mask)
    sizes = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    order = [int(i) for i in np.argsort(-sizes, kind="stable")[:most]]
    kept = [i for i in order if sizes[i] >= least] or order
    empty = np.asarray(mask) == 0
    return tuple(_instance(labels == i + 1, empty, points, negatives, boxes) for i in kept)


def _instance(part: NDArray[np.bool_], empty: NDArray[np.bool_], points: int, negatives: int, boxes: bool) -> Instance:
    box = tight_box(part)
    x0, y0, x1, y1 = (int(v) for v in box)
    spots = _deep_points(part[y0:y1, x0:x1], (x0, y0), points)
    beside: list[tuple[float, float]] = []
    if negatives:
        reach = max(4, round(0.25 * max(x1 - x0, y1 - y0)))
        left, top = max(x0 - reach, 0), max(y0 - reach, 0)
        around = empty[top : y1 + reach, left : x1 + reach]
        beside = _deep_points(around, (left, top), negatives) if around.any() else []
    labels = (1,) * len(spots) + (0,) * len(beside)
    return Instance(box if boxes else None, (*spots, *beside), labels)


def _deep_points(inside: NDArray[np.bool_], corner: tuple[int, int], count: int) -> list[tuple[float, float]]:
    """Centres of ``count`` pixels far from the edge of a region and from each other."""
    inside = np.pad(inside, 1)
    depth = ndimage.distance_transform_edt(inside)
    spots: list[tuple[float, float]] = []
    away = np.full(inside.shape, np.inf)
    rows, columns = np.indices(inside.shape)
    for _ in range(count):
        score = np.where(inside, np.minimum(depth, away / 2), -1.0)
        row, column = np.unravel_index(int(score.argmax()), score.shape)
        spots.append((corner[0] + float(column) - 0.5, corner[1] + float(row) - 0.5))
        away = np.minimum(away, np.hypot(rows - row, columns - column))
    return spots


def answer_text(instances: Sequence[Instance], think: str) -> str:
    """The tagged form that the format rewards accept; numbers without needless decimals."""

    def points(instance: Instance, wanted: int) -> list[list[int | float]]:
        pairs = zip(instance.points, instance.labels, strict=True)
        return [[_short(x), _short(y)] for (x, y), label in pairs if label == wanted]

    items: list[dict[str, Any]] = []
    for v in instances:
        item: dict[str, Any] = {} if v.box is None else {"bbox_2d": [_short(n) for n in v.box]}
        item |= {"positive_points": points(v, 1)} if 1 in v.labels or v.box is None else {}
        items.append(item | ({"negative_points": points(v, 0)} if 0 in v.labels else {}))
    return f"<think>{think}</think><answer>```json\n{json.dumps(items)}\n```</answer>"


class _Composed(Sequence[SftExample]):
    """Examples that are composed when they are asked for: neither images nor masks are held."""

    def __init__(
        self, asked: list[tuple[Sample, str]], convention: Convention, rules: AnswerRules, step: float
    ) -> None:
        self.asked, self.convention, self.rules, self.step = asked, convention, rules, step

    def __len__(self) -> int:
        return len(self.asked)

    @overload
    def __getitem__(self, index: int) -> SftExample: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[SftExample]: ...
    def __getitem__(self, index: int | slice) -> SftExample | Sequence[SftExample]:
        if isinstance(index, slice):
            return _Composed(self.asked[index], self.convention, self.rules, self.step)
        sample, words = self.asked[index]
        image, mask, rules = sample.load_image(), sample.load_mask(), self.rules
        points = 2 if rules.points is None else rules.points
        placed = instances_of(mask, points=points, negatives=rules.negatives, boxes=rules.boxes)
        found = self.convention.from_source(placed, mask.shape[:2])
        return SftExample(image, words, answer_text([rounded(v, self.step) for v in found], _thought(len(found))))


def asked_wordings(samples: Sequence[Sample], wordings: str, seed: int = 0) -> list[tuple[int, int]]:
    """What is asked, as (place of the sample, place of the wording): each wording, or one a sample, drawn by the seed.

    Raises:
        ConfigError: ``wordings`` is neither "each" nor "one".
    """
    if wordings not in WORDINGS:
        raise ConfigError("Unknown choice of wordings.", received=wordings, hint=f"Known: {', '.join(WORDINGS)}.")
    if wordings == "each":
        return [(i, w) for i, sample in enumerate(samples) for w in range(len(sample.instructions))]
    rng = np.random.default_rng(seed)
    return [(i, int(rng.integers(len(sample.instructions)))) for i, sample in enumerate(samples)]


def sft_examples(
    samples: Sequence[Sample],
    convention: Convention,
    *,
    rules: AnswerRules | None = None,
    wordings: str = "one",
    step: float | None = None,
    seed: int = 0,
) -> Sequence[SftExample]:
    """Compose examples from samples: boxes and points of the mask, a short thought, the wording.

    Args:
        samples: with masks; one without target teaches the empty list.
        convention: the reasoner's.
        rules: what an item holds; None = a box and two interior points.
        wordings: "one" of a sample, drawn by the seed, or "each".
        step: coordinates are rounded to multiples of this; None = 1, of fractions 0.001.
        seed: draws the wording.
    """
    step = step or (0.001 if convention.units is Units.UNIT else 1.0)
    asked = [(samples[i], samples[i].instructions[w]) for i, w in asked_wordings(samples, wordings, seed)]
    return _Composed(asked, convention, rules or AnswerRules(), step)


def dataset_questions(samples: Iterable[Sample]) -> list[Sample]:
    """The samples of a data set that ask in words and have a mask; no pixels are read.

    Raises:
        DatasetError: there are none.
    """
    found = [s for s in samples if s.instructions and s.truth is not None and s.task is not Task.INTERACTIVE]
    if not found:
        raise DatasetError(
            "There is nothing to train on: no question in words has a mask.", hint="Choose another split or data set."
        )
    return found


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
