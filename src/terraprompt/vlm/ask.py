"""Ask until an answer can be used: the one retry loop, and boxes and points out of it (Think2Seg).

The same loop serves boxes with phrases (:mod:`terraprompt.vlm.ground`) and the objects of the forge
(:mod:`terraprompt.vlm.model_pool`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import BudgetError, ConfigError, LimitError, ReasonerError
from terraprompt.io.text import sanitize_text
from terraprompt.vlm.answer_parser import AnswerRules, Instance, Verdict, parse_lenient, reasoning_of
from terraprompt.vlm.base import Reasoner, Reply
from terraprompt.vlm.conventions import Convention, RawAnswer, check_image
from terraprompt.vlm.placement import place
from terraprompt.vlm.probe import settled_convention

__all__ = [
    "AskLimits",
    "Attempts",
    "Reader",
    "Reading",
    "UnusableReplyError",
    "ask",
    "ask_until_usable",
    "check_whole",
    "read_image",
]

log = logging.getLogger(__name__)

_LOST = frozenset({"refusal", "content_filter"})
_SAME = "It is the same answer as before; give another one."
_MOST_REPEATS = 2  # of one bad reply; a third would be asked what the second was asked
_T = TypeVar("_T")
_S = TypeVar("_S")


class UnusableReplyError(Exception):
    """A reply cannot be used; raised by readers, never leaves :func:`ask_until_usable`.

    Attributes:
        verdict: one or two words.
        feedback: one sentence for the model that says what to mend.
        final: asking again would not help.
    """

    def __init__(self, verdict: str, feedback: str, *, final: bool = False) -> None:
        super().__init__(feedback)
        self.verdict, self.feedback, self.final = verdict, feedback, final


@dataclass(frozen=True, slots=True)
class Attempts(Generic[_T]):
    """Outcome of :func:`ask_until_usable`.

    Attributes:
        value: what the reader returned; None if no reply could be used.
        replies: all of them, in order.
        verdicts: one a reply.
        feedback: on the last reply; "" if it could be used.
        final: whether asking stopped early because it would not have helped.
        error: of a model that gave no reply; it ended the asking.
    """

    value: _T | None
    replies: tuple[Reply, ...]
    verdicts: tuple[str, ...]
    feedback: str = ""
    final: bool = False
    error: ReasonerError | None = None

    @property
    def reason(self) -> str:
        """Why there is no value, in a sentence; "" if there is one."""
        if self.error is not None or self.final or not self.feedback:
            return self.feedback if self.error is None else str(self.error)
        last = f"the last one ({self.verdicts[-1]}): {self.feedback}"
        return f"No usable answer in {len(self.replies)} tries; {last}"


def ask_until_usable(
    ask: Callable[[str | None, str | None], Reply],
    read: Callable[[Reply], tuple[str, _T]],
    *,
    tries: int,
    deadline: float | None = None,
) -> Attempts[_T]:
    """Ask, read, and ask again with feedback where the reply cannot be used.

    A refusal ends the asking. A model that repeats a bad reply is told so, and asked no more after the third time.

    Args:
        ask: called with the feedback on the previous reply and that reply; both None at first.
        read: reply to (verdict, value); raises :class:`UnusableReplyError`.
        tries: questions at most, the first included.
        deadline: ``time.monotonic()`` after which no further question is asked.

    Raises:
        BudgetError: nothing more may be asked.
        LimitError: the deadline has passed and no reply could be used.
    """
    replies: list[Reply] = []
    verdicts: list[str] = []
    feedback = ""
    told: str | None = None
    for attempt in range(tries):
        if attempt and deadline is not None and time.monotonic() > deadline:
            late: Attempts[_T] = Attempts(None, tuple(replies), tuple(verdicts), feedback)
            raise LimitError("The time for this query was over before an answer could be used.", received=late.reason)
        try:
            reply = ask(told, (replies[-1].text.strip() or None) if replies else None)
        except BudgetError:
            raise
        except ReasonerError as error:
            return Attempts(None, tuple(replies), tuple(verdicts), feedback, error=error)
        replies.append(reply)
        try:
            if reply.finish_reason in _LOST:
                said = sanitize_text(repr(reply.text), 160)
                raise UnusableReplyError("refused", f"The reasoner refused ({reply.finish_reason}): {said}", final=True)
            verdict, value = read(reply)
        except UnusableReplyError as error:
            verdicts.append(error.verdict)
            feedback = error.feedback
            repeats = sum(reply.text.strip() == before.text.strip() for before in replies)
            if error.final or repeats > _MOST_REPEATS:
                return Attempts(None, tuple(replies), tuple(verdicts), feedback, error.final)
            told = f"{feedback} {_SAME}" if repeats > 1 else feedback
            log.info("Answer %d cannot be used: %s", attempt + 1, feedback)
        else:
            return Attempts(value, tuple(replies), (*verdicts, verdict))
    return Attempts(None, tuple(replies), tuple(verdicts), feedback)


def check_whole(reply: Reply) -> None:
    """Raise an :class:`UnusableReplyError` for a reply that was cut off at the length limit."""
    if reply.finish_reason == "length":
        raise UnusableReplyError("cut off", "It was cut off at the length limit; answer in fewer words.")


@dataclass(frozen=True, slots=True, kw_only=True)
class AskLimits:
    """How often a reasoner is asked about an image, and what of its answer is kept.

    Attributes:
        tries: questions at most, the first included.
        limit: targets at most.
        overlap: box IoU above which the smaller of two targets (of one phrase, where there are phrases) is dropped.

    Raises:
        ConfigError: a value out of range.
    """

    tries: int = 3
    limit: int = 256
    overlap: float = 0.5

    def __post_init__(self) -> None:
        if self.tries < 1 or self.limit < 1 or not 0 < self.overlap <= 1:
            raise ConfigError(
                "Tries and limit are at least 1, the overlap is above 0 and at most 1.",
                received=(self.tries, self.limit, self.overlap),
            )


@dataclass(frozen=True, slots=True)
class Reading(Generic[_S]):
    """Targets that a reasoner answered for an image.

    Attributes:
        status: "found", "no_target" or "failed".
        targets: in pixels of the image; empty unless found.
        reason: of a failure, one sentence or more; "" otherwise.
        notes: what was changed in the answer (clipped, dropped, capped, …).
        verdicts: one a reply.
        replies: all of them, in order.
        convention: in which the answer was read.
        answered: the last answer in the reasoner's own units; None if it could not be parsed.
    """

    status: Literal["found", "no_target", "failed"]
    targets: tuple[_S, ...]
    reason: str
    notes: tuple[str, ...]
    verdicts: tuple[str, ...]
    replies: tuple[Reply, ...]
    convention: Convention
    answered: RawAnswer | None = None

    @property
    def reasoning(self) -> str:
        """Reasoning of the last reply; "" if there is none."""
        return reasoning_of(self.replies[-1].text).strip() if self.replies else ""


@dataclass(kw_only=True)
class Reader(Generic[_S]):
    """Reads the replies to one question about an image; notes, convention and ``answered`` are those of the last one.

    Attributes:
        size: (height, width) of the image.
        declared: convention in which replies are read.
        limits: on targets.
    """

    size: tuple[int, int]
    declared: Convention
    limits: AskLimits
    convention: Convention = field(init=False)
    notes: list[str] = field(init=False, default_factory=list)
    answered: RawAnswer | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        self.convention = self.declared

    def __call__(self, reply: Reply) -> tuple[str, list[_S]]:
        """Verdict and targets of a reply; see :func:`ask_until_usable`."""
        self.notes, self.answered, self.convention = [], None, self.declared
        check_whole(reply)
        try:
            verdict, targets = self.read(reply.text)
        except UnusableReplyError as error:
            error.feedback = f"{error.feedback} {reply.note}".strip()
            raise
        self.notes += [reply.note] if reply.note else []
        return verdict, targets

    def read(self, text: str) -> tuple[str, list[_S]]:
        """Verdict and targets of a whole answer."""
        raise NotImplementedError


def read_image(
    reasoner: Reasoner,
    image: NDArray[np.uint8],
    instruction: str,
    reader: Reader[_S],
    deadline: float | None,
    *,
    settle: bool = False,
) -> Reading[_S]:
    """Ask a reasoner about an image until ``reader`` can use the answer; errors as of :func:`ask`.

    ``settle``: find out the convention first, in place of the one that the reader was given.
    """

    def failed(reason: str) -> Reading[_S]:
        return Reading("failed", (), reason, (), (), (), reader.declared)

    remark = ""
    if settle:
        try:
            settled = settled_convention(reasoner, reader.size)
        except BudgetError:
            raise
        except ReasonerError as error:
            return failed(str(error))
        if settled.fault:
            return failed(settled.fault)
        reader.declared, remark = settled.convention, settled.remark

    def question(feedback: str | None, previous: str | None) -> Reply:
        return reasoner.reason(image, instruction, feedback=feedback, previous=previous)

    got = ask_until_usable(question, reader, tries=reader.limits.tries, deadline=deadline)
    return Reading(
        "failed" if got.value is None else "found" if got.value else "no_target",
        tuple(got.value or ()),
        got.reason,
        (*([remark] if remark else []), *reader.notes),
        got.verdicts,
        got.replies,
        reader.convention,
        reader.answered,
    )


def ask(
    reasoner: Reasoner,
    image: NDArray[np.uint8],
    instruction: str,
    limits: AskLimits | None = None,
    *,
    rules: AnswerRules | None = None,
    convention: Convention | None = None,
    deadline: float | None = None,
) -> Reading[Instance]:
    """Ask for boxes and points; they come back inside the image, without duplicates.

    Args:
        reasoner: that is asked.
        image: RGB uint8 (height, width, 3).
        instruction: what to find.
        limits: on questions and instances.
        rules: what an item must hold.
        convention: in which answers are read; None = the reasoner's own, which is asked for first where it is ``AUTO``
            or assumed (:func:`terraprompt.vlm.probe.settled_convention`).
        deadline: ``time.monotonic()`` after which nothing more is asked.

    Returns:
        A failure of the reasoner is a reading too, with status "failed" and the reason.

    Raises:
        BudgetError: nothing more may be asked.
        LimitError: the deadline has passed and there is no answer.
        ConfigError: no image.
    """
    reader = _InstanceReader(
        size=check_image(image),
        declared=convention or reasoner.convention,
        limits=limits or AskLimits(),
        rules=rules,
    )
    return read_image(reasoner, image, instruction, reader, deadline, settle=convention is None)


@dataclass(kw_only=True)
class _InstanceReader(Reader[Instance]):
    rules: AnswerRules | None

    def read(self, text: str) -> tuple[str, list[Instance]]:
        parsed = parse_lenient(text, self.rules)
        if not parsed.ok:
            raise UnusableReplyError(parsed.verdict.value, parsed.feedback)
        self.answered = RawAnswer(parsed.instances[: self.limits.limit], self.declared.view.size(self.size))
        if parsed.verdict is Verdict.NO_TARGET:
            return parsed.verdict, []
        limit, overlap = self.limits.limit, self.limits.overlap
        self.convention = self.declared.of_answer(parsed)
        placed = place(parsed.instances, self.convention, self.size, limit=limit, overlap=overlap)
        self.notes = [*parsed.mended, *placed.notes]
        if placed.fault:
            raise UnusableReplyError(parsed.verdict, placed.fault)
        return parsed.verdict, list(placed.instances)
