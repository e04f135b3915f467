"""Questions whose answers are known: how a reasoner writes coordinates, before it is asked in earnest.

A white rectangle, off centre, is shown in a picture of the scene's own size and in one of another aspect ratio. Axis
order, normalisation and shrinking by the server give different boxes; the one that fits both pictures is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from terraprompt.geometry.boxes import Box, box_iou
from terraprompt.vlm.answer_parser import AnswerRules, Instance, ParsedAnswer, parse_lenient
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.conventions import Convention, Units

__all__ = ["PROBE_TEXT", "Fit", "Probe", "probe", "probe_picture"]

PROBE_TEXT = "the white rectangle"
_SIZE = (240, 320)
_PLACE = (0.3, 0.2, 0.65, 0.5333)  # x1, y1, x2, y2 in shares of the picture: no symmetry maps it onto itself
_SURE = 0.6  # mean IoU of a reading that is believed
_SAME = 0.97  # IoU of two readings of one answer that are alike
_NEAR = 0.015  # a fitted scale so near to 1 is 1


def _place(size: tuple[int, int]) -> Box:
    """The rectangle in whole pixels of a picture of ``size`` (height, width)."""
    x1, y1, x2, y2 = (round(share * side) for share, side in zip(_PLACE, (*size[::-1], *size[::-1]), strict=True))
    return float(x1), float(y1), float(max(x2, x1 + 1)), float(max(y2, y1 + 1))


def probe_picture(size: tuple[int, int] = _SIZE) -> NDArray[np.uint8]:
    """A white rectangle on grey, uint8 (height, width, 3)."""
    image = np.full((*size, 3), 90, np.uint8)
    x1, y1, x2, y2 = (int(v) for v in _place(size))
    image[y1:y2, x1:x2] = 250
    return image


@dataclass(frozen=True, slots=True)
class Fit:
    """One reading of the answers.

    Attributes:
        convention: for pictures of the first size.
        agreement: mean IoU with the drawn rectangles.
        box: the first answer in it, in pixels of the first picture.
    """

    convention: Convention
    agreement: float
    box: Box

    @property
    def name(self) -> str:
        """Of the convention."""
        return self.convention.name


class Probe:
    """What a reasoner answered about the pictures.

    Args:
        replies: to :data:`PROBE_TEXT`, one a picture.
        sizes: (height, width) of the pictures.
        reasoner: who said it.

    Attributes:
        replies: as given.
        parsed: the first reply, read leniently.
        fits: readings, best first; empty if an answer is not one box.
        convention: the one that fits; None where none does, or several that put boxes on different places.
        summary: one sentence.
    """

    def __init__(self, replies: Sequence[Reply], sizes: Sequence[tuple[int, int]], reasoner: Reasoner) -> None:
        self.replies = tuple(replies)
        answers: list[ParsedAnswer] = [parse_lenient(reply.text, AnswerRules(points=None)) for reply in replies]
        self.parsed = answers[0]
        boxes = [answer.instances[0].box if len(answer.instances) == 1 else None for answer in answers]
        known = [box for box in boxes if box is not None]
        self.fits = _fits(known, sizes, reasoner.convention) if len(known) == len(boxes) else []
        self.convention: Convention | None = None
        self.summary = f"A probe with {PROBE_TEXT} was not answered with one box."
        if self.fits:
            first = self.fits[0]
            others = [fit for fit in self.fits[1:] if box_iou([fit.box], [first.box])[0, 0] < _SAME]
            rival = max((fit.agreement for fit in others), default=0.0)
            if first.agreement >= _SURE and 1 - rival >= 3 * (1 - first.agreement) + 0.02:
                self.convention = first.convention
                self.summary = (
                    f"Coordinates are read as {first.name}: {PROBE_TEXT} of a probe was answered so, "
                    f"IoU {first.agreement:.2f}."
                )
            else:
                self.summary = (
                    f"A probe with {PROBE_TEXT} did not tell the units (best: {first.name}, IoU {first.agreement:.2f})."
                )


def _fits(boxes: Sequence[Box], sizes: Sequence[tuple[int, int]], declared: Convention) -> list[Fit]:
    """Readings of the answers to all pictures: pixels as sent or shrunk, and grids of any number, in both orders."""
    truths = [_place(size) for size in sizes]
    out = []
    for y_first in (False, True):
        for units in (Units.PIXELS, Units.UNIT, Units.THOUSAND):
            plain = replace(declared, units=units, y_first=y_first, scale=1.0)
            scales = [_scale(box, plain, truth, size) for box, truth, size in zip(boxes, truths, sizes, strict=True)]
            tried = [[1.0] * len(boxes)]
            if units is Units.PIXELS and min(scales) > 0:
                tried.append(scales)  # each picture is shrunk by itself
            elif units is Units.THOUSAND and min(scales) > 0:
                tried.append([float(np.mean(scales))] * len(boxes))
            for wanted in tried:
                if wanted is not tried[0] and all(abs(scale - 1) < _NEAR for scale in wanted):
                    continue
                readings = [replace(plain, scale=scale) for scale in wanted]
                placed = [_read(r, box, size) for r, box, size in zip(readings, boxes, sizes, strict=True)]
                overlaps = [float(box_iou([a], [b])[0, 0]) for a, b in zip(placed, truths, strict=True)]
                out.append(Fit(readings[0], float(np.mean(overlaps)), placed[0]))
    # A fitted scale has a number to adapt: where it gains little, the plain reading counts.
    return sorted(out, key=lambda fit: -fit.agreement + 0.03 * (fit.convention.scale != 1))


def _scale(box: Box, plain: Convention, truth: Box, size: tuple[int, int]) -> float:
    """By which the drawn box is multiplied to lie nearest to the answered one, least squares."""
    [there] = plain.from_source([Instance(truth)], size)
    drawn, answered = np.array(there.box), np.array(box)
    return float(answered @ drawn / (drawn @ drawn))


def _read(convention: Convention, box: Box, size: tuple[int, int]) -> Box:
    [placed] = convention.to_source([Instance(box)], size)
    assert placed.box is not None
    return placed.box


def probe(reasoner: Reasoner, size: tuple[int, int] = _SIZE) -> Probe:
    """Ask about a rectangle whose place is known, in a picture of ``size`` (height, width) and in another one.

    Where the reasoner is shown squares whatever the picture, one question says all.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.base.Reasoner.reason`.
    """
    sizes = [size]
    if reasoner.convention.view.kind != "square":
        # Landscape, where an exchange of the axes moves the rectangle most.
        longest = max(size)
        wide = size[1] >= 1.25 * size[0]
        sizes.append((longest, longest) if wide else (max(1, round(longest * 0.625)), longest))
    return Probe([reasoner.reason(probe_picture(s), PROBE_TEXT) for s in sizes], sizes, reasoner)
