"""Ask a reasoner for boxes with noun phrases until its answer can be used: the first two stages of GeoSeg.

As :mod:`.ask`, but the answer is read by :mod:`.grounding`, and boxes are corrected before they are cut at
the image's edge, because a shifted box may hang out of it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import BudgetError, ConfigError, LimitError, PromptError, ReasonerError
from terraprompt.geometry.frame import Frame
from terraprompt.vlm.answer import Instance, thought
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.conventions import Convention, Seen, Units, check_image, detect
from terraprompt.vlm.grounding import FIXED_ALPHA, FIXED_BETA, Box, Mode, Refined, official_target, parse_answer, refine
from terraprompt.vlm.nms import survivors
from terraprompt.vlm.placement import contradiction

__all__ = ["Correction", "Grounded", "Grounding", "ground", "instances_of"]

log = logging.getLogger(__name__)

_LOST = frozenset({"refusal", "content_filter"})
_OTHERS_LIMIT = 160


@dataclass(frozen=True, slots=True)
class Correction:
    """How an answered box becomes the box that is looked at.

    Attributes:
        mode: see :func:`terraprompt.vlm.grounding.refine`.
        alpha, beta: its constants.
    """

    mode: Mode = "calibrated"
    alpha: float = 0.0
    beta: float = 0.0

    @classmethod
    def official(cls, *, refined: bool = True) -> Correction:
        """The release's constants; none where boxes shall not be refined."""
        return cls("official", FIXED_ALPHA, FIXED_BETA) if refined else cls("official")

    def apply(self, box: Box, size: tuple[int, int]) -> Refined:
        """See :func:`terraprompt.vlm.grounding.refine`."""
        return refine(box, size, alpha=self.alpha, beta=self.beta, mode=self.mode)


@dataclass(frozen=True, slots=True)
class Grounded:
    """One target.

    Attributes:
        answered: xyxy as the reasoner wrote it.
        box: the same in pixels of the image, not cut at its edge (``official``: cut).
        refined: what became of it.
        phrase: the noun phrase.
    """

    answered: Box
    box: Box
    refined: Refined
    phrase: str


@dataclass(frozen=True, slots=True)
class Grounding:
    """What a reasoner made of an image.

    Attributes:
        status: "found", "no_target" or "failed".
        targets: empty unless found.
        think: the reasoning of the last answer.
        reason: of a failure, one sentence or more; "" otherwise.
        notes: what was done to the answer.
        verdicts: one a reply: "found", "no_target", "unreadable", "unusable", "cut off" or "refused".
        replies: all of them, in order.
        convention: in which it was read.
    """

    status: Literal["found", "no_target", "failed"]
    targets: tuple[Grounded, ...]
    think: str
    reason: str
    notes: tuple[str, ...]
    verdicts: tuple[str, ...]
    replies: tuple[Reply, ...]
    convention: Convention


class _UnusableError(Exception):
    """An answer cannot be used; never leaves this module. ``final``: asking again would not help."""

    def __init__(self, verdict: str, complaint: str, *, final: bool = False) -> None:
        super().__init__(complaint)
        self.verdict, self.complaint, self.final = verdict, complaint, final


