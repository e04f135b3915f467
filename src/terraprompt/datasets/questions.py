"""What is asked about an image of the pack: one place that writes the questions, with their truths.

Whoever asks them (a run over the pack, a data set of samples) gets the same sentences, objects, boxes and points for
the same plan.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.datasets.pack import Record
from terraprompt.datasets.sampling import tight_box
from terraprompt.geometry.connectivity import label
from terraprompt.geometry.interior import interior_distance
from terraprompt.geometry.types import Box
from terraprompt.language.absence import absent_categories
from terraprompt.language.object_geometry import clear_selectors, components
from terraprompt.language.writer import category_instruction, selector_instruction
from terraprompt.prompt import Prompt, Task

__all__ = ["Kind", "Plan", "Question", "middle", "questions"]

Kind = Literal["text", "box", "point", "selector", "weak text", "absent"]


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of each image.

    Attributes:
        texts: sentences per category, task and wording (trained, held-back).
        objects: most objects per image that are prompted with a box and with a point.
        least: objects with a side below this many pixels are left out of box and point prompts.
        selections: sentences with words of size or place per image.
        absences: sentences about absent categories per image and kind.
        seed: of wording and choice; with the record's id it fixes everything.
    """

    texts: int = 2
    objects: int = 8
    least: int = 6
    selections: int = 2
    absences: int = 2
    seed: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Question:
    """One question about one image.

    Attributes:
        category: what is asked for.
        kind: "text" (all of a category), "box" and "point" (one object), "selector" (words of size or place), "absent"
            (a category that is not there), "weak text" (all of a category that is labelled with boxes).
        task: of the instruction.
        wording: "trained" or "held back"; of an absent category "verified" or "assumed"; "" without words.
        text: the sentence, or None for a box or a point.
        truth: uint8 (height, width), 1 = target; for "weak text" the filled boxes.
        points, boxes: the prompt, in pixels.
        marked: for "weak text": the labelled boxes, rounded to pixels, int (n, 4).
    """

    category: str
    kind: Kind
    task: Task
    wording: str
    text: str | None
    truth: NDArray[np.uint8]
    points: tuple[tuple[float, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    marked: NDArray[np.int_] | None = None

    def prompt(self) -> Prompt:
        """The question as an engine takes it; the task of a selector is left to the flow."""
        task = None if self.kind == "selector" or self.text is None else self.task
        return Prompt(self.text, points=self.points, boxes=self.boxes, task_override=task)


def questions(record: Record, plan: Plan) -> Iterator[Question]:
    """All questions about one image, in a fixed order.

    Mask-labelled images: texts in trained and held-back wording, boxes and points on single objects, words of size and
    place. Box-labelled ones: texts. All: absent categories. Buffered centre lines are no truth and not asked for.

    Raises:
        DatasetError: a mask is missing or damaged.
        ConfigError: a labelled category that no instruction can be written for.
    """
    digest = hashlib.sha256(f"{plan.seed}/{record.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    for category in record.labelled:
        if record.label_kind == "mask":
            yield from _about_mask(record, category, plan, rng)
        elif record.label_kind == "box" and category in record.present:
            yield from _about_boxes(record, category, plan, rng)
    yield from _about_absence(record, plan, rng)


def _sentences(category: str, plan: Plan, rng: np.random.Generator) -> Iterator[tuple[Task, str, str]]:
    for task in (Task.REFERRING, Task.REASONING):
        for wording in ("trained", "held back"):
            for _ in range(plan.texts):
                yield task, wording, category_instruction(category, rng, task=task, held_out=wording == "held back")


def _about_mask(record: Record, category: str, plan: Plan, rng: np.random.Generator) -> Iterator[Question]:
    truth = record.load_mask(category)
    for task, wording, text in _sentences(category, plan, rng):
        yield Question(category, "text", task, wording, text, truth)
    if not truth.any():
        return
    for part in _objects(truth, plan, rng):
        yield Question(category, "box", Task.INTERACTIVE, "", None, part, boxes=(tight_box(part),))
        yield Question(category, "point", Task.INTERACTIVE, "", None, part, points=(middle(part),))
    found = components(truth)
    selectors = clear_selectors(found)
    for _ in range(min(plan.selections, len(selectors))):
        chosen = selectors[int(rng.integers(len(selectors)))]
        kept = chosen.select(found.items, truth.shape[1], truth.shape[0])
        for wording in ("trained", "held back"):
            text = selector_instruction(chosen, category, rng, selected=len(kept), held_out=wording == "held back")
            yield Question(category, "selector", Task.REFERRING, wording, text, found.mask(kept))


def _objects(truth: NDArray[np.uint8], plan: Plan, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    labels, _ = label(truth)
    slices: Sequence[tuple[slice, slice]] = ndimage.find_objects(labels)
    big = [i for i, (ys, xs) in enumerate(slices) if min(ys.stop - ys.start, xs.stop - xs.start) >= plan.least]
    for i in sorted(rng.permutation(big)[: plan.objects].tolist()):
        yield (labels == i + 1).astype(np.uint8)


def middle(part: NDArray[np.uint8]) -> tuple[float, float]:
    """Centre (x, y) of the pixel of a mask (height, width) farthest from its outline: where a careful person clicks."""
    depth = interior_distance(part)
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _about_boxes(record: Record, category: str, plan: Plan, rng: np.random.Generator) -> Iterator[Question]:
    boxes = record.boxes(category).round().astype(int).clip(0)  # a negative start would count from the end
    filled = np.zeros((record.height, record.width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        filled[y0:y1, x0:x1] = 1
    for task, wording, text in _sentences(category, plan, rng):
        yield Question(category, "weak text", task, wording, text, filled, marked=boxes)


def _about_absence(record: Record, plan: Plan, rng: np.random.Generator) -> Iterator[Question]:
    nothing = np.zeros((record.height, record.width), np.uint8)
    every = absent_categories(record)
    for kind in ("verified", "assumed"):
        names = [a.category for a in every if a.kind == kind]
        for name in sorted(rng.permutation(names)[: plan.absences].tolist()):
            yield Question(name, "absent", Task.REFERRING, kind, category_instruction(name, rng), nothing)
