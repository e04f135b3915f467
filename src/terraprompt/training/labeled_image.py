"""One labelled image in memory, whatever it came from: the raw material of training crops."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.pack import Record
from terraprompt.geometry.connectivity import label
from terraprompt.language.absence import AbsentCategory, absent_categories

__all__ = ["LabeledImage", "from_record"]


@dataclass(frozen=True, slots=True)
class LabeledImage:
    """An image with what is known about it.

    Attributes:
        id: where it came from.
        source: sub-set of the data, e.g. "fair_oam" or "rendered".
        image: uint8 (H, W, 3).
        labels: object ids int32 (H, W) per category, 0 = not the category; for mask-labelled images.
        boxes: float (K, 4) x0, y0, x1, y1 per category; for box-labelled images.
        centreline: whether the labels are buffered centre lines: inside is the category, near them nothing is known.
        known: uint8 (H, W), 0 where nobody labelled anything; None where all is labelled.
        absent: categories that are not in the image, with the reason to believe it.
    """

    id: str
    source: str
    image: NDArray[np.uint8]
    labels: Mapping[str, NDArray[np.int32]]
    boxes: Mapping[str, NDArray[np.float64]]
    centreline: bool
    absent: tuple[AbsentCategory, ...]
    known: NDArray[np.uint8] | None = None

    @property
    def weak(self) -> bool:
        """Whether only boxes are known."""
        return bool(self.boxes) and not self.labels

    @property
    def present(self) -> tuple[str, ...]:
        """Categories with objects in the image."""
        if self.weak:
            return tuple(c for c, boxes in self.boxes.items() if len(boxes))
        return tuple(c for c, ids in self.labels.items() if ids.any())


def from_record(record: Record) -> LabeledImage:
    """Read a record's image and labels; connected components (8 neighbours) become objects."""
    labels: dict[str, NDArray[np.int32]] = {}
    boxes: dict[str, NDArray[np.float64]] = {}
    if record.label_kind == "box":
        for category in record.labelled:
            found = [r.box for r in record.regions if r.category == category and r.box is not None]
            boxes[category] = np.asarray(found, np.float64).reshape(-1, 4)
    else:
        for category in record.labelled:
            labels[category] = label(record.load_mask(category))[0]
    return LabeledImage(
        id=record.id,
        source=record.source,
        image=record.load_image(),
        labels=labels,
        boxes=boxes,
        centreline=record.label_kind == "centreline",
        absent=absent_categories(record),
        known=record.load_known(),
    )