def ground(
    reasoner: Reasoner,
    image: NDArray[np.uint8],
    instruction: str,
    *,
    correction: Correction | None = None,
    convention: Convention | None = None,
    measured: bool = False,
    tries: int = 3,
    limit: int = 64,
    overlap: float = 0.5,
    clean: Callable[[str], str] = str.strip,
    until: float | None = None,
) -> Grounding:
    """Ask, read, correct the boxes, and ask again with a complaint where that fails.

    ``official`` reads one target in pixels of the picture as it was shown and cannot be told that there is none;
    ``calibrated`` reads any number in ``convention``.

    Args:
        reasoner: asked in words that want boxes and phrases (:mod:`terraprompt.vlm.grounding.wording`).
        image: RGB uint8 (height, width, 3).
        instruction: what to find.
        correction: of the boxes; None = calibrated, unchanged.
        convention: in which answers are read; None = the reasoner's own. Units ``AUTO`` are looked for in the answer.
        measured: the convention was measured on labelled boxes; an answer that seems to contradict it is believed.
        tries: questions at most, the first included.
        limit: targets at most, the first ones.
        overlap: box IoU above which the smaller of two targets of one phrase goes.
        clean: applied to phrases; a target whose phrase becomes empty is dropped.
        until: ``time.monotonic()`` after which nothing more is asked.

    Returns:
        A failure of the reasoner is a grounding too, with status "failed" and the reason.

    Raises:
        BudgetError: nothing more may be asked.
        LimitError: the time is over and there is no answer.
        ConfigError: no image, or settings that make no sense.
    """
    if tries < 1 or limit < 1 or not 0 < overlap <= 1:
        raise ConfigError(
            "Tries and limit are at least 1, the overlap is above 0 and at most 1.", received=(tries, limit, overlap)
        )
    check_image(image)
    correction = correction or Correction()
    used = reasoner.convention if convention is None else convention
    if correction.mode == "official":
        used = reasoner.convention.named(Units.PIXELS)
    reader = _Reader((image.shape[0], image.shape[1]), used, correction, measured, limit, overlap, clean)
    replies: list[Reply] = []
    verdicts: list[str] = []
    complaint = previous = None
    think = fault = ""

    def grounding(status: Literal["found", "no_target", "failed"], targets: Sequence[Grounded] = ()) -> Grounding:
        reason = fault if status == "failed" else ""
        return Grounding(
            status, tuple(targets), think, reason, tuple(reader.notes), tuple(verdicts), tuple(replies),
            reader.convention,
        )  # fmt: skip

    for attempt in range(tries):
        if attempt and until is not None and time.monotonic() > until:
            raise LimitError("The time for this query was over before an answer could be used.", received=fault)
        try:
            reply = reasoner.reason(image, instruction, complaint=complaint, previous=previous)
        except BudgetError:
            raise
        except ReasonerError as error:
            fault = str(error)
            return grounding("failed")
        replies.append(reply)
        think = thought(reply.text).strip()
        try:
            targets = reader.read(reply)
        except _UnusableError as error:
            verdicts.append(error.verdict)
            complaint, previous = error.complaint, reply.text.strip() or None
            if error.final:
                fault = error.complaint
                return grounding("failed")
            fault = f"No usable answer in {attempt + 1} tries; the last one ({error.verdict}): {complaint}"
            log.info("Answer %d cannot be used: %s", attempt + 1, complaint)
            continue
        verdicts.append("found" if targets else "no_target")
        return grounding("found" if targets else "no_target", targets)
    return grounding("failed")


def instances_of(text: str) -> tuple[Instance, ...] | None:
    """Boxes and phrases of an answer as instances in the reasoner's own units; None where it cannot be read."""
    answer = parse_answer(text)
    if answer.status == "unreadable":
        return None
    return tuple(Instance(target.box, name=target.phrase) for target in answer.targets)


