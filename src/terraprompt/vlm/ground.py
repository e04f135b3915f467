"""Ask a reasoner for boxes with noun phrases: the first two stages of GeoSeg."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import PromptError
from terraprompt.geometry.boxes import Box, nms
from terraprompt.vlm.answer_parser import Instance, Verdict, official_target, parse_phrases
from terraprompt.vlm.ask import AskLimits, Reader, Reading, UnusableReplyError, read_image
from terraprompt.vlm.base import Reasoner
from terraprompt.vlm.box_refinement import Correction, Refined
from terraprompt.vlm.conventions import Convention, Units, check_image
from terraprompt.vlm.placement import unit_fault

__all__ = ["GroundedBox", "ground_boxes"]


@dataclass(frozen=True, slots=True)
class GroundedBox:
    """One target.

    Attributes:
        answered: box in the reasoner's own units.
        box: the same in pixels of the image; may reach beyond its edge (``official``: cut).
        refined: corrected and clamped.
        phrase: the noun phrase.
    """

    answered: Box
    box: Box
    refined: Refined
    phrase: str


def ground_boxes(
    reasoner: Reasoner,
    image: NDArray[np.uint8],
    instruction: str,
    limits: AskLimits,
    *,
    correction: Correction | None = None,
    convention: Convention | None = None,
    measured: bool = False,
    clean: Callable[[str], str] = str.strip,
    deadline: float | None = None,
) -> Reading[GroundedBox]:
    """Ask for boxes with noun phrases and correct the boxes: the first two stages of GeoSeg.

    Boxes are corrected before they are cut at the image's edge, because a shifted box may hang out of it. ``official``
    reads one target in pixels of the picture as it was shown and cannot be told that there is none; ``calibrated``
    reads any number in ``convention``.

    Args:
        reasoner: asked with :data:`terraprompt.vlm.wording.PHRASE_TEMPLATE` or ``OFFICIAL_TEMPLATE``.
        image: RGB uint8 (height, width, 3).
        instruction: what to find.
        limits: on questions and targets.
        correction: of the boxes; None = calibrated, unchanged.
        convention: as in :func:`ask`.
        measured: the convention was measured on labelled boxes; an answer that seems to contradict it is believed.
        clean: applied to phrases; a target whose phrase becomes empty is dropped.
        deadline: as in :func:`ask`.

    Returns, raises:
        As :func:`ask`.
    """
    correction = correction or Correction()
    used = convention or reasoner.convention
    if correction.mode == "official":
        used = reasoner.convention.with_units(Units.PIXELS)
    reader = _PhraseReader(
        size=check_image(image),
        declared=used,
        limits=limits,
        correction=correction,
        measured=measured,
        clean=clean,
        instruction=instruction,
    )
    settle = convention is None and correction.mode != "official"
    return read_image(reasoner, image, instruction, reader, deadline, settle=settle)


@dataclass(kw_only=True)
class _PhraseReader(Reader[GroundedBox]):
    correction: Correction
    measured: bool
    clean: Callable[[str], str]
    instruction: str

    def read(self, text: str) -> tuple[str, list[GroundedBox]]:
        found = self._official(text) if self.correction.mode == "official" else self._calibrated(text)
        return ("found" if found else "no_target"), found

    def _official(self, text: str) -> list[GroundedBox]:
        target = official_target(text, self.convention.view.size(self.size))
        if target is None or target.box is None:
            raise UnusableReplyError("unreadable", "It holds no JSON object with a box and a phrase.")
        phrase = self._phrase(target.name)
        if not phrase:
            raise UnusableReplyError("unreadable", "The phrase is empty.")
        [placed] = self.convention.to_source([target], self.size)
        assert placed.box is not None
        answered = (float(target.box[0]), float(target.box[1]), float(target.box[2]), float(target.box[3]))
        return [GroundedBox(answered, placed.box, self.correction.apply(placed.box, self.size), phrase)]

    def _calibrated(self, text: str) -> list[GroundedBox]:
        parsed = parse_phrases(text, self.instruction)
        if not parsed.ok:
            raise UnusableReplyError("unreadable", parsed.feedback)
        self.notes += [*parsed.mended, *parsed.skipped[:8]]
        if parsed.verdict is Verdict.NO_TARGET:
            return []
        limit = self.limits.limit
        instances = parsed.instances[:limit]
        if len(parsed.instances) > limit:
            self.notes.append(f"{len(parsed.instances)} targets were answered; the first {limit} are kept.")
        self.convention = self.declared.of_answer(parsed)
        if not self.measured and (fault := unit_fault(instances, self.convention, self.size)):
            raise UnusableReplyError("unusable", fault)
        placed = self.convention.to_source(instances, self.size)
        made = [self._grounded(raw, there) for raw, there in zip(instances, placed, strict=True)]
        found = [target for target in made if target is not None]
        if not found:
            raise UnusableReplyError(
                "unusable", f"None of the answered boxes lies in the image. {' '.join(self.notes)}"
            )
        return self._without_duplicates(found)

    def _grounded(self, raw: Instance, placed: Instance) -> GroundedBox | None:
        assert raw.box is not None
        assert placed.box is not None
        phrase = self._phrase(raw.name)
        if not phrase or placed.box[0] >= placed.box[2] or placed.box[1] >= placed.box[3]:
            self.notes.append("A target without area or phrase was dropped.")
            return None
        try:
            return GroundedBox(raw.box, placed.box, self.correction.apply(placed.box, self.size), phrase)
        except PromptError:
            self.notes.append("A box outside the image was dropped.")
            return None

    def _phrase(self, phrase: str) -> str:
        return " ".join(self.clean(phrase).split())

    def _without_duplicates(self, found: list[GroundedBox]) -> list[GroundedBox]:
        stay: set[int] = set()
        for phrase in dict.fromkeys(target.phrase.lower() for target in found):
            same = [i for i, target in enumerate(found) if target.phrase.lower() == phrase]
            stay |= {same[i] for i in nms([found[i].refined.expanded for i in same], limit=self.limits.overlap)}
        if len(stay) < len(found):
            self.notes.append(f"{len(found) - len(stay)} targets overlapped a larger one of that phrase; dropped.")
        return [target for i, target in enumerate(found) if i in stay]
