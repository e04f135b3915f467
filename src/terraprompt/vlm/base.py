"""Protocol of a reasoner: an image and an instruction in, text out."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.conventions import Convention

__all__ = ["Question", "Reasoner", "ReasonerInfo", "Reply", "reason_many"]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReasonerInfo:
    """Model identity recorded in provenance.

    Attributes:
        name: e.g. "endpoint".
        model: as the server or the hub names it.
        where: address of the server or folder of the weights; never holds a key.
        settings: anything that changes the answer (temperature, units, view, …).
    """

    name: str
    model: str
    where: str = ""
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    Attributes:
        text: as the reasoner wrote it.
        tokens_in, tokens_out: of question and answer; None where the server does not say.
        seconds: until the last word; of a cached reply, what it took then.
        finish_reason: "stop"; "length" = cut off at the limit; "refusal" or "content_filter" = refused.
        cached: from the cache; nothing was asked.
        note: where the text was found, if not in the content of the reply; one sentence.
    """

    text: str
    tokens_in: int | None = None
    tokens_out: int | None = None
    seconds: float = 0.0
    finish_reason: str = "stop"
    cached: bool = False
    note: str = ""


@dataclass(frozen=True, slots=True)
class Question:
    """One question of many: the arguments of :meth:`Reasoner.reason`."""

    image: NDArray[np.uint8]
    instruction: str
    feedback: str | None = None
    previous: str | None = None


@runtime_checkable
class Reasoner(Protocol):
    """Anything that looks at an image and answers in text."""

    name: str
    info: ReasonerInfo
    convention: Convention

    def reason(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        *,
        feedback: str | None = None,
        previous: str | None = None,
    ) -> Reply:
        """Ask once.

        Args:
            image: RGB uint8 (height, width, 3); the reasoner is shown it as its convention says.
            instruction: what to find, in the user's words.
            feedback: what was wrong with the previous answer, when asking again.
            previous: that answer.

        Raises:
            BudgetError: the question could cost more than is left.
            ReasonerError: no answer; the message says why.
        """
        ...


def reason_many(
    reasoner: Reasoner,
    questions: Sequence[Question],
    *,
    workers: int = 4,
    progress: Callable[[int, int], None] | None = None,
) -> list[Reply | ReasonerError]:
    """Ask many questions at a time.

    Args:
        reasoner: must allow calls from several threads unless ``workers`` is 1 (an endpoint does, a local model not).
        questions: the results come in this order.
        workers: questions on the way together.
        progress: called with (done, total), from this thread.

    Returns:
        Of each question its reply, or the error that took its place. After a budget has run out the remaining questions
        hold a BudgetError (those whose answer is cached are still answered), so that a later call can ask only them.
    """
    if workers < 1:
        raise ConfigError("At least one worker is needed.", received=workers)

    def one(question: Question) -> Reply | ReasonerError:
        try:
            return reasoner.reason(
                question.image, question.instruction, feedback=question.feedback, previous=question.previous
            )
        except ReasonerError as error:
            return error

    done: list[Reply | ReasonerError] = []
    pool = ThreadPoolExecutor(workers)
    try:
        for answer in pool.map(one, questions):
            done.append(answer)
            if progress is not None:
                progress(len(done), len(questions))
    finally:  # Ctrl-C waits for what is on the way, not for the whole queue
        pool.shutdown(wait=True, cancel_futures=True)
    return done
