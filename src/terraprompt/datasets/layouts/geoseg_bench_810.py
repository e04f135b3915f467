"""GeoSeg-Bench of GeoSeg (arXiv 2603.03983): 810 image-query pairs in ``annotations/*.json``, with difficulties.

As released: a record has ``file_name``, ``mask_path``, ``question`` and ``difficulty``. Also read: ``<category>.json``
at the root. Assumed, because nothing says more: a file holds a record, a list of them, or an object whose values are
records; the name of the file is the category; what a record holds has one of the names in :data:`FIELDS`; a mask is a
picture in which every value but 0 is the target, or COCO run lengths or outlines; files are relative to the root or to
the json file's folder, or lie in ``images/`` and ``masks/``. A record that does not fit is an error that lists its
fields; other names can be told with the option ``fields``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path, PurePosixPath
from types import MappingProxyType
from typing import Any

from terraprompt.datasets.layouts.reading import AbsentSplitError, BrokenItemError, Faults, Layout, load_json, texts
from terraprompt.datasets.layouts.segmentation import coco_truth
from terraprompt.datasets.sample import MaskFile, Sample, Truth
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task
from terraprompt.raster.pictures import picture_size

__all__ = ["FIELDS", "LAYOUT"]

#: What a record holds -> names it may have.
FIELDS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "image": ("image", "file_name", "img", "image_path"),
        "query": ("query", "question", "instruction"),
        "mask": ("mask", "mask_path", "segmentation"),
        "level": ("level", "difficulty"),
    }
)


def read(root: Path, split: str, faults: Faults, *, fields: Mapping[str, str] | None = None) -> Iterator[Sample]:
    """Samples in the order of the categories' names and of their records.

    Args:
        root: folder with the json files.
        split: "test".
        faults: where broken records go.
        fields: names of "image", "query", "mask" and "level" in this copy.

    Raises:
        DatasetError: ``fields`` names something else.
        AbsentSplitError: no json file.
    """
    if unknown := sorted(set(fields or {}) - set(FIELDS)):
        raise DatasetError("A record has no such part.", received=unknown, hint=f"Parts: {', '.join(FIELDS)}.")
    names = {**FIELDS, **{part: (name,) for part, name in (fields or {}).items()}}
    files = sorted((root / "annotations").glob("*.json")) or sorted(root.glob("*.json"))
    if not files:
        raise AbsentSplitError(root / "annotations" / "*.json", "there is no json file (nor at the root)")
    for path in files:
        raw = faults.attempt(path, partial(_records, path, names))
        for number, record in enumerate(raw or ()):
            sample = faults.attempt(path, partial(_sample, root, path, number, record, names, split))
            if sample is not None:
                yield sample


def _records(path: Path, names: Mapping[str, tuple[str, ...]]) -> list[Any]:
    raw = load_json(path)
    if isinstance(raw, dict):
        one = any(name in raw for name in names["image"]) and any(name in raw for name in names["query"])
        raw = [raw] if one else list(raw.values())
    if not isinstance(raw, list):
        raise BrokenItemError(path, "it does not hold records")
    return raw


def _sample(
    root: Path, path: Path, number: int, record: Any, names: Mapping[str, tuple[str, ...]], split: str
) -> Sample:
    if not isinstance(record, dict):
        raise BrokenItemError(path, f"record {number} is not an object")

    def part(what: str) -> Any:
        for name in names[what]:
            if name in record:
                return record[name]
        raise BrokenItemError(path, f"record {number} has no {what}; its fields are {', '.join(map(str, record))}")

    asked = texts(part("query"), path, "query")
    if not asked:
        raise BrokenItemError(path, f"record {number} has an empty query")
    image = _file(root, path, part("image"), "images", number)
    mask = part("mask")
    truth: Truth
    if isinstance(mask, str):
        truth = MaskFile(_file(root, path, mask, "masks", number))
    else:
        width, height = picture_size(image)
        try:
            truth = coco_truth(mask, height, width, name=f"record {number}")
        except DatasetError as error:
            raise BrokenItemError.of(path, error) from None
    return Sample(
        id=f"{path.stem}/{number}",
        image=image,
        task=Task.REASONING,
        instructions=asked,
        truth=truth,
        category=path.stem,
        level=str(part("level")),
        split=split,
        source="geoseg-bench-810",
    )


def _file(root: Path, path: Path, raw: Any, folder: str, number: int) -> Path:
    relative = PurePosixPath(str(raw).replace("\\", "/"))
    if relative.is_absolute() or ".." in relative.parts:
        raise BrokenItemError(path, f"record {number} leaves the data set: {raw!r}")
    for candidate in (root / relative, root / folder / relative, path.parent / relative):
        if candidate.is_file():
            return candidate
    raise BrokenItemError(root / relative, f"the file is missing that record {number} of {path.name} names")


LAYOUT = Layout(
    name="geoseg-bench-810",
    title="GeoSeg-Bench (GeoSeg, 810 pairs)",
    splits=("test",),
    tree="annotations/*.json; the image and mask files that they name",
    where="Get it with: terraprompt dataset download geoseg-bench-810 DIR.",
    read=read,
    hub="qingjiu151/GeoSeg",
)
