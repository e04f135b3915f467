"""The models of a recipe, opened: many questions at a time, each answer kept on disk before it is used.

Answers lie in ``work/calls/<endpoint>``, named by the content of their question. A stage that is run again asks what it
asked before in the same order, finds those answers and pays for the rest only.
"""

from __future__ import annotations

import logging
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

from terraprompt.errors import BudgetError, ReasonerError
from terraprompt.forge.model_settings import Endpoint, Models
from terraprompt.forge.prompts import is_refusal, plain, read_object
from terraprompt.vlm.base import Reply
from terraprompt.vlm.budget import Budget, Prices
from terraprompt.vlm.cache import ReplyCache
from terraprompt.vlm.endpoint import EndpointReasoner, EndpointSettings
from terraprompt.vlm.transport import RefusedError, Server, ServerConfig

__all__ = ["TALLY", "Answer", "Panel", "noted", "tallies"]

log = logging.getLogger(__name__)

#: What is counted of every role, in the order of the datasheet.
TALLY = ("questions", "answers", "refused", "cut off", "not to be used", "given up", "tokens in", "tokens out")
_MARK = "model "  # notes of this module begin with it
_LOST = frozenset({"refusal", "content_filter"})
_POLICY = re.compile(r"content.?(?:filter|policy|management|moderation)|responsible ai|safety", re.IGNORECASE)
_WRONG_ADDRESS = frozenset({401, 403, 404})  # of a key or a name: every other question would get it too
_IN_A_ROW = 3  # questions without an answer after which an endpoint is asked nothing more in this part
_SHOWN = 160  # characters of a refusal in records
_FAULT = 400  # and of a complaint
_SAME = "It is the same answer as before; give another one."
_AHEAD = 4  # questions waiting, for each that is on the way
_T = TypeVar("_T")
_R = TypeVar("_R")
Outcome = Literal["good", "refused", "not to be used", "given up"]


@dataclass(frozen=True)
class Answer:
    """What became of a question.

    Attributes:
        value: the object that was answered; None if none could be read, or if it was refused.
        outcome: "good", "refused", "not to be used" after all attempts, or "given up": there was no answer.
        why: one sentence; "" where it is good.
        tally: what it took, by the names of :data:`TALLY`.
    """

    value: dict[str, Any] | None
    outcome: Outcome
    why: str
    tally: Counter[str] = field(default_factory=Counter)


class _Gate(Server):
    """A server that is asked by so many at a time, and for a while by nobody once it looks dead."""

    def __init__(self, config: ServerConfig, concurrency: int, *, gives_up: bool) -> None:
        super().__init__(config)
        self._turns = threading.BoundedSemaphore(concurrency)
        self._gives_up = gives_up
        self._failed = 0
        self._count = threading.Lock()

    def revive(self) -> None:
        with self._count:
            self._failed = 0

    def post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        with self._turns:
            with self._count:
                if self._gives_up and self._failed >= _IN_A_ROW:
                    raise ReasonerError(f"{self.config.base_url} gave no answer {_IN_A_ROW} times in a row.")
            try:
                value = super().post(path, payload)
            except RefusedError:
                self.revive()
                raise
            except ReasonerError:
                with self._count:
                    self._failed += 1
                raise
            self.revive()
            return value


