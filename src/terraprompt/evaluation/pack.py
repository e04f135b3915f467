"""Asks an engine about every labelled image of a pack, as a user would, and keeps what overlapped."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.pack import Record
from terraprompt.datasets.questions import Plan, Question, questions
from terraprompt.engines.base import Engine
from terraprompt.evaluation.metrics import Overlap
from terraprompt.flow.session import Session
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene

__all__ = ["Plan", "Row", "ask_record"]


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
    """All :func:`~terraprompt.datasets.questions.questions` about one image, through the whole flow at native size.

    Box prompts stand beside filling the box; words of size and place are decided by the flow over the whole scene, and
    left to the model; box-labelled categories are judged by the boxes alone.
    """
    with open_scene(record.image) as scene:
        session = Session(engine, scene)

        def ask(prompt: Prompt, *, flow: bool = False) -> NDArray[np.uint8]:
            with session.segment(prompt, selector="auto" if flow else None) as result:
                found: NDArray[np.uint8] = (result.mask() == 1).astype(np.uint8)
                return found

        for question in questions(record, plan):
            prompt = question.prompt()
            if question.kind == "selector":
                yield _row(record, question, "selector", ask(prompt, flow=True))
                yield _row(record, question, "selector in the model", ask(prompt))
            elif question.kind == "weak text":
                yield _weak_row(record, question, ask(prompt))
            else:
                yield _row(record, question, question.kind, ask(prompt))
            if question.kind == "box":
                yield _row(record, question, "filled box", _filled(question))


def _row(record: Record, question: Question, kind: str, got: NDArray[np.uint8]) -> Row:
    return Row(
        record.id, record.source, question.category, kind, question.task.value, question.wording, question.text or "",
        Overlap.of(got, question.truth),
    )  # fmt: skip


def _weak_row(record: Record, question: Question, got: NDArray[np.uint8]) -> Row:
    boxes = () if question.marked is None else question.marked
    touched = float(np.mean([got[y0:y1, x0:x1].any() for x0, y0, x1, y1 in boxes]))
    inside = float((got & question.truth).sum() / got.sum()) if got.any() else None
    return replace(_row(record, question, "weak text", got), touched=touched, inside=inside)


def _filled(question: Question) -> NDArray[np.uint8]:
    out = np.zeros_like(question.truth)
    x0, y0, x1, y1 = (int(v) for v in question.boxes[0])
    out[y0:y1, x0:x1] = 1
    return out
