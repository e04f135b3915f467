"""A reasoner behind any OpenAI-compatible server: vLLM, llama.cpp, Ollama, a cloud."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import logging
import math
import re
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.vlm.answer_parser import AnswerRules, structured_to_tagged
from terraprompt.vlm.base import ReasonerInfo, Reply
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.cache import ReplyCache, question_key
from terraprompt.vlm.conventions import Convention, family_convention
from terraprompt.vlm.transport import RefusedError, Server, ServerConfig
from terraprompt.vlm.wording import (
    DEFAULT_TEMPLATE,
    answer_schema,
    check_template,
    question_words,
    with_feedback,
)

__all__ = ["EndpointReasoner", "EndpointSettings", "connect"]

log = logging.getLogger(__name__)

# What a server answers that does not know, or does not like, a schema (llama.cpp 400, vLLM 400, proxies 422 and 501).
_NO_SCHEMA = frozenset({400, 422, 501})
# How a field is refused for itself, not for its value ("max_tokens is too large").
_UNWANTED = re.compile(
    r"unsupported|not supported|n't support|not support|unknown|unrecogni|unexpected|extra|not permitted|not allowed"
    r"|deprecated|only the default|use ['\"`]?max_(?:completion_)?tokens|cannot",
    re.IGNORECASE,
)
Messages = list[dict[str, Any]]


@dataclass(frozen=True, slots=True)
class EndpointSettings:
    """Everything that changes the answers of an endpoint.

    Attributes:
        model: as the server names it.
        convention: coordinates; None = the default of the model's family.
        rules: what an item must hold.
        template: the question, see :mod:`terraprompt.vlm.wording`.
        temperature: None = the server's own.
        max_tokens: of the answer, reasoning included.
        token_field: some clouds want "max_completion_tokens".
        structured: "auto" binds the answer to a JSON schema where the server can; "off" never does (right for
            checkpoints that were trained on the tagged form).
        image_format: "png" is exact; "jpeg" (quality 95) about a tenth of the bytes.
        detail: how closely the server shall look at a picture ("low", "high", "auto"), where it knows that; None = not
            said.
        extra: further fields of the request, e.g. ``{"seed": 1}``.
    """

    model: str
    convention: Convention | None = None
    rules: AnswerRules = field(default_factory=AnswerRules)
    template: str = DEFAULT_TEMPLATE
    temperature: float | None = 0.0
    max_tokens: int = 2048
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    structured: Literal["auto", "off"] = "auto"
    image_format: Literal["png", "jpeg"] = "png"
    detail: Literal["low", "high", "auto"] | None = None
    extra: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.model.strip():
            raise ConfigError("The model has no name.", hint="Name it with --model.")
        if self.max_tokens < 1:
            raise ConfigError("An answer needs at least one token.", received=self.max_tokens)
        if self.image_format not in ("png", "jpeg") or self.structured not in ("auto", "off"):
            raise ConfigError("Unknown setting.", received=(self.image_format, self.structured))
        check_template(self.template)


class EndpointReasoner:
    """Asks a server; may be called from many threads (:func:`terraprompt.vlm.base.reason_many`).

    Args:
        server: that is asked.
        settings: of the questions.
        cache: replies that are known; None = none.
        budget: limit on tokens and money; cached replies cost nothing.
        known_as: name under which replies are kept; None = the address, so that another server is asked anew.
    """

    name = "endpoint"

    def __init__(
        self,
        server: Server,
        settings: EndpointSettings,
        *,
        cache: ReplyCache | None = None,
        budget: Budget | None = None,
        known_as: str | None = None,
    ) -> None:
        self.server, self.settings = server, settings
        self.cache, self.budget = cache, budget
        self._known_as = server.config.base_url if known_as is None else known_as
        self.convention = settings.convention or family_convention(settings.model)
        self.info = ReasonerInfo(
            self.name,
            settings.model,
            server.config.base_url,
            {
                "units": self.convention.units.value,
                "view": asdict(self.convention.view),
                "temperature": settings.temperature,
                "max_tokens": settings.max_tokens,
                "structured": settings.structured,
            },
        )
        self._lock = threading.Lock()
        self._binds = settings.structured == "auto"
        self._follows: bool | None = None
        self._token_fields = [
            settings.token_field,
            *sorted({"max_tokens", "max_completion_tokens"} - {settings.token_field}),
        ]
        self._temperature = settings.temperature

    def reason(
        self,
        image: NDArray[np.uint8],
        instruction: str,
        *,
        feedback: str | None = None,
        previous: str | None = None,
    ) -> Reply:
        """See :meth:`terraprompt.vlm.base.Reasoner.reason`."""
        shown = self.convention.view.shown(image)
        picture = _data_uri(shown, self.settings.image_format)
        size = (image.shape[0], image.shape[1])

        def messages(structured: bool) -> Messages:
            words = question_words(
                instruction,
                self.convention,
                size,
                rules=self.settings.rules,
                template=self.settings.template,
                structured=structured,
            )
            return self._dialogue(picture, words, feedback, previous)

        # The key takes the wish for a schema, not whether this server granted it: a known reply needs no server.
        form = answer_schema(self.settings.rules)
        keyed = messages(self.settings.structured == "auto")
        return self._known_or_asked(keyed, messages, _image_tokens(shown), form, structured_to_tagged)

    def fill(
        self,
        text: str,
        image: NDArray[np.uint8] | None,
        *,
        form: Mapping[str, Any],
        feedback: str | None = None,
        previous: str | None = None,
    ) -> Reply:
        """Ask for a JSON object; known and paid for as :meth:`reason`.

        Args:
            text: the question; it says itself how to answer, because a server may not know schemas.
            image: RGB uint8 (height, width, 3), sent as it is; None = words alone.
            form: JSON schema of the answer.
            feedback: as of :meth:`reason`.
            previous: as of :meth:`reason`.

        Returns:
            The reply as it was written; whether it is such an object is for the caller to see.

        Raises:
            BudgetError: the question could cost more than is left.
            ReasonerError: no answer; the message says why.
            OutputError: the reply cannot be kept, and the cache is strict.
        """

        def messages(picture: str | None) -> Messages:
            return self._dialogue(picture, text, feedback, previous)

        def sent(_: bool) -> Messages:
            return messages(None if image is None else _data_uri(image, self.settings.image_format))

        # By its pixels: a picture is encoded only if it is sent, and an encoder that changes costs nothing.
        keyed = messages(None if image is None else f"{self.settings.image_format}:{_fingerprint(image)}")
        tokens = 0 if image is None else _image_tokens(image)
        return self._known_or_asked(keyed, sent, tokens, form, lambda text: text)

    def chat(self, text: str, image: NDArray[np.uint8] | None = None) -> Reply:
        """Ask something else than to find; the image uint8 (H, W, 3) is sent as it is. Never cached."""
        picture = None if image is None else _data_uri(image, "png")
        tokens = 0 if image is None else _image_tokens(image)
        return self._paid(self._dialogue(picture, text, None, None), tokens, None)

    @property
    def binds_schema(self) -> bool:
        """Whether the server accepts a schema, as far as is known."""
        return self._binds

    @property
    def follows_schema(self) -> bool | None:
        """Whether the last answer that was bound to a schema followed it; None = none was asked for or accepted."""
        return self._follows if self._binds else None

    @property
    def remarks(self) -> tuple[str, ...]:
        """What the server refused and is asked without since then."""
        out = []
        if self._temperature != self.settings.temperature:
            out.append("The server refuses a temperature; its own is used, and answers may differ between runs.")
        if not self._token_fields:
            out.append("The server refuses a limit on the tokens of an answer; it is asked without.")
        return tuple(out)

    def models(self) -> list[dict[str, Any]]:
        """What the server says it serves."""
        listed = self.server.get("/models").get("data")
        if not isinstance(listed, list):
            raise ReasonerError(
                f"{self.server.config.base_url} lists no models.", hint="Is it an OpenAI-compatible server?"
            )
        return [entry for entry in listed if isinstance(entry, dict)]

    def _known_or_asked(
        self,
        keyed: Messages,
        messages: Callable[[bool], Messages],
        image_tokens: int,
        form: Mapping[str, Any],
        read: Callable[[str], str],
    ) -> Reply:
        """The reply to ``keyed`` from the cache, or to ``messages(with a schema)`` from the server, read if bound."""
        settings = self.settings
        asked = self._payload(
            keyed, form if settings.structured == "auto" else None, settings.token_field, settings.temperature
        )
        key = question_key([self._known_as, asked])
        with self.cache.holding(key) if self.cache is not None else nullcontext():
            known = self.cache.get(key) if self.cache is not None else None
            if known is not None:
                return known
            reply = None
            if self._binds:
                try:
                    reply = self._paid(messages(True), image_tokens, form)
                    taken = read(reply.text)
                    self._follows = taken != reply.text
                    reply = replace(reply, text=taken)
                except RefusedError as error:
                    if error.status not in _NO_SCHEMA or error.text_only:
                        raise
                    log.info("The server may not know JSON schemas, asking without: %s", error)
            if reply is None:
                was_bound = self._binds
                reply = self._paid(messages(False), image_tokens, None)
                if was_bound:  # it was the schema, not the question
                    with self._lock:
                        self._binds = False
            if self.cache is not None:
                self.cache.put(key, reply, counted=self._most(keyed, image_tokens))
            return reply

    def _most(self, messages: Messages, image_tokens: int) -> tuple[int, int]:
        """Tokens that a question and its answer take at most, estimated: half a token a character."""
        words = sum(len(part) for message in messages for part in _texts(message["content"]))
        return image_tokens + math.ceil(words / 2) + 64, self.settings.max_tokens

    def _paid(self, messages: Messages, image_tokens: int, form: Mapping[str, Any] | None) -> Reply:
        budget = self.budget
        if budget is None:
            return self._asked(messages, form)
        most = self._most(messages, image_tokens)
        budget.reserve(*most)
        used = None
        try:
            reply = self._asked(messages, form)
            # A server that does not count is taken to have used all that was set aside.
            used = (
                most[0] if reply.tokens_in is None else reply.tokens_in,
                most[1] if reply.tokens_out is None else reply.tokens_out,
            )
            return reply
        finally:
            budget.settle(most, used)

    def _payload(
        self, messages: Messages, schema: Mapping[str, Any] | None, token_field: str | None, temperature: float | None
    ) -> dict[str, Any]:
        settings = self.settings
        payload: dict[str, Any] = {"model": settings.model, "messages": messages}
        if token_field is not None:
            payload[token_field] = settings.max_tokens
        if temperature is not None:
            payload["temperature"] = temperature
        if schema is not None:
            form = {"name": "answer", "strict": True, "schema": schema}
            payload["response_format"] = {"type": "json_schema", "json_schema": form}
        return payload | dict(settings.extra)

    def _dialogue(self, picture: str | None, words: str, feedback: str | None, previous: str | None) -> Messages:
        turns = with_feedback(words, feedback, previous)
        parts: Messages = []
        if picture is not None:
            shown = {"url": picture} | ({"detail": self.settings.detail} if self.settings.detail else {})
            parts = [{"type": "image_url", "image_url": shown}]
        first = {"role": "user", "content": [*parts, {"type": "text", "text": turns[0][1]}]}
        return [first, *({"role": role, "content": text} for role, text in turns[1:])]

    def _answered(self, messages: Messages, form: Mapping[str, Any] | None) -> dict[str, Any]:
        """The server's JSON; a field of the request that it refuses is left out, from then on."""
        while True:
            with self._lock:
                field, temperature = next(iter(self._token_fields), None), self._temperature
            try:
                return self.server.post("/chat/completions", self._payload(messages, form, field, temperature))
            except RefusedError as error:
                if error.status not in _NO_SCHEMA or error.text_only or not _UNWANTED.search(error.body):
                    raise
                tokens = field is not None and re.search(r"\bmax_(?:completion_)?tokens\b", error.body) is not None
                if not tokens and (temperature is None or "temperature" not in error.body):
                    raise
                with self._lock:
                    if tokens:
                        self._token_fields = [name for name in self._token_fields if name != field]
                    else:
                        self._temperature = None
                log.info("The server refuses %s, asking without: %s", field if tokens else "temperature", error)

    def _asked(self, messages: Messages, form: Mapping[str, Any] | None) -> Reply:
        start = time.monotonic()
        value = self._answered(messages, form)
        seconds = time.monotonic() - start
        try:
            choice = value["choices"][0]
            message = choice["message"]
            text, note = _message_text(message)
        except (KeyError, IndexError, TypeError, AttributeError):
            raise ReasonerError(
                f"The reply of {self.server.config.base_url} holds no answer.",
                received=self.server.clean(value.get("error", value)),
                hint="Is it an OpenAI-compatible chat server?",
            ) from None
        finish = choice.get("finish_reason") or "stop"
        if isinstance(message.get("refusal"), str) and message["refusal"]:
            text, note, finish = message["refusal"], "", "refusal"
        text = self.server.without_key(text)
        usage = value.get("usage")
        counted = usage if isinstance(usage, dict) else {}
        return Reply(
            text,
            _count(counted.get("prompt_tokens")),
            _count(counted.get("completion_tokens")),
            seconds,
            str(finish),
            note=note,
        )


