"""Questions whose answers are known: how a reasoner writes coordinates, before it is asked in earnest.

A white rectangle, off centre, is shown in a picture of the scene's own size and in one of another aspect ratio. Axis
order, normalisation and shrinking by the server give different boxes; the one that fits both pictures is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from terraprompt.geometry.boxes import Box, box_iou
from terraprompt.vlm.answer_parser import AnswerRules, Instance, ParsedAnswer, parse_lenient
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.conventions import Convention, Units

__all__ = ["PROBE_TEXT", "Fit", "Probe", "Settled", "probe", "probe_picture", "settled_convention"]

PROBE_TEXT = "the white rectangle"
_SIZE = (240, 320)
_PLACE = (0.3, 0.2, 0.65, 0.5333)  # x1, y1, x2, y2 in shares of the picture: no symmetry maps it onto itself
_ELSEWHERE = (0.15, 0.55, 0.4, 0.9)
_SURE = 0.85  # lowest IoU of a reading that is believed
_SAME = 0.97  # IoU of two readings of one answer that are alike
_NEAR = 0.015  # a fitted scale so near to 1 is 1


def _place(size: tuple[int, int], shares: Box = _PLACE) -> Box:
    """The rectangle in whole pixels of a picture of ``size`` (height, width)."""
    x1, y1, x2, y2 = (round(share * side) for share, side in zip(shares, (*size[::-1], *size[::-1]), strict=True))
    return float(x1), float(y1), float(max(x2, x1 + 1)), float(max(y2, y1 + 1))


def probe_picture(size: tuple[int, int] = _SIZE, shares: Box = _PLACE) -> NDArray[np.uint8]:
    """A white rectangle at ``shares`` (x1, y1, x2, y2) of the sides on grey, uint8 (height, width, 3)."""
    image = np.full((*size, 3), 90, np.uint8)
    x1, y1, x2, y2 = (int(v) for v in _place(size, shares))
    image[y1:y2, x1:x2] = 250
    return image


@dataclass(frozen=True, slots=True)
class Fit:
    """One reading of the answers.

    Attributes:
        convention: for pictures of the first size.
        agreement: lowest IoU with a drawn rectangle.
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
        targets = [answer.instances[0] for answer in answers if len(answer.instances) == 1]
        placed = len(targets) == len(answers) and all(v.box or len(v.points) == 1 for v in targets)
        self.fits = _fits(targets, sizes, reasoner.convention.of_answer(self.parsed)) if placed else []
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


@dataclass(frozen=True, slots=True)
class Settled:
    """How a reasoner's coordinates are read.

    Attributes:
        convention: that is used; its units are ``AUTO`` only beside a fault.
        how: from where it is known, one sentence; "" = it was named.
        remark: what the user must know; "" if nothing.
        fault: why no answer can be placed; "" if it can.
    """

    convention: Convention
    how: str = ""
    remark: str = ""
    fault: str = ""


_settled: dict[tuple[object, ...], Settled] = {}
_lock = Lock()


def settled_convention(reasoner: Reasoner, size: tuple[int, int]) -> Settled:
    """Find out how to read coordinates about an image of ``size`` (height, width).

    A convention that was named is believed. One that is ``AUTO``, or that only the model's name tells, is compared with
    a :func:`probe`, once in this process for each address, model and shown size: a server may shrink what is large, or
    normalise in its own way.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.base.Reasoner.reason`.
    """
    declared = reasoner.convention
    if declared.units is not Units.AUTO and not declared.assumed:
        return Settled(declared)
    key = (reasoner.info.where, reasoner.info.model, declared, declared.view.size(size))
    with _lock:
        if key not in _settled:
            _settled[key] = _settle(reasoner, probe(reasoner, size), size)
        return _settled[key]


