"""EarthReason (SegEarth-R1, arXiv 2504.09644): questions whose target has to be reasoned out, some without a target.

``<split>/images/<stem>.*``, ``<split>/labels/<stem>.png`` (non-zero is the target) and ``<split>/QAs/<stem>.json`` with
``{"questions": [...], "answer": [...]}``. An empty answer means that there is no target; a label beside it must be
empty too. The three folders are joined by stem, never by position.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path

from terraprompt.datasets.layouts.reading import (
    PICTURES,
    AbsentSplitError,
    BrokenItemError,
    Faults,
    Layout,
    by_stem,
    load_json,
    texts,
)
from terraprompt.datasets.sample import MaskFile, NoTarget, Sample, Truth
from terraprompt.prompt import Task

__all__ = ["LAYOUT"]


def read(root: Path, split: str, faults: Faults) -> Iterator[Sample]:
    """Samples in the order of their stems.

    Raises:
        AbsentSplitError: no folder of the split.
    """
    if not (root / split).is_dir():
        raise AbsentSplitError(root / split, "the folder of the split is missing")
    images = by_stem(root / split / "images", PICTURES, faults)
    labels = by_stem(root / split / "labels", PICTURES, faults)
    answers = by_stem(root / split / "QAs", (".json",), faults)
    for stem in sorted({*images, *labels, *answers}):
        sample = faults.attempt(root / split / stem, partial(_sample, root / split, stem, images, labels, answers))
        if sample is not None:
            yield sample


def _sample(
    folder: Path, stem: str, images: Mapping[str, Path], labels: Mapping[str, Path], answers: Mapping[str, Path]
) -> Sample:
    if stem not in images:
        raise BrokenItemError(folder / "images" / f"{stem}.*", "the image is missing")
    if stem not in answers:
        raise BrokenItemError(folder / "QAs" / f"{stem}.json", "the questions are missing")
    path = answers[stem]
    raw = load_json(path)
    if not isinstance(raw, dict) or "questions" not in raw or "answer" not in raw:
        raise BrokenItemError(path, "the fields 'questions' and 'answer' are not both there")
    asked, answer = texts(raw["questions"], path, "questions"), texts(raw["answer"], path, "answer")
    if not asked:
        raise BrokenItemError(path, "it holds no question")
    truth: Truth
    if not answer:
        truth = NoTarget(images[stem], labels.get(stem))
    elif stem in labels:
        truth = MaskFile(labels[stem])
    else:
        raise BrokenItemError(folder / "labels" / f"{stem}.png", "the label is missing")
    return Sample(
        id=stem,
        image=images[stem],
        task=Task.REASONING,
        instructions=asked,
        truth=truth,
        answer=answer,
        split=folder.name,
        source="earthreason",
        licence="Apache-2.0",
    )


LAYOUT = Layout(
    name="earthreason",
    title="EarthReason",
    splits=("train", "val", "test"),
    tree="<split>/images/<stem>.*, <split>/labels/<stem>.png, <split>/QAs/<stem>.json",
    where="Get it with: terraprompt dataset download earthreason DIR.",
    read=read,
    hub="earth-insights/EarthReason",
)