def connect(
    base_url: str,
    model: str,
    *,
    cache: Path | str | None = None,
    budget: Budget | None = None,
    server: Mapping[str, Any] | None = None,
    **settings: Any,
) -> EndpointReasoner:
    """A reasoner at an address, in one call.

    Args:
        base_url: e.g. "http://localhost:8000/v1".
        model: as the server names it.
        cache: folder for known replies.
        budget: limit on tokens and money.
        server: further fields of :class:`~terraprompt.vlm.transport.ServerConfig` (timeout, key_variable, …).
        settings: further fields of :class:`EndpointSettings`.
    """
    return EndpointReasoner(
        Server(ServerConfig(base_url, **(server or {}))),
        EndpointSettings(model, **settings),
        cache=None if cache is None else ReplyCache(Path(cache)),
        budget=budget,
    )


def _texts(content: str | list[dict[str, Any]]) -> list[str]:
    return [content] if isinstance(content, str) else [part["text"] for part in content if "text" in part]


def _message_text(message: dict[str, Any]) -> tuple[str, str]:
    """The answer, and where it was if not in the content: in the arguments of a tool call, or in the reasoning.

    Reasoning that a server keeps apart (vLLM, Ollama) goes in front of the content, in its tags. Where there is no
    content, the server's reasoning parser has missed the end of the reasoning, and the answer stands in it.
    """
    content = message.get("content")
    if isinstance(content, list):
        content = "".join(part.get("text", "") for part in content)
    text = content if isinstance(content, str) else ""
    note = ""
    if not text.strip():
        calls = [call["function"] for call in message.get("tool_calls") or ()] or [message.get("function_call") or {}]
        said = [call.get("arguments") or "" for call in calls]
        text = "\n".join(part if isinstance(part, str) else json.dumps(part) for part in said)
        note = "The answer was read from the arguments of a tool call." if text.strip() else ""
    reasoning = message.get("reasoning_content") or message.get("reasoning")
    if isinstance(reasoning, str) and reasoning.strip() and "<think>" not in text:
        if not text.strip():
            head, closing, tail = reasoning.rpartition("</think>")
            text = f"<think>{re.sub(r'</?think>', '', head)}</think>{tail}" if closing else reasoning
            return text, "The reply had no content, only reasoning; check the server's reasoning parser."
        text = f"<think>{re.sub(r'</?think>', '', reasoning)}</think>{text}"
    return text, note


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _image_tokens(shown: NDArray[np.uint8]) -> int:
    """An estimate for the budget: a token for 28 x 28 pixels, as the Qwen family counts."""
    height, width = int(shown.shape[0]), int(shown.shape[1])
    return math.ceil(height / 28) * math.ceil(width / 28)


def _fingerprint(image: NDArray[np.uint8]) -> str:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def _data_uri(image: NDArray[np.uint8], form: str) -> str:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, form, **({"quality": 95} if form == "jpeg" else {}))
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
