"""Pool of models behind endpoints: many questions at a time, each answer kept on disk before it is used.

Answers lie in ``calls/<endpoint>``, named by the content of their question. A stage that is run again asks the same
questions in the same order, finds those answers and pays for the rest only.
"""

from __future__ import annotations

import re
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ReasonerError
from terraprompt.io.text import sanitize_text
from terraprompt.vlm.answer_parser import is_refusal, parse_object
from terraprompt.vlm.ask import UnusableReplyError, ask_until_usable, check_whole
from terraprompt.vlm.base import Reply
from terraprompt.vlm.budget import Budget, Prices
from terraprompt.vlm.cache import ReplyCache
from terraprompt.vlm.endpoint import EndpointReasoner, EndpointSettings
from terraprompt.vlm.transport import RefusedError, Server, ServerConfig

__all__ = ["TALLY", "Answer", "ModelPool", "PooledEndpoint", "add_usage", "usage_by_role"]

#: What is counted of every role, in the order of the datasheet.
TALLY = ("questions", "answers", "refused", "cut off", "not to be used", "given up", "tokens in", "tokens out")
_MARK = "model "  # notes of this module begin with it
_POLICY = re.compile(r"content.?(?:filter|policy|management|moderation)|responsible ai|safety", re.IGNORECASE)
_WRONG_ADDRESS = frozenset({401, 403, 404})  # of a key or a name: every other question would get it too
_IN_A_ROW = 3  # questions without an answer after which an endpoint is asked nothing more in this part
_SHOWN = 160  # characters of a refusal in records
_FAULT = 400  # and of feedback
_AHEAD = 4  # questions waiting, for each that is on the way
_T = TypeVar("_T")
_R = TypeVar("_R")
Outcome = Literal["good", "refused", "not to be used", "given up"]


@dataclass(frozen=True)
class PooledEndpoint:
    """One model of a pool.

    Attributes:
        server: address and retry policy.
        settings: of the questions.
        prices: of a million tokens.
        concurrency: requests on the way together.
    """

    server: ServerConfig
    settings: EndpointSettings
    prices: Prices = field(default_factory=Prices)
    concurrency: int = 4


@dataclass(frozen=True)
class Answer:
    """Outcome of a question.

    Attributes:
        value: the object that was answered; None if none could be read, or if it was refused.
        outcome: "good", "refused", "not to be used" after all attempts, or "given up": there was no answer.
        why: one sentence; "" where it is good.
        tally: usage, by the names of :data:`TALLY`.
    """

    value: dict[str, Any] | None
    outcome: Outcome
    why: str
    tally: Counter[str] = field(default_factory=Counter)


class CircuitBreaker(Server):
    """Server with a limit on concurrent requests; with ``trips``, three requests in a row without a reply open it."""

    def __init__(self, config: ServerConfig, concurrency: int, *, trips: bool) -> None:
        super().__init__(config)
        self._turns = threading.BoundedSemaphore(concurrency)
        self._trips = trips
        self._failed = 0
        self._count = threading.Lock()

    def reset(self) -> None:
        """Close the circuit: requests are sent again."""
        with self._count:
            self._failed = 0

    def post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """See :meth:`terraprompt.vlm.transport.Server.post`; a ReasonerError at once while the circuit is open."""
        with self._turns:
            with self._count:
                if self._trips and self._failed >= _IN_A_ROW:
                    raise ReasonerError(f"{self.config.base_url} gave no answer {_IN_A_ROW} times in a row.")
            try:
                value = super().post(path, payload)
            except RefusedError:
                self.reset()
                raise
            except ReasonerError:
                with self._count:
                    self._failed += 1
                raise
            self.reset()
            return value


