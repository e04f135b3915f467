"""Ask a reasoner until its answer can be used, a few times at most: instances, no target, or a reason why not."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import BudgetError, ConfigError, ReasonerError
from terraprompt.vlm.answer import AnswerRules, Instance, Verdict, parse_lenient
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.conventions import Convention, Seen, Units, check_image
from terraprompt.vlm.placement import place

__all__ = ["Reading", "ask"]

log = logging.getLogger(__name__)

_LOST = frozenset({"refusal", "content_filter"})


@dataclass(frozen=True, slots=True)
class Reading:
    """What a reasoner made of an image.

    Attributes:
        status: "found", "no_target" or "failed".
        instances: in pixels of the image, inside it, without duplicates; empty unless found.
        think: the reasoning of the last answer.
        reason: of a failure, one sentence or more; "" otherwise.
        notes: what was done to the answer (clipped, dropped, capped, …).
        verdicts: of the reader, one a reply.
        replies: all of them, in order.
        answered: the last answer as it was written, with the size it was shown at; evidence for
            :func:`terraprompt.vlm.conventions.detect`. None if none could be read.
        convention: in which it was read.
    """

    status: Literal["found", "no_target", "failed"]
    instances: tuple[Instance, ...]
    think: str
    reason: str
    notes: tuple[str, ...]
    verdicts: tuple[Verdict, ...]
    replies: tuple[Reply, ...]
    answered: Seen | None
    convention: Convention


def ask(
    reasoner: Reasoner,
    image: NDArray[np.uint8],
    instruction: str,
    *,
    rules: AnswerRules | None = None,
    tries: int = 3,
    limit: int = 256,
    overlap: float = 0.5,
    earlier: Sequence[Seen] = (),
    convention: Convention | None = None,
) -> Reading:
    """Ask, read leniently, and ask again with the reader's complaint where that fails.

    Args:
        reasoner: that is asked.
        image: RGB uint8 (height, width, 3).
        instruction: what to find.
        rules: what an item must hold.
        tries: questions at most, the first included.
        limit: instances at most.
        overlap: box IoU above which the smaller of two instances goes.
        earlier: ``answered`` of other readings, as evidence where the convention is ``AUTO``.
        convention: in which answers are read, where it is known better (:mod:`.probe`); None = the reasoner's own.

    Returns:
        A failure of the reasoner is a reading too, with status "failed" and the reason.

    Raises:
        BudgetError: nothing more may be asked.
        ConfigError: no image, or settings that make no sense.
    """
    if tries < 1 or limit < 1:
        raise ConfigError("Asking needs at least one try and one instance.", received=(tries, limit))
    check_image(image)
    shown = reasoner.convention.view.size((image.shape[0], image.shape[1]))
    size = (image.shape[0], image.shape[1])
    replies: list[Reply] = []
    verdicts: list[Verdict] = []
    complaint = previous = None
    think, fault = "", ""
    notes: tuple[str, ...] = ()
    answered: Seen | None = None
    declared = used = reasoner.convention if convention is None else convention

    def reading(status: Literal["found", "no_target", "failed"], instances: tuple[Instance, ...] = ()) -> Reading:
        reason = fault if status == "failed" else ""
        return Reading(
            status, instances, think, reason, notes, tuple(verdicts), tuple(replies), answered, used
        )  # fmt: skip

    for attempt in range(tries):
        try:
            reply = reasoner.reason(image, instruction, complaint=complaint, previous=previous)
        except BudgetError:
            raise
        except ReasonerError as error:
            fault = str(error)
            return reading("failed")
        replies.append(reply)
        parsed = parse_lenient(reply.text, rules)
        verdicts.append(parsed.verdict)
        think, answered, notes = parsed.think, None, ()
        if reply.finish_reason in _LOST:
            fault = f"The reasoner refused ({reply.finish_reason}): {_short(reply.text)}"
            return reading("failed")
        if reply.finish_reason == "length":
            complaint = "It was cut off at the length limit; reason in fewer words."
        elif parsed.verdict is Verdict.NO_TARGET:
            answered = Seen((), shown)
            return reading("no_target")
        elif not parsed.ok:
            complaint = parsed.complaint
        else:
            answered = Seen(parsed.instances[:limit], shown)
            placed = place(parsed.instances, declared, size, limit=limit, overlap=overlap, earlier=earlier)
            notes, used = placed.notes, placed.convention
            if not placed.fault:
                return reading("found", placed.instances)
            if used.units is Units.AUTO:  # asking again would not tell
                fault = placed.fault
                return reading("failed")
            complaint = placed.fault
        previous = reply.text.strip() or None
        verdict = "cut off" if reply.finish_reason == "length" else parsed.verdict.value
        fault = f"No usable answer in {attempt + 1} tries; the last one ({verdict}): {complaint}"
        log.info("Answer %d cannot be used: %s", attempt + 1, complaint)
    return reading("failed")


def _short(text: str) -> str:
    shown = repr(text)
    return shown if len(shown) <= 160 else shown[:159] + "…"
