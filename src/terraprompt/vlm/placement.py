"""Answered instances on the image they are about: sorted, clipped, counted; never outside, never without a word."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from terraprompt.geometry.boxes import Box, nms
from terraprompt.geometry.types import Size
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units

__all__ = ["Placement", "place", "unit_fault", "without_duplicates"]


_CONTRADICTING = 0.1  # share of instances beyond the image that no stray answers explain
_THINNEST = 1e-3  # pixels


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the instances are.

    Attributes:
        instances: in pixels of the source image, within it; boxes sorted, near duplicates gone.
        notes: what was done to the answer, one sentence each; empty if nothing.
        fault: why none of it can be used; "" if it can.
        convention: in which it was read.
    """

    instances: tuple[Instance, ...]
    notes: tuple[str, ...]
    fault: str
    convention: Convention


def place(
    instances: Sequence[Instance],
    convention: Convention,
    size: Size,
    *,
    limit: int = 256,
    overlap: float = 0.5,
) -> Placement:
    """Bring an answer onto its image.

    Args:
        instances: as answered.
        convention: of the reasoner; in units ``AUTO`` nothing can be placed.
        size: (height, width) of the source image.
        limit: instances that are kept at most, the first ones.
        overlap: box IoU above which the smaller of two goes.
    """
    if not instances:
        return Placement((), (), "No instance was answered.", convention)
    notes: list[str] = []
    if len(instances) > limit:
        notes.append(f"{len(instances)} instances were answered; the first {limit} are kept.")
    kept = tuple(_upright(v) for v in instances[:limit])
    inverted = sum(a.box != b.box for a, b in zip(kept, instances, strict=False))
    if inverted:
        notes.append(f"{_counted(inverted)} had corners the wrong way round; sorted.")
    if fault := unit_fault(kept, convention, size):
        return Placement((), tuple(notes), fault, convention)
    inside = [_clipped(v, size) for v in convention.to_source(kept, size)]
    left = [v for v, _, _ in inside if v is not None]
    for count, words in (
        (len(inside) - len(left), "{} outside the image or without area; dropped."),
        (sum(v is not None and cut for v, cut, _ in inside), "{} reached over the edge of the image; clipped."),
    ):
        if count:
            notes.append(words.format(_counted(count)))
    strays = sum(gone for v, _, gone in inside if v is not None)
    if strays:
        notes.append(f"{strays} points outside the image or their box; dropped.")
    unique = without_duplicates(left, limit=overlap)
    if len(unique) < len(left):
        notes.append(f"{_counted(len(left) - len(unique))} overlapped a larger one; dropped.")
    fault = "" if unique else "None of the answered boxes and points lies in the image."
    return Placement(unique, tuple(notes), fault, convention)


def unit_fault(instances: Sequence[Instance], convention: Convention, size: Size) -> str:
    """Why an answer about an image of ``size`` (height, width) cannot be in these units; "" if it can."""
    if convention.units is Units.AUTO:
        return "The coordinate convention is not known. Run terraprompt reasoner calibrate, or name it (--units)."
    return _contradiction(convention.in_units(instances), convention.units, convention.view.size(size))


def without_duplicates(instances: Sequence[Instance], *, limit: float = 0.5) -> tuple[Instance, ...]:
    """NMS of instances, see :func:`terraprompt.geometry.boxes.nms`; those without a box all stay."""
    boxed = [(i, instance.box) for i, instance in enumerate(instances) if instance.box is not None]
    stay = {boxed[i][0] for i in nms([box for _, box in boxed], limit=limit)}
    return tuple(v for i, v in enumerate(instances) if v.box is None or i in stay)


def _contradiction(instances: Sequence[Instance], units: Units, shown: Size) -> str:
    """A sentence if the answer cannot be in these units but fits others; else ""."""
    centres = np.array([_centre(v) for v in instances])
    reach = np.array([_reach(v) for v in instances])
    extent = units.extent(shown)
    wrong = f"The coordinates do not fit {units.value} (the image was shown at {shown[1]} x {shown[0]})"
    if min(extent) > 50 and reach.max() <= 1:
        return f"{wrong}; they look like {Units.UNIT.value}."
    outside = float((centres > extent).any(1).mean())
    if outside >= _CONTRADICTING:
        for other in (Units.PIXELS, Units.THOUSAND):
            if other is not units and (reach <= np.array(other.extent(shown)) * 1.02).all():
                return f"{wrong}; they look like {other.value}."
    return ""


def _centre(instance: Instance) -> tuple[float, float]:
    if instance.box is not None:
        return (instance.box[0] + instance.box[2]) / 2, (instance.box[1] + instance.box[3]) / 2
    xs, ys = zip(*instance.points, strict=True)
    return sum(xs) / len(xs), sum(ys) / len(ys)


def _reach(instance: Instance) -> tuple[float, float]:
    corners = [] if instance.box is None else [instance.box[:2], instance.box[2:]]
    xs, ys = zip(*corners, *instance.points, strict=True)
    return max(xs), max(ys)


def _upright(instance: Instance) -> Instance:
    if instance.box is None:
        return instance
    x1, y1, x2, y2 = instance.box
    return replace(instance, box=(min(x1, x2), min(y1, y2), max(x1, x2), max(y1, y2)))


def _clipped(instance: Instance, size: Size) -> tuple[Instance | None, bool, int]:
    """The instance within the image (None: nothing is), whether its box was cut, how many points went."""
    height, width = size
    box: Box | None = None
    cut = False
    if instance.box is not None:
        x1, y1, x2, y2 = instance.box
        box = (max(x1, 0.0), max(y1, 0.0), min(x2, float(width)), min(y2, float(height)))
        if box[2] - box[0] < _THINNEST or box[3] - box[1] < _THINNEST:
            return None, False, 0
        cut = box != instance.box
    spots = []
    for (x, y), label in zip(instance.points, instance.labels, strict=True):
        # A positive point beside its own box would pull the segmenter off the target; a negative one may lie there.
        home = box if box is not None and label else (0.0, 0.0, float(width), float(height))
        if home[0] <= x <= home[2] and home[1] <= y <= home[3]:
            spots.append(((x, y), label))
    gone = len(instance.points) - len(spots)
    if box is None and not any(label for _, label in spots):
        return None, False, 0
    points, labels = tuple(spot for spot, _ in spots), tuple(label for _, label in spots)
    return replace(instance, box=box, points=points, labels=labels), cut, gone


def _counted(count: int) -> str:
    return "1 instance" if count == 1 else f"{count} instances"