class Panel:
    """Asks the models of a recipe. Use it as a context, so that connections are closed.

    Args:
        models: of the recipe.
        calls: folder of the answers.
        stage: for messages.
        names: endpoints that it asks.

    Raises:
        ConfigError: a key that cannot be one.
        OutputError: the folder cannot be made.
    """

    def __init__(self, models: Models, calls: Path, stage: str, names: Sequence[str]) -> None:
        self.models, self.calls, self.stage = models, calls, stage
        self.part = 0
        limits = models.budget
        self.budget = Budget(tokens=limits.tokens, cost=limits.cost, calls=limits.calls, prices=Prices())
        self._gates: dict[str, _Gate] = {}
        self._asked: dict[str, EndpointReasoner] = {}
        for name in models.used:
            settings = models.endpoints[name]
            prices = Prices(settings.price.tokens_in, settings.price.tokens_out)
            cache = ReplyCache(calls / name, strict=True)
            budget = self.budget.priced(prices)
            if limits.model_dump(exclude_none=True):  # what other stages and earlier runs paid counts too
                budget.charge(*cache.paid())
            if name in names:
                self._open(name, settings, cache, budget)

    def _open(self, name: str, settings: Endpoint, cache: ReplyCache, budget: Budget) -> None:
        config = ServerConfig(
            settings.url,
            key_variable=settings.key_env,
            timeout=settings.timeout,
            retries=settings.retries,
            backoff=settings.backoff,
            longest_wait=settings.longest_wait,
            requests_per_minute=settings.rate,
        )
        self._gates[name] = _Gate(config, settings.concurrency, gives_up=self.models.dead == "skip")
        self._asked[name] = EndpointReasoner(
            self._gates[name],
            EndpointSettings(
                settings.model,
                temperature=settings.temperature,
                max_tokens=settings.max_tokens,
                token_field=settings.token_field,
                structured=settings.structured,
                image_format=settings.image,
                detail=settings.detail,
                extra=settings.extra,
            ),
            cache=cache,
            budget=budget,
            known_as=name,
        )

    def __enter__(self) -> Panel:
        return self

    def __exit__(self, *_: object) -> None:
        for gate in self._gates.values():
            gate.close()

    def begin(self, part: int) -> None:
        """Begin a part: endpoints that looked dead get another chance."""
        self.part = part
        for gate in self._gates.values():
            gate.revive()

    def ask(
        self,
        name: str,
        text: str,
        image: NDArray[np.uint8] | None,
        *,
        form: Mapping[str, Any],
        faults: Callable[[dict[str, Any]], list[str]],
    ) -> Answer:
        """Ask, and ask again with the complaint where an answer cannot be used. May be called from many threads.

        Args:
            name: of the endpoint.
            text, image, form: see :meth:`terraprompt.vlm.endpoint.EndpointReasoner.fill`.
            faults: what is wrong with an object; empty if nothing.

        Raises:
            BudgetError: it does not fit into what is left.
            ReasonerError: no answer, and the recipe says to stop then; or a wrong key or address.
            OutputError: an answer cannot be kept.
        """
        tally = Counter(questions=1)
        complaint = previous = None
        value: dict[str, Any] | None = None
        said: list[str] = []
        while len(said) < 1 + self.models.reasks:
            try:
                reply = self._asked[name].fill(text, image, form=form, complaint=complaint, previous=previous)
            except BudgetError:
                raise
            except ReasonerError as error:
                return self._unanswered(error, value, tally)
            _count(reply, tally)
            found = None if reply.finish_reason in _LOST else read_object(reply.text)
            if reply.finish_reason in _LOST or (found is None and is_refusal(reply.text)):
                tally["refused"] += 1
                return Answer(None, "refused", f"the model refused: {plain(reply.text, _SHOWN)}", tally)
            value = found or value
            if found is not None and not (wrong := faults(found)):
                return Answer(found, "good", "", tally)
            if found is not None:
                fault = f"{'; '.join(wrong)}."
            elif reply.finish_reason == "length":
                tally["cut off"] += 1
                fault = "It was cut off at the length limit; answer in fewer words."
            else:
                fault = "It holds no whole JSON object."
            previous = reply.text.strip() or None
            said.append(reply.text.strip())
            if said.count(said[-1]) > 2:
                break  # it was told so and said it again: the next question would be the one before
            complaint = f"{fault} {_SAME}" if said.count(said[-1]) > 1 else fault
        tally["not to be used"] += 1
        return Answer(
            value, "not to be used", f"no usable answer in {len(said)} attempts: {plain(fault, _FAULT)}", tally
        )

    def _unanswered(self, error: ReasonerError, value: dict[str, Any] | None, tally: Counter[str]) -> Answer:
        if isinstance(error, RefusedError):
            if error.status in _WRONG_ADDRESS:
                raise error
            if _POLICY.search(str(error)):
                tally["refused"] += 1
                return Answer(None, "refused", f"the server refused: {plain(error.received, _SHOWN)}", tally)
        if self.models.dead == "stop":
            raise error
        tally["given up"] += 1
        return Answer(value, "given up", f"no answer: {plain(error.what, _SHOWN)}", tally)

    def map(self, work: Callable[[_T], _R], items: Iterable[_T], what: Callable[[_T], str]) -> Iterator[tuple[_T, _R]]:
        """Work on items in threads; (item, result) come in the order of the items, and few are held at a time.

        Args:
            work: may call :meth:`ask`.
            items: taken from this thread, a little ahead of the results.
            what: an item in words, for the message where it fails.

        Raises:
            BudgetError, ReasonerError: of the first item that fails, with stage, part, item and what is kept.
        """
        workers = sum(self.models.endpoints[name].concurrency for name in self._asked)
        pool = ThreadPoolExecutor(workers, thread_name_prefix="asking")
        waiting: deque[tuple[_T, Future[_R]]] = deque()
        first: _T | None = None
        try:
            for item in items:
                waiting.append((item, pool.submit(work, item)))
                if len(waiting) > _AHEAD * workers:
                    first, future = waiting.popleft()
                    yield first, future.result()
            while waiting:
                first, future = waiting.popleft()
                yield first, future.result()
        except ReasonerError as error:
            pool.shutdown(wait=True, cancel_futures=True)
            raise self._placed(error, "" if first is None else what(first)) from error
        finally:  # what is on the way is waited for and kept; what is not yet asked is not asked
            pool.shutdown(wait=True, cancel_futures=True)

    def _placed(self, error: ReasonerError, where: str) -> ReasonerError:
        """The error with the place where it happened and what is kept."""
        kept = sum(1 for _ in self.calls.glob("*/??/*.json"))
        return type(error)(
            f"Stage {self.stage} stopped at {where} (part {self.part}): {error.what}",
            received=error.received,
            hint=f"{error.hint or ''} {kept} answers are kept in {self.calls}; go on with --resume.".strip(),
        )


def tallies(notes: Mapping[str, int]) -> tuple[dict[str, Counter[str]], dict[str, int]]:
    """Notes of a run: what each role took, and all other notes."""
    roles: dict[str, Counter[str]] = {}
    rest = {}
    for note, count in notes.items():
        role, colon, what = note.removeprefix(_MARK).rpartition(": ")
        if note.startswith(_MARK) and colon and what in TALLY:
            roles.setdefault(role, Counter())[what] += count
        else:
            rest[note] = count
    return roles, rest


def noted(role: str, tally: Counter[str], notes: Counter[str]) -> None:
    """Add what a question took to the notes of a part."""
    for what, count in tally.items():
        notes[f"{_MARK}{role}: {what}"] += count


def _count(reply: Reply, tally: Counter[str]) -> None:
    tally["answers"] += 1
    tally["tokens in"] += reply.tokens_in or 0
    tally["tokens out"] += reply.tokens_out or 0