def _settle(reasoner: Reasoner, probed: Probe, size: tuple[int, int]) -> Settled:
    declared, measured = reasoner.convention, probed.convention
    hint = "Name the units (--units pixels, 0..1 or 0..1000), or run terraprompt reasoner calibrate."
    if declared.units is Units.AUTO:
        unknown = f"The coordinate convention is not known: {probed.summary} {hint}"
        return Settled(measured or declared, probed.summary, fault="" if measured else unknown)
    believed = replace(declared, assumed=False)
    as_named = next((fit for fit in probed.fits if fit.convention == believed), None)
    if as_named is not None:
        same = box_iou([as_named.box], [probed.fits[0].box])[0, 0] >= _SAME
        if same if measured else as_named.agreement >= _SURE:
            return Settled(believed, f"{believed.name} by the model's name; a probe agrees.")
    if measured is not None:
        remark = f"By its name the model would answer in {believed.name}; a probe was answered in {measured.name}."
        return Settled(measured, probed.summary, f"{remark} Coordinates are read so.")
    if probed.fits:
        moved = reasoner.reason(probe_picture(size, _ELSEWHERE), PROBE_TEXT)
        if moved.text.strip() != probed.replies[0].text.strip():  # it looks, and writes in no known way
            fault = f"The coordinates cannot be trusted to be {believed.name}, as the model's name tells."
            return Settled(believed, probed.summary, fault=f"{fault} {probed.summary} {hint}")
    remark = f"Coordinates are read as {believed.name}, by the model's name alone. {probed.summary}"
    return Settled(believed, f"{believed.name} by the model's name", remark)


def _fits(targets: Sequence[Instance], sizes: Sequence[tuple[int, int]], declared: Convention) -> list[Fit]:
    """Readings of the answers to all pictures: pixels as sent or shrunk, and grids of any number, in both orders."""
    truths = [_place(size) for size in sizes]
    out = []
    for y_first in (False, True):
        for units in (Units.PIXELS, Units.UNIT, Units.THOUSAND):
            plain = replace(declared, units=units, y_first=y_first, scale=1.0, assumed=False)
            scales = [_scale(v, plain, truth, size) for v, truth, size in zip(targets, truths, sizes, strict=True)]
            tried = [[1.0] * len(targets)]
            if units is Units.PIXELS and min(scales) > 0:
                tried.append(scales)  # each picture is shrunk by itself
            elif units is Units.THOUSAND and min(scales) > 0:
                tried.append([float(np.mean(scales))] * len(targets))
            for wanted in tried:
                if wanted is not tried[0] and all(abs(scale - 1) < _NEAR for scale in wanted):
                    continue
                readings = [replace(plain, scale=scale) for scale in wanted]
                placed = [
                    _read(r, v, truth, size) for r, v, truth, size in zip(readings, targets, truths, sizes, strict=True)
                ]
                overlaps = [float(box_iou([a], [b])[0, 0]) for a, b in zip(placed, truths, strict=True)]
                out.append(Fit(readings[0], min(overlaps), placed[0]))
    # A fitted scale has a number to adapt: where it gains little, the plain reading counts.
    return sorted(out, key=lambda fit: -fit.agreement + 0.03 * (fit.convention.scale != 1))


def _scale(target: Instance, plain: Convention, truth: Box, size: tuple[int, int]) -> float:
    """By which the drawn box is multiplied to lie nearest to the answered one, least squares; 0 for a point."""
    if target.box is None:
        return 0.0
    [there] = plain.from_source([Instance(truth)], size)
    drawn, answered = np.array(there.box), np.array(target.box)
    return float(answered @ drawn / (drawn @ drawn))


def _read(convention: Convention, target: Instance, truth: Box, size: tuple[int, int]) -> Box:
    """The answered box in the source image; a point alone is taken for the middle of a box of the right size."""
    [placed] = convention.to_source([target], size)
    if placed.box is not None:
        return placed.box
    (x, y), half = placed.points[0], ((truth[2] - truth[0]) / 2, (truth[3] - truth[1]) / 2)
    return x - half[0], y - half[1], x + half[0], y + half[1]


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
