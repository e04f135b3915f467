"""A question whose answer is known: in which units a reasoner answers, before it is asked in earnest."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from terraprompt.vlm.answer_parser import AnswerRules, ParsedAnswer, parse_lenient
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.calibration import Calibration, LabeledAnswer, calibrate
from terraprompt.vlm.conventions import Convention

__all__ = ["PROBE_TEXT", "Probe", "probe", "probe_picture"]

PROBE_TEXT = "the white rectangle"
_BOX = (96.0, 48.0, 208.0, 128.0)
_SIZE = (240, 320)
_SURE = 0.5  # agreement of one answered box with the drawn one


def probe_picture() -> NDArray[np.uint8]:
    """A white rectangle on grey, uint8 (240, 320, 3)."""
    image = np.full((*_SIZE, 3), 90, np.uint8)
    x1, y1, x2, y2 = (int(v) for v in _BOX)
    image[y1:y2, x1:x2] = 250
    return image


class Probe:
    """What a reasoner answered about the picture.

    Args:
        reply: to :data:`PROBE_TEXT` about :func:`probe_picture`.
        reasoner: who said it.

    Attributes:
        reply: as given.
        parsed: the reply, read leniently.
        table: how its box fits under every convention.
        convention: the one that it fits; None where it fits none, or two alike.
        summary: one sentence.
    """

    def __init__(self, reply: Reply, reasoner: Reasoner) -> None:
        self.reply = reply
        # One box says much about units on a grey ground, so any number of points will do.
        self.parsed: ParsedAnswer = parse_lenient(reply.text, AnswerRules(points=None))
        view = reasoner.convention.view
        self.table: Calibration = calibrate([LabeledAnswer(self.parsed.instances, (_BOX,), _SIZE)], view)
        first, second = self.table.candidates[:2]
        clear = first.agreement >= _SURE and second.agreement < first.agreement / 2
        self.convention: Convention | None = first.convention if clear else None
        self.summary = (
            f"Coordinates are read as {first.name}: {PROBE_TEXT} of a probe was answered so, IoU {first.agreement:.2f}."
            if clear
            else f"A probe with {PROBE_TEXT} did not tell the units (best: {first.name}, IoU {first.agreement:.2f})."
        )


def probe(reasoner: Reasoner) -> Probe:
    """Ask about a rectangle whose place is known.

    Raises:
        BudgetError, ReasonerError: see :meth:`terraprompt.vlm.base.Reasoner.reason`.
    """
    return Probe(reasoner.reason(probe_picture(), PROBE_TEXT), reasoner)
