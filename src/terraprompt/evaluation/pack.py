"""Asks an engine about every labelled image of a pack, as a user would, and keeps what overlapped."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.datasets.pack import Record
from terraprompt.datasets.sampling import tight_box
from terraprompt.engines.base import Engine
from terraprompt.evaluation.metrics import Overlap
from terraprompt.instructions.geometry import clear_selectors, components
from terraprompt.instructions.writer import absent_categories, category_instruction, selector_instruction
from terraprompt.pipeline import Session
from terraprompt.prompt import Prompt, Task
from terraprompt.scene import open_scene

__all__ = ["Plan", "Row", "ask_record"]

_EIGHT = np.ones((3, 3), bool)


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


@dataclass(frozen=True, slots=True)
class Row:
    """One question and how it went.

    Attributes:
        record, source, category: what was asked about.
        kind: "text", "box", "filled box", "point", "selector", "selector in the model", "absent" or "weak text";
            baselines add "unet" and "nothing".
        task: of the text; "interactive" for boxes and points.
        wording: "trained", "held back", "verified", "assumed" or "".
        text: the sentence.
        overlap: counts at native resolution.
        touched: for "weak text": share of the labelled boxes that the mask touches.
        inside: for "weak text": share of the mask inside labelled boxes; None if the mask is empty.
    """

    record: str
    source: str
    category: str
    kind: str
    task: str
    wording: str
    text: str
    overlap: Overlap
    touched: float | None = None
    inside: float | None = None


def ask_record(engine: Engine, record: Record, plan: Plan) -> Iterator[Row]:
    """All questions about one image, through the whole flow at native resolution.

    Mask-labelled images: texts in trained and held-back wording, boxes and points on single objects, words of size and
    place. Box-labelled ones: texts, judged by the boxes alone. All: absent categories. Buffered centre lines are not
    scored.
    """
    digest = hashlib.sha256(f"{plan.seed}/{record.id}".encode()).digest()
    rng = np.random.default_rng(int.from_bytes(digest[:8], "little"))
    with open_scene(record.image) as scene:
        session = Session(engine, scene)

        def ask(prompt: Prompt, *, flow: bool = False) -> NDArray[np.uint8]:
            with session.segment(prompt, selector="auto" if flow else None) as result:
                found: NDArray[np.uint8] = (result.mask() == 1).astype(np.uint8)
                return found

        for category in record.labelled:
            if record.label_kind == "mask":
                yield from _mask_rows(ask, record, category, plan, rng)
            elif record.label_kind == "box" and category in record.present:
                yield from _box_rows(ask, record, category, plan, rng)
        yield from _absent_rows(ask, record, plan, rng)


Ask = Callable[..., NDArray[np.uint8]]


def _sentences(category: str, plan: Plan, rng: np.random.Generator) -> Iterator[tuple[Task, str, str]]:
    for task in (Task.REFERRING, Task.REASONING):
        for wording in ("trained", "held back"):
            for _ in range(plan.texts):
                yield task, wording, category_instruction(category, rng, task=task, held_out=wording == "held back")


def _mask_rows(ask: Ask, record: Record, category: str, plan: Plan, rng: np.random.Generator) -> Iterator[Row]:
    truth = record.load_mask(category)

    def row(kind: str, task: str, wording: str, text: str, got: NDArray[np.uint8], want: NDArray[np.uint8]) -> Row:
        return Row(record.id, record.source, category, kind, task, wording, text, Overlap.of(got, want))

    for task, wording, text in _sentences(category, plan, rng):
        yield row("text", task.value, wording, text, ask(Prompt(text, task_override=task)), truth)
    if not truth.any():
        return
    for part in _objects(truth, plan, rng):
        box = tight_box(part)
        yield row("box", "interactive", "", "", ask(Prompt(boxes=(box,))), part)
        filled = np.zeros_like(part)
        x0, y0, x1, y1 = (int(v) for v in box)
        filled[y0:y1, x0:x1] = 1
        yield row("filled box", "interactive", "", "", filled, part)
        yield row("point", "interactive", "", "", ask(Prompt(points=(_middle(part),))), part)
    found = components(truth)
    selectors = clear_selectors(found)
    for _ in range(min(plan.selections, len(selectors))):
        chosen = selectors[int(rng.integers(len(selectors)))]
        kept = chosen.select(found.items, truth.shape[1], truth.shape[0])
        for wording in ("trained", "held back"):
            text = selector_instruction(chosen, category, rng, selected=len(kept), held_out=wording == "held back")
            want, prompt = found.mask(kept), Prompt(text)
            yield row("selector", "referring", wording, text, ask(prompt, flow=True), want)
            yield row("selector in the model", "referring", wording, text, ask(prompt), want)


def _objects(truth: NDArray[np.uint8], plan: Plan, rng: np.random.Generator) -> Iterator[NDArray[np.uint8]]:
    labels, _ = ndimage.label(truth, _EIGHT)
    slices: Sequence[tuple[slice, slice]] = ndimage.find_objects(labels)
    big = [i for i, (ys, xs) in enumerate(slices) if min(ys.stop - ys.start, xs.stop - xs.start) >= plan.least]
    for i in sorted(rng.permutation(big)[: plan.objects].tolist()):
        yield (labels == i + 1).astype(np.uint8)


def _middle(part: NDArray[np.uint8]) -> tuple[float, float]:
    """Centre of the pixel farthest from the outline: where a careful person clicks."""
    depth = ndimage.distance_transform_edt(np.pad(part, 1))[1:-1, 1:-1]
    y, x = np.unravel_index(int(depth.argmax()), depth.shape)
    return float(x) + 0.5, float(y) + 0.5


def _box_rows(ask: Ask, record: Record, category: str, plan: Plan, rng: np.random.Generator) -> Iterator[Row]:
    boxes = record.boxes(category).round().astype(int).clip(0)  # a negative start would count from the end
    filled = np.zeros((record.height, record.width), np.uint8)
    for x0, y0, x1, y1 in boxes:
        filled[y0:y1, x0:x1] = 1
    for task, wording, text in _sentences(category, plan, rng):
        got = ask(Prompt(text, task_override=task))
        touched = float(np.mean([got[y0:y1, x0:x1].any() for x0, y0, x1, y1 in boxes]))
        inside = float((got & filled).sum() / got.sum()) if got.any() else None
        overlap = Overlap.of(got, filled)
        yield Row(
            record.id, record.source, category, "weak text", task.value, wording, text, overlap, touched, inside
        )  # fmt: skip


def _absent_rows(ask: Ask, record: Record, plan: Plan, rng: np.random.Generator) -> Iterator[Row]:
    nothing = np.zeros((record.height, record.width), np.uint8)
    every = absent_categories(record)
    for kind in ("verified", "assumed"):
        names = [a.category for a in every if a.kind == kind]
        for name in sorted(rng.permutation(names)[: plan.absences].tolist()):
            text = category_instruction(name, rng)
            got = ask(Prompt(text, task_override=Task.REFERRING))
            yield Row(record.id, record.source, name, "absent", "referring", kind, text, Overlap.of(got, nothing))
