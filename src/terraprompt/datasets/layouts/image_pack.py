"""The image pack: ``annotations.jsonl`` beside images and masks, with questions from the instruction writer.

The pack labels categories and holds no sentences: :func:`terraprompt.datasets.questions.questions` writes them, the
same for everyone with one plan. A category that is labelled with several boxes in an image gives no sample, because a
sample has one mask or one box; one box gives a grounding sample.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.layouts.reading import Faults, Layout
from terraprompt.datasets.pack import INDEX_NAME, SPLITS, Record, read_pack
from terraprompt.datasets.questions import Plan, Question, questions
from terraprompt.datasets.sample import Sample
from terraprompt.errors import ConfigError, DatasetError
from terraprompt.io.rle import RunLengths

__all__ = ["LAYOUT"]


def read(
    root: Path, split: str, faults: Faults, *, plan: Plan | None = None, scale_variants: bool = True
) -> Iterator[Sample]:
    """Samples of a pack, record by record.

    Args:
        root: folder with ``annotations.jsonl``; a broken index is an error even where faults are collected.
        split: "train" or "val".
        faults: where a record whose masks cannot be read goes.
        plan: what is asked of each image; None is the usual plan.
        scale_variants: keep images whose ground is also there at a finer scale.
    """

    def leave_out(error: DatasetError) -> None:
        faults.add(root / INDEX_NAME, str(error))

    skip = leave_out if faults.keep_going else None
    for record in read_pack(root, split, scale_variants=scale_variants, skip=skip):
        yield from faults.attempt(record.image, partial(_samples, record, plan or Plan())) or ()


def _samples(record: Record, plan: Plan) -> list[Sample]:
    out: list[Sample] = []
    counts: Counter[tuple[str, str]] = Counter()
    mask: NDArray[np.uint8] | None = None
    truth: RunLengths | None = None
    try:
        for question in questions(record, plan):
            if question.marked is not None and len(question.marked) != 1:
                continue
            key = (question.category, question.kind)
            name = f"{record.id}/{question.category}/{question.kind.replace(' ', '-')}-{counts[key]}"
            counts[key] += 1
            if question.marked is not None:
                out.append(_sample(record, question, name, None))
                continue
            if truth is None or question.truth is not mask:  # sentences about one category share their mask
                mask, truth = question.truth, RunLengths.encode(question.truth, name=record.id)
            out.append(_sample(record, question, name, truth))
    except ConfigError as error:
        raise DatasetError(f"No questions can be written about record {record.id}: {error}") from None
    return out


def _sample(record: Record, question: Question, name: str, truth: RunLengths | None) -> Sample:
    wording = f", {question.wording}" if question.wording else ""
    box: tuple[float, float, float, float] | None = None
    if question.marked is not None:
        x0, y0, x1, y1 = record.boxes(question.category)[0].tolist()
        box = (x0, y0, x1, y1)
    return Sample(
        id=name,
        image=record.image,
        task=question.task,
        instructions=(question.text,) if question.text else (),
        truth=truth,
        box=box,
        answer=() if question.kind == "absent" or (truth is not None and not truth.area) else (question.category,),
        points=question.points,
        labels=(1,) * len(question.points),
        boxes=question.boxes,
        category=question.category,
        level=f"{question.kind}{wording}",
        split=record.split,
        source=record.source,
        licence=record.licence,
        gsd_m=record.gsd_m,
    )


LAYOUT = Layout(
    name="pack",
    title="image pack",
    splits=SPLITS,
    tree="annotations.jsonl, <source>/images/*, <source>/masks/*.png",
    where="It is a folder of your own with an annotations.jsonl; docs/datasets.md gives the record.",
    read=read,
)
