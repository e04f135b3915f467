"""LaSeRS (SegEarth-R2, arXiv 2512.20013): one instruction, one or several masks.

``<split>/images/`` and ``<split>/annotations/*.json``: a list of ``{"id", "image_name", "description", "answer",
"mask"}``; ``mask`` is a list of COCO run lengths, one for each ``[SEG]`` in the answer.

A sample is one instruction; its truth is the union of its masks, because an instruction asks for all of them at once.
Assumed: an answer without ``[SEG]`` and with an empty list of masks means that there is no target. A record without the
field ``mask`` (the competition held some back) is broken. The task is reasoning, the only prompt its authors use; which
of its four axes a record belongs to is not in the documented fields.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from terraprompt.datasets.layouts.reading import (
    AbsentSplitError,
    BrokenItemError,
    Faults,
    Layout,
    existing,
    load_json,
    texts,
)
from terraprompt.datasets.layouts.segmentation import coco_truth
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task
from terraprompt.raster.pictures import picture_size

__all__ = ["LAYOUT"]

_MARK = "[SEG]"


def read(root: Path, split: str, faults: Faults) -> Iterator[Sample]:
    """Samples in the order of the annotation files' names and of their records.

    Raises:
        AbsentSplitError: no annotation file of the split.
        BrokenItemError: an annotation file that is no list, unless faults are collected.
    """
    files = sorted((root / split / "annotations").glob("*.json"))
    if not files:
        raise AbsentSplitError(root / split / "annotations", "there is no annotation file")
    seen: Counter[str] = Counter()
    for path in files:
        raw = faults.attempt(path, partial(_records, path))
        for number, record in enumerate(raw or ()):
            sample = faults.attempt(path, partial(_sample, root / split, path, number, record, seen))
            if sample is not None:
                yield sample


def _records(path: Path) -> list[Any]:
    raw = load_json(path)
    if not isinstance(raw, list):
        raise BrokenItemError(path, "it is not a list of records")
    return raw


def _sample(folder: Path, path: Path, number: int, record: Any, seen: Counter[str]) -> Sample:
    if not isinstance(record, dict):
        raise BrokenItemError(path, f"record {number} is not an object")
    missing = [key for key in ("id", "image_name", "description", "answer", "mask") if key not in record]
    if missing:
        raise BrokenItemError(path, f"record {number} lacks {', '.join(missing)}")
    name = f"record {record['id']}"
    asked, answer = texts(record["description"], path, "description"), texts(record["answer"], path, "answer")
    if not asked:
        raise BrokenItemError(path, f"{name} has an empty description")
    file = str(record["image_name"])
    if Path(file).name != file:
        raise BrokenItemError(path, f"{name} leaves the data set: {file!r}")
    image = existing(folder / "images" / file, "image")
    width, height = picture_size(image)
    marks = sum(text.count(_MARK) for text in answer)
    masks = record["mask"] if isinstance(record["mask"], list) else [record["mask"]]
    if marks != len(masks):
        raise BrokenItemError(path, f"{name} has {len(masks)} masks for {marks} places in its answer")
    try:
        truth = coco_truth(masks, height, width, name=name)
    except DatasetError as error:
        raise BrokenItemError.of(path, error) from None
    seen[str(record["id"])] += 1
    count = seen[str(record["id"])]
    return Sample(
        id=str(record["id"]) if count == 1 else f"{record['id']}#{count}",
        image=image,
        task=Task.REASONING,
        instructions=asked,
        truth=truth,
        answer=tuple(" ".join(text.replace(_MARK, " ").split()) for text in answer) if masks else (),
        level="several masks" if len(masks) > 1 else "one mask" if masks else "no target",
        split=folder.name,
        source="lasers",
        licence="Apache-2.0",
    )


LAYOUT = Layout(
    name="lasers",
    title="LaSeRS",
    splits=("train", "test"),
    tree="<split>/images/*, <split>/annotations/*.json",
    where="Get it with: terraprompt dataset download lasers DIR.",
    read=read,
    hub="earth-insights/LaSeRS",
)
