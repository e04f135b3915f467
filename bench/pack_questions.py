"""Ask an engine about every labelled image of a pack, and tabulate what only benches report."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.pack import Record
from terraprompt.datasets.questions import Plan, Question, questions
from terraprompt.datasets.sample import Sample
from terraprompt.engines.base import Engine
from terraprompt.evaluation.metrics import Overlap
from terraprompt.evaluation.predictions import EvalItem
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.evaluation.tables import Table
from terraprompt.flow.session import Session
from terraprompt.prompt import Prompt, Task
from terraprompt.raster import open_scene

__all__ = ["ask_record", "score_row", "weak_table"]


def score_row(
    record: Record, number: int, kind: str, overlap: Overlap, question: Question | None = None, *, category: str = ""
) -> ScoredPrediction:
    """Pixel counts as a score under the rules of ``native``, named as samples of the pack are."""
    task, wording, text = Task.REFERRING, "", None
    if question is not None:
        category, task, wording, text = question.category, question.task, question.wording, question.text
    sample = Sample(record.id, record.image, task, (text,) if text else ())
    return ScoredPrediction(
        "native", f"{record.id}/{category}/{kind}-{number}", "found" if overlap.predicted else "no_target", overlap.iou,
        overlap.intersection, overlap.union, overlap.predicted, overlap.truth, overlap.predicted == 0,
        category=category, task=task.value, level=f"{kind}, {wording}", source=record.source,
        item=EvalItem(sample),
    )  # fmt: skip


def ask_record(engine: Engine, record: Record, plan: Plan) -> Iterator[ScoredPrediction]:
    """All :func:`~terraprompt.datasets.questions.questions` about one image, through the whole flow at native size.

    Kinds beside those of the questions: "filled box" (the box itself as the answer) and "selector in the model" (words
    of size and place left to the model). A "weak text" row has the extra "touched", the share of labelled boxes that
    the mask touches, and "inside", the share of the mask inside them, unless the mask is empty.
    """
    with open_scene(record.image) as scene:
        session = Session(engine, scene)

        def ask(prompt: Prompt, *, flow: bool = False) -> NDArray[np.uint8]:
            with session.segment(prompt, selector="auto" if flow else None) as result:
                found: NDArray[np.uint8] = (result.mask() == 1).astype(np.uint8)
                return found

        for number, question in enumerate(questions(record, plan)):
            prompt = question.prompt()
            answers = {question.kind: ask(prompt, flow=question.kind == "selector")}
            if question.kind == "selector":
                answers["selector in the model"] = ask(prompt)
            elif question.kind == "box":
                answers["filled box"] = _filled(question)
            for kind, got in answers.items():
                overlap = Overlap.of(got, question.truth)
                row = score_row(record, number, kind, overlap, question)
                yield replace(row, extra=_weak(question, got)) if kind == "weak text" else row


def _weak(question: Question, got: NDArray[np.uint8]) -> dict[str, float]:
    boxes = () if question.marked is None else question.marked
    touched = float(np.mean([got[y0:y1, x0:x1].any() for x0, y0, x1, y1 in boxes]))
    inside = {"inside": float((got & question.truth).sum() / got.sum())} if got.any() else {}
    return {"touched": touched, **inside}


def _filled(question: Question) -> NDArray[np.uint8]:
    out = np.zeros_like(question.truth)
    x0, y0, x1, y1 = (int(v) for v in question.boxes[0])
    out[y0:y1, x0:x1] = 1
    return out


def weak_table(rows: Sequence[ScoredPrediction]) -> Table:
    """Box-labelled categories by text: share of boxes touched, share of the mask inside boxes; per cent."""
    table: Table = [["category", "images", "boxes touched", "mask inside boxes"]]
    weak = [row for row in rows if (row.level or "").startswith("weak text")]
    for category in sorted({row.category or "" for row in weak}):
        mine = [row for row in weak if row.category == category]
        images = {row.sample_id.rsplit("/", 2)[0] for row in mine}
        touched = float(np.mean([row.extra["touched"] for row in mine]))
        inside = [row.extra["inside"] for row in mine if "inside" in row.extra]
        share = f"{100 * float(np.mean(inside)):.1f}" if inside else "-"
        table.append([category, str(len(images)), f"{100 * touched:.1f}", share])
    return table
