"""Which units a reasoner really answers in, measured on labelled boxes.

Its answers are read under every convention; the one under which they lie on the labels is the right one. Where two fit
alike (an image of about 1000 pixels) the table says so. :func:`paired_boxes` gives the answered and the labelled boxes
that belong together, in pixels of the source image: what any further correction is fitted on.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from terraprompt.geometry.boxes import Box, box_iou
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units, View

__all__ = ["BoxPairs", "Calibration", "Candidate", "LabeledAnswer", "calibrate", "paired_boxes"]

_LEAST = 0.1  # mean agreement below which no convention is believed
_ORIGINAL = View("fit", side=1 << 30)


@dataclass(frozen=True, slots=True)
class LabeledAnswer:
    """What was answered about an image whose boxes are known.

    Attributes:
        instances: as answered.
        truth: boxes in pixels of the source image.
        size: (height, width) of the source image.
    """

    instances: tuple[Instance, ...]
    truth: tuple[Box, ...]
    size: tuple[int, int]


@dataclass(frozen=True, slots=True)
class BoxPairs:
    """Boxes that belong together.

    Attributes:
        answered, truth: float64 (n, 4), xyxy in pixels of their source images.
        sizes: float64 (n, 2), (height, width) of these images.
    """

    answered: NDArray[np.float64]
    truth: NDArray[np.float64]
    sizes: NDArray[np.float64]

    @property
    def edge_offsets(self) -> NDArray[np.float64]:
        """Median of (answered - truth) for x1, y1, x2, y2, in shares of the labelled width and height; NaN if n = 0."""
        if not len(self.truth):
            return np.full(4, np.nan)
        sides = (self.truth[:, 2:] - self.truth[:, :2])[:, [0, 1, 0, 1]]
        out: NDArray[np.float64] = np.median((self.answered - self.truth) / sides, axis=0)
        return out


@dataclass(frozen=True, slots=True)
class Candidate:
    """How well the answers fit under one convention.

    Attributes:
        name: "pixels", "0..1", "0..1000", each also ", y first", or "pixels of the original".
        convention: the reading.
        agreement: mean over answers of the summed IoU of the best one-to-one match, divided by the larger of the two
            counts: 1 = every box exact, none missing, none too many.
        hits: share of the labelled boxes with a match of IoU above 0.5.
        pairs: matches with an IoU of at least 0.1.
        scores: agreement of each answer.
    """

    name: str
    convention: Convention
    agreement: float
    hits: float
    pairs: BoxPairs
    scores: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class Calibration:
    """The table.

    Attributes:
        candidates: best first.
        best: the convention, or None where the answers do not decide.
        reason: one sentence.
    """

    candidates: tuple[Candidate, ...]
    best: Convention | None
    reason: str


def calibrate(answers: Sequence[LabeledAnswer], view: View) -> Calibration:
    """Compare the readings.

    The best one is believed if its agreement is at least 0.1 and its lead over the second, answer by answer, is more
    than two standard errors.

    Args:
        answers: of images with at least one labelled box; one without an answered box counts 0 under every reading.
        view: how the images were shown.
    """
    units = (Units.PIXELS, Units.UNIT, Units.THOUSAND)
    known = [Convention(unit, view, y_first=y_first) for y_first in (False, True) for unit in units]
    readings = [(convention.name, convention) for convention in known]
    if any(view.size(answer.size) != answer.size for answer in answers):
        readings.append(("pixels of the original", Convention(Units.PIXELS, _ORIGINAL)))
    candidates = [_candidate(name, convention, answers) for name, convention in readings]
    candidates.sort(key=lambda c: -c.agreement)
    first, second = candidates[:2]
    table = tuple(candidates)
    if not answers:
        return Calibration(table, None, "There is no answer to measure.")
    if first.agreement < _LEAST:
        return Calibration(table, None, f"No reading puts the boxes on the labels (best: {first.agreement:.2f}).")
    lead = np.array(first.scores) - np.array(second.scores)
    error = float(lead.std(ddof=1)) / math.sqrt(len(lead)) if len(lead) > 1 else math.inf
    if not float(lead.mean()) > 2 * error:
        reason = (
            f"{len(lead)} answers do not tell {first.name} from {second.name} "
            f"({first.agreement:.2f} and {second.agreement:.2f})."
        )
        return Calibration(table, None, reason)
    return Calibration(table, first.convention, f"The answers are in {first.name}.")


def paired_boxes(
    answers: Sequence[LabeledAnswer], convention: Convention, *, least: float = 0.1, alpha: float = 0, beta: float = 0
) -> BoxPairs:
    """Answered and labelled boxes that match one to one with an IoU of at least ``least``.

    Args:
        answers: with the labels.
        convention: in which they are read.
        least: IoU of a pair.
        alpha: boxes are matched after this correction (:func:`terraprompt.vlm.box_refinement.refine`); the pairs hold
            them as answered.
        beta: as ``alpha``.
    """
    left, right, sizes = [], [], []
    for answer in answers:
        boxes, truth, rows, columns, iou = _matched(answer, convention, alpha, beta)
        for i, j in zip(rows, columns, strict=True):
            if iou[i, j] >= least:
                left.append(boxes[i])
                right.append(truth[j])
                sizes.append(answer.size)
    return BoxPairs(
        np.array(left).reshape(-1, 4), np.array(right).reshape(-1, 4), np.array(sizes, np.float64).reshape(-1, 2)
    )


def _candidate(name: str, convention: Convention, answers: Sequence[LabeledAnswer]) -> Candidate:
    scores, hits, labelled = [], 0, 0
    for answer in answers:
        boxes, truth, rows, columns, iou = _matched(answer, convention)
        matched = iou[rows, columns]
        scores.append(float(matched.sum()) / max(len(boxes), len(truth), 1))
        hits += int((matched > 0.5).sum())
        labelled += len(truth)
    pairs = paired_boxes(answers, convention)
    mean = float(np.mean(scores)) if scores else 0.0
    return Candidate(name, convention, mean, hits / max(labelled, 1), pairs, tuple(scores))


def _matched(
    answer: LabeledAnswer, convention: Convention, alpha: float = 0, beta: float = 0
) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.intp], NDArray[np.intp], NDArray[np.float64]]:
    placed = convention.to_source(answer.instances, answer.size)
    boxes = np.array([v.box for v in placed if v.box is not None], np.float64).reshape(-1, 4)
    truth = np.array(answer.truth, np.float64).reshape(-1, 4)
    sides = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    iou = box_iou(boxes + sides * (-alpha, -alpha, beta, beta), truth)
    rows, columns = linear_sum_assignment(iou, maximize=True)
    return boxes, truth, rows, columns, iou
