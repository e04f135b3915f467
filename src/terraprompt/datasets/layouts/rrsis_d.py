"""RRSIS-D (RMSIN, arXiv 2312.12470): referring expressions in the layout of RefCOCO.

``images/rrsisd/JPEGImages/*``, ``rrsisd/refs(unc).p`` (a pickle, read with :mod:`terraprompt.io.pickles`) and
``rrsisd/instances.json`` with COCO annotations: run lengths, lists of them, or outlines. One test sample has an empty
mask: it is a sample without target, as published. The boxes of ``instances.json`` are not used.

RemoteSAM-270K (arXiv 2505.18022) has the same files as ``JPEGImages/*``, ``Annotations/refs(unc).p`` and
``Annotations/instances.json``, alone or in a folder ``RemoteSAM-270K``.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from terraprompt.datasets.layouts.reading import BrokenItemError, Faults, Layout, existing, load_json, texts, unpickled
from terraprompt.datasets.layouts.segmentation import coco_truth
from terraprompt.datasets.sample import Sample
from terraprompt.errors import DatasetError
from terraprompt.prompt import Task

__all__ = ["LAYOUT", "REMOTESAM"]


@dataclass(frozen=True, slots=True)
class _Instances:
    """``instances.json`` by id."""

    path: Path
    images: dict[Any, Any]
    annotations: dict[Any, Any]
    categories: dict[Any, Any]

    @classmethod
    def load(cls, path: Path) -> _Instances:
        raw = load_json(path)
        try:
            tables = [{row["id"]: row for row in raw[key]} for key in ("images", "annotations", "categories")]
        except (KeyError, TypeError) as error:
            raise BrokenItemError(path, f"not a COCO file ({error!r})") from None
        return cls(path, *tables)

    def row(self, table: str, key: Any) -> Any:
        rows: dict[Any, Any] = getattr(self, table)
        if key not in rows:
            raise BrokenItemError(self.path, f"nothing in {table!r} has the id {key}")
        return rows[key]


def read(
    root: Path,
    split: str,
    faults: Faults,
    *,
    name: str = "rrsis-d",
    pictures: str = "images/rrsisd/JPEGImages",
    annotations: str = "rrsisd",
    inside: str = "",
) -> Iterator[Sample]:
    """Samples in the order of the pickle, one a reference, its sentences as wordings.

    Args:
        root: folder of the copy.
        split: of the references.
        faults: where broken references go.
        name: of the data set, kept in every sample.
        pictures: folder below the root.
        annotations: folder below the root.
        inside: folder of the root that may hold them.

    Raises:
        BrokenItemError: one of the two annotation files is missing, damaged or refused.
    """
    if inside and (root / inside).is_dir():
        root = root / inside
    path = root / annotations / "refs(unc).p"
    refs = unpickled(path)
    instances = _Instances.load(root / annotations / "instances.json")
    if not isinstance(refs, list) or not all(isinstance(ref, dict) for ref in refs):
        raise BrokenItemError(path, "it does not hold a list of references")
    for ref in refs:
        if ref.get("split") == split:
            sample = faults.attempt(path, partial(_sample, root / pictures, path, ref, instances, split, name))
            if sample is not None:
                yield sample


def _sample(pictures: Path, path: Path, ref: dict[str, Any], instances: _Instances, split: str, source: str) -> Sample:
    name = f"reference {ref.get('ref_id')}"
    try:
        image, annotation = instances.row("images", ref["image_id"]), instances.row("annotations", ref["ann_id"])
        asked = texts([sentence["sent"] for sentence in ref["sentences"]], path, "sentences")
        file, height, width = str(image["file_name"]), int(image["height"]), int(image["width"])
        category = str(instances.row("categories", annotation["category_id"])["name"])
        raw = annotation["segmentation"]
    except (KeyError, TypeError, ValueError) as error:
        raise BrokenItemError(path, f"{name} lacks a field or has one of another kind ({error!r})") from None
    if not asked:
        raise BrokenItemError(path, f"{name} has no sentence")
    if Path(file).name != file:
        raise BrokenItemError(path, f"{name} leaves the data set: {file!r}")
    try:
        truth = coco_truth(raw, height, width, name=f"annotation {annotation['id']}")
    except DatasetError as error:
        raise BrokenItemError.of(instances.path, error) from None
    return Sample(
        id=str(ref["ref_id"]),
        image=existing(pictures / file, "image"),
        task=Task.REFERRING,
        instructions=asked,
        truth=truth,
        category=category,
        split=split,
        source=source,
    )


LAYOUT = Layout(
    name="rrsis-d",
    title="RRSIS-D",
    splits=("train", "val", "test"),
    tree="images/rrsisd/JPEGImages/*.jpg, rrsisd/refs(unc).p, rrsisd/instances.json",
    where="Get it from the page of RMSIN, https://github.com/Lsan2401/RMSIN (Google Drive or Baidu Netdisk).",
    read=read,
)
REMOTESAM = replace(
    LAYOUT,
    name="remotesam-270k",
    title="RemoteSAM-270K",
    tree="JPEGImages/*, Annotations/refs(unc).p, Annotations/instances.json",
    where="Get it from the page of RemoteSAM, https://github.com/1e12Leon/RemoteSAM (Hugging Face).",
    read=partial(
        read, name="remotesam-270k", pictures="JPEGImages", annotations="Annotations", inside="RemoteSAM-270K"
    ),
)