class ModelPool:
    """Asks the models of a recipe. Use it as a context, so that connections are closed.

    Args:
        endpoints: by name.
        calls: folder of the answers; those of all endpoints count against a limited budget.
        stage: for messages.
        names: endpoints that may be asked.
        budget: of all of them together.
        reasks: how often a question is asked again whose answer cannot be used.
        on_dead: raise when an endpoint gives no answer, or give up the question.

    Raises:
        ConfigError: a key that cannot be one.
        OutputError: the folder cannot be made.
    """

    def __init__(
        self,
        endpoints: Mapping[str, PooledEndpoint],
        calls: Path,
        *,
        stage: str,
        names: Sequence[str],
        budget: Budget,
        reasks: int = 2,
        on_dead: Literal["stop", "skip"] = "stop",
    ) -> None:
        self.calls, self.stage, self.budget, self.reasks, self.on_dead = calls, stage, budget, reasks, on_dead
        self.part = 0
        self._servers: dict[str, CircuitBreaker] = {}
        self._reasoners: dict[str, EndpointReasoner] = {}
        self._workers = sum(endpoints[name].concurrency for name in names)
        for name, endpoint in endpoints.items():
            cache = ReplyCache(calls / name, strict=True)
            priced = budget.priced(endpoint.prices)
            if budget.is_limited:  # what other stages and earlier runs paid counts too
                priced.charge(*cache.paid())
            if name in names:
                server = CircuitBreaker(endpoint.server, endpoint.concurrency, trips=on_dead == "skip")
                self._servers[name] = server
                self._reasoners[name] = EndpointReasoner(
                    server, endpoint.settings, cache=cache, budget=priced, known_as=name
                )

    def __enter__(self) -> ModelPool:
        return self

    def __exit__(self, *_: object) -> None:
        for server in self._servers.values():
            server.close()

    def begin(self, part: int) -> None:
        """Begin a part: endpoints that gave no answer get another chance."""
        self.part = part
        for server in self._servers.values():
            server.reset()

    def ask(
        self,
        name: str,
        text: str,
        image: NDArray[np.uint8] | None,
        *,
        form: Mapping[str, Any],
        faults: Callable[[dict[str, Any]], list[str]],
    ) -> Answer:
        """Ask for an object, and again with feedback where it cannot be used. May be called from many threads.

        Args:
            name: of the endpoint.
            text: see :meth:`terraprompt.vlm.endpoint.EndpointReasoner.fill`.
            image: see :meth:`terraprompt.vlm.endpoint.EndpointReasoner.fill`.
            form: see :meth:`terraprompt.vlm.endpoint.EndpointReasoner.fill`.
            faults: what is wrong with an object; empty if nothing.

        Raises:
            BudgetError: it does not fit into what is left.
            ReasonerError: no answer, and ``on_dead`` is "stop"; or a wrong key or address.
            OutputError: an answer cannot be kept.
        """
        value: dict[str, Any] | None = None

        def fill(feedback: str | None, previous: str | None) -> Reply:
            return self._reasoners[name].fill(text, image, form=form, feedback=feedback, previous=previous)

        def read(reply: Reply) -> tuple[str, dict[str, Any]]:
            nonlocal value
            found = parse_object(reply.text)
            if found is not None:
                value = found
                if wrong := faults(found):
                    raise UnusableReplyError("faulty", f"{'; '.join(wrong)}.")
                return "good", found
            if is_refusal(reply.text):
                raise UnusableReplyError("refused", reply.text, final=True)
            check_whole(reply)
            raise UnusableReplyError("unreadable", "It holds no whole JSON object.")

        got = ask_until_usable(fill, read, tries=1 + self.reasks)
        tally = Counter(questions=1)
        for reply in got.replies:
            tally["answers"] += 1
            tally["tokens in"] += reply.tokens_in or 0
            tally["tokens out"] += reply.tokens_out or 0
        tally.update(verdict for verdict in got.verdicts if verdict in ("refused", "cut off"))
        if got.error is not None:
            return self._unanswered(got.error, value, tally)
        if got.value is not None:
            return Answer(got.value, "good", "", tally)
        if got.final:
            said = sanitize_text(got.replies[-1].text, _SHOWN)
            return Answer(None, "refused", f"the model refused: {said}", tally)
        tally["not to be used"] += 1
        why = f"no usable answer in {len(got.replies)} attempts: {sanitize_text(got.feedback, _FAULT)}"
        return Answer(value, "not to be used", why, tally)

    def _unanswered(self, error: ReasonerError, value: dict[str, Any] | None, tally: Counter[str]) -> Answer:
        if isinstance(error, RefusedError):
            if error.status in _WRONG_ADDRESS:
                raise error
            if _POLICY.search(str(error)):
                tally["refused"] += 1
                return Answer(None, "refused", f"the server refused: {sanitize_text(error.received, _SHOWN)}", tally)
        if self.on_dead == "stop":
            raise error
        tally["given up"] += 1
        return Answer(value, "given up", f"no answer: {sanitize_text(error.what, _SHOWN)}", tally)

    def map(self, work: Callable[[_T], _R], items: Iterable[_T], what: Callable[[_T], str]) -> Iterator[tuple[_T, _R]]:
        """Work on items in threads; (item, result) come in the order of the items, and few are held at a time.

        Args:
            work: may call :meth:`ask`.
            items: taken from this thread, a little ahead of the results.
            what: an item in words, for the message where it fails.

        Raises:
            BudgetError, ReasonerError: of the first item that fails, with stage, part, item and what is kept.
        """
        pool = ThreadPoolExecutor(self._workers, thread_name_prefix="asking")
        waiting: deque[tuple[_T, Future[_R]]] = deque()
        first: _T | None = None
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > _AHEAD * self._workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except ReasonerError as error:
            pool.shutdown(wait=True, cancel_futures=True)
            kept = sum(1 for _ in self.calls.glob("*/??/[!.]*.json"))
            where = "" if first is None else what(first)
            raise type(error)(
                f"Stage {self.stage} stopped at {where} (part {self.part}): {error.what}",
                received=error.received,
                hint=f"{error.hint or ''} {kept} answers are kept in {self.calls}; go on with --resume.".strip(),
            ) from error
        finally:  # what is on the way is waited for and kept; what is not yet asked is not asked
            pool.shutdown(wait=True, cancel_futures=True)


def usage_by_role(notes: Mapping[str, int]) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """Split the notes of a run into the usage of each role and all other notes."""
    roles: dict[str, Counter[str]] = {}
    rest = {}
    for note, count in notes.items():
        role, colon, what = note.removeprefix(_MARK).rpartition(": ")
        if note.startswith(_MARK) and colon and what in TALLY:
            roles.setdefault(role, Counter())[what] += count
        else:
            rest[note] = count
    return roles, rest


def add_usage(role: str, tally: Counter[str], notes: Counter[str]) -> None:
    """Add the usage of a question to the notes of a part."""
    for what, count in tally.items():
        notes[f"{_MARK}{role}: {what}"] += count