class _Reader:
    """Reads the replies to one question; ``notes`` and ``convention`` are those of the last one."""

    def __init__(
        self,
        size: tuple[int, int],
        convention: Convention,
        correction: Correction,
        measured: bool,
        limit: int,
        overlap: float,
        clean: Callable[[str], str],
    ) -> None:
        self.size, self.declared, self.correction = size, convention, correction
        self.measured, self.limit, self.overlap, self.clean = measured, limit, overlap, clean
        self.shown = convention.view.size(size)
        self.convention = convention
        self.notes: list[str] = []

    def read(self, reply: Reply) -> list[Grounded]:
        self.notes, self.convention = [], self.declared
        if reply.finish_reason in _LOST:
            said = f"The reasoner refused ({reply.finish_reason}): {_short(reply.text)}"
            raise _UnusableError("refused", said, final=True)
        if reply.finish_reason == "length":
            raise _UnusableError("cut off", "It was cut off at the length limit; answer in fewer words.")
        return self._official(reply.text) if self.correction.mode == "official" else self._calibrated(reply.text)

    def _official(self, text: str) -> list[Grounded]:
        target = official_target(text, self.shown)
        if target is None:
            raise _UnusableError("unreadable", "It holds no JSON object with a box and a phrase.")
        phrase = self._phrase(target.phrase)
        if not phrase:
            raise _UnusableError("unreadable", "The phrase is empty.")
        box = _back(target.box, self.size, self.shown)
        answered = (float(target.box[0]), float(target.box[1]), float(target.box[2]), float(target.box[3]))
        return [Grounded(answered, box, self.correction.apply(box, self.size), phrase)]

    def _calibrated(self, text: str) -> list[Grounded]:
        answer = parse_answer(text)
        if answer.status == "unreadable":
            raise _UnusableError("unreadable", "; ".join(answer.problems[:3]))
        self.notes += answer.problems[:8]
        if answer.status == "no_target":
            return []
        asked = answer.targets[: self.limit]
        if len(answer.targets) > self.limit:
            self.notes.append(f"{len(answer.targets)} targets were answered; the first {self.limit} are kept.")
        instances = [Instance(target.box, name=target.phrase) for target in asked]
        self._settle(instances)
        placed = self.convention.to_source(instances, self.size)
        found: list[Grounded] = []
        for target, there in zip(asked, placed, strict=True):
            made = self._target(target.box, there.box, target.phrase)
            if made is not None:
                found.append(made)
        if not found:
            raise _UnusableError("unusable", f"None of the answered boxes lies in the image. {' '.join(self.notes)}")
        return self._without_doubles(found)

    def _settle(self, instances: Sequence[Instance]) -> None:
        """Find the units where they are not known; refuse an answer that contradicts them."""
        if self.convention.units is Units.AUTO:
            told = detect([Seen(tuple(instances), self.shown)])
            if told.units is None:
                said = f"The coordinate convention is not known: {told.reason} Run terraprompt reasoner calibrate."
                raise _UnusableError("unusable", said, final=True)
            self.convention = self.convention.named(told.units)
            self.notes.append(f"Coordinates were taken for {told.units.value} ({told.confidence:.0%} sure).")
        if self.measured:
            return
        if fault := contradiction(instances, self.convention, self.convention.view.size(self.size)):
            raise _UnusableError("unusable", fault)

    def _target(self, answered: Box, box: Box | None, phrase: str) -> Grounded | None:
        assert box is not None
        words = self._phrase(phrase)
        if not words or box[0] >= box[2] or box[1] >= box[3]:
            self.notes.append("A target without area or phrase was dropped.")
            return None
        try:
            return Grounded(answered, box, self.correction.apply(box, self.size), words)
        except PromptError:
            self.notes.append("A box outside the image was dropped.")
            return None

    def _phrase(self, phrase: str) -> str:
        return " ".join(self.clean(phrase).split())

    def _without_doubles(self, found: list[Grounded]) -> list[Grounded]:
        stay: set[int] = set()
        for phrase in dict.fromkeys(target.phrase.lower() for target in found):
            mine = [i for i, target in enumerate(found) if target.phrase.lower() == phrase]
            boxes = [found[i].refined.expanded for i in mine]
            stay |= {mine[i] for i in survivors(boxes, limit=self.overlap)}
        if len(stay) < len(found):
            self.notes.append(f"{len(found) - len(stay)} targets overlapped a larger one of that phrase; dropped.")
        return [target for i, target in enumerate(found) if i in stay]


def _back(box: Sequence[Any], size: tuple[int, int], shown: tuple[int, int]) -> Box:
    """A box on the picture as it was shown, in pixels of the image; unchanged where both have one size."""
    x1, y1, x2, y2 = (float(v) for v in box)
    if shown != size:
        x1, y1, x2, y2 = Frame.stretch(size, shown).boxes_back([[x1, y1, x2, y2]])[0].tolist()
    return x1, y1, x2, y2


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= _OTHERS_LIMIT else shown[: _OTHERS_LIMIT - 1] + "…"
