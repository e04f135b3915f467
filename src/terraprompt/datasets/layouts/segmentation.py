"""Masks in the coding of COCO annotations: run lengths, outlines, or lists of them."""

from __future__ import annotations

from typing import Any

from terraprompt.datasets.sample import Polygons, RunLengths, Truth, UnionMask
from terraprompt.errors import DatasetError

__all__ = ["coco_truth"]


def coco_truth(raw: Any, height: int, width: int, *, name: str) -> Truth:
    """The mask of a ``segmentation`` field.

    Args:
        raw: ``{"size", "counts"}``, a list of those (their union), a list of outlines ``[x, y, x, y, …]`` (their
            union) or one outline; an empty list is an empty mask.
        height: of the image, pixels.
        width: of the image, pixels.
        name: what the mask belongs to, for messages.

    Raises:
        DatasetError: another kind of value, a broken coding, or run lengths of another size than the image.
    """
    if isinstance(raw, dict):
        mask = RunLengths.of(raw, name=name)
        if (mask.height, mask.width) != (height, width):
            raise DatasetError(
                f"{name} has a mask of another size than its image ({width} x {height}).",
                received=f"{mask.width} x {mask.height}",
            )
        return mask
    if not isinstance(raw, list):
        raise DatasetError(f"{name} has no mask that can be read.", received=str(raw)[:80])
    if not raw:
        return RunLengths.empty(height, width, name=name)
    if all(isinstance(part, dict) for part in raw):
        parts = tuple(coco_truth(part, height, width, name=name) for part in raw)
        return parts[0] if len(parts) == 1 else UnionMask(parts)
    rings = [raw] if all(isinstance(v, int | float) for v in raw) else raw
    try:
        outlines = tuple(tuple(float(v) for v in ring) for ring in rings)
    except (TypeError, ValueError):
        raise DatasetError(f"{name} has an outline that is not made of numbers.", received=str(raw)[:80]) from None
    return Polygons(height, width, outlines, name)
