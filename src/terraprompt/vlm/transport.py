"""HTTP client of an OpenAI-compatible server: deadlines, retries, a rate limit; the key is never shown."""

from __future__ import annotations

import email.utils
import ipaddress
import json
import logging
import os
import random
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import httpx2

from terraprompt.errors import ConfigError, ReasonerError
from terraprompt.io.redact import redact_source
from terraprompt.io.text import sanitize_text
from terraprompt.vlm import KEY_VARIABLE

__all__ = ["RefusedError", "Server", "ServerConfig"]

log = logging.getLogger(__name__)

_AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_LARGEST = 16 << 20  # bytes of a reply
# How servers say that a model takes text alone: vLLM, llama.cpp, Ollama, LM Studio, OpenAI, OpenRouter, DeepSeek, Groq.
_TEXT_ONLY = re.compile(
    r"(?:image|vision|multi-?modal|mmproj)[^{}]{0,80}(?:not |n't |un)(?:\w+ )?(?:support|enabled|accept|allow)"
    r"|(?:not|n't|no endpoints found that)[^{}]{0,20} (?:support|accept)[^{}]{0,40}(?:image|vision|multi-?modal)"
    r"|not a (?:multi-?modal|vision)|image_url is only supported|at most 0 image|missing data required for image"
    r"|unknown variant `?image_url|(?:provide|need)[^{}]{0,20} mmproj|content must be a string",
    re.IGNORECASE,
)


class RefusedError(ReasonerError):
    """The server answered, and said no.

    Attributes:
        status: of HTTP.
        body: what the server wrote, its first 4,000 characters; may hold the key, never to be shown.
        text_only: the server says that the model takes no pictures.
    """

    status: int = 0
    body: str = ""
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """Base URL, timeouts, retry policy. Does not hold the key itself.

    Attributes:
        base_url: e.g. "http://localhost:8000/v1"; "/v1" is added to an address without a path.
        key_variable: name of the environment variable with the key; unset or empty = no key is sent.
        timeout: seconds for one reply, from connecting to the last byte.
        retries: further attempts after a timeout, a lost connection, a garbled reply, 429 or 5xx.
        backoff: seconds before the first of them; doubled each time, jittered; a Retry-After of the server wins.
        longest_wait: seconds; a server that asks for more is given up.
        requests_per_minute: None = no limit.
    """

    base_url: str
    key_variable: str = KEY_VARIABLE
    timeout: float = 120.0
    retries: int = 4
    backoff: float = 1.0
    longest_wait: float = 60.0
    requests_per_minute: float | None = None

    def __post_init__(self) -> None:
        try:
            url = httpx2.URL(self.base_url.strip())
        except (httpx2.InvalidURL, TypeError):
            url = httpx2.URL()
        if url.scheme not in ("http", "https") or not url.host or "%" in url.host or not 0 < (url.port or 80) < 65536:
            raise ConfigError(
                "The endpoint must be an http or https address.", hint="For example http://localhost:8000/v1."
            )
        if url.userinfo or url.fragment or {key.lower() for key in url.params} - {"api-version"}:
            # Not shown: it may hold the key.
            raise ConfigError(
                "The endpoint must be a plain address, without user, password or query (but for api-version).",
                hint=f"Put the key into the environment variable {self.key_variable}.",
            )
        path = url.path.rstrip("/").removesuffix("/chat/completions")
        object.__setattr__(self, "base_url", str(url.copy_with(path=path or "/v1")))
        if min(self.timeout, self.backoff, self.longest_wait) <= 0 or self.retries < 0:
            raise ConfigError("Times must be positive and retries not negative.", received=self)
        if self.requests_per_minute is not None and self.requests_per_minute <= 0:
            raise ConfigError("The rate limit must be positive.", received=self.requests_per_minute)


class Server:
    """HTTP client of one server; may be used from many threads.

    The key is read from the environment for every request and kept nowhere; whatever the server writes back is cleared
    of it before it can reach a message or a log.

    Args:
        config: of the server.
        sleep: waits for so many seconds.
        jitter: draws the jitter of retries; None = from the operating system, so that no two clients draw alike, in
            forked processes neither.
    """

    def __init__(
        self,
        config: ServerConfig,
        *,
        sleep: Callable[[float], None] = time.sleep,
        jitter: random.Random | None = None,
    ) -> None:
        self.config = config
        self._sleep, self._jitter = sleep, jitter or random.SystemRandom()
        host = httpx2.URL(config.base_url).host
        self._client = httpx2.Client(trust_env=not _is_local(host), headers={"Accept-Encoding": "identity"})
        self._lock = threading.Lock()
        self._next = 0.0
        if self._key() and config.base_url.startswith("http:") and not _is_local(host):
            log.warning("The key goes to %s without encryption.", config.base_url)

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    def get(self, path: str) -> dict[str, Any]:
        """JSON object of GET ``path``. Raises as :meth:`post`."""
        return self._ask("GET", path, None)

    def post(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        """JSON object that the server answers.

        Raises:
            RefusedError: a status that asking again does not mend.
            ReasonerError: no usable answer after all attempts, or something that is no such server.
        """
        return self._ask("POST", path, json.dumps(payload).encode())

    def clean(self, text: object) -> str:
        """Text of the server, fit for a message: no key, no secret of an address, 200 characters at most."""
        return sanitize_text(redact_source(self._without(str(text), self._key())), 200)

    def without_key(self, text: str) -> str:
        """An answer of the server, whole, but for the key (unless that is so short that it may be any word)."""
        key = self._key()
        return self._without(text, key if len(key) >= 8 else "")

    @staticmethod
    def _without(text: str, key: str) -> str:
        return text.replace(key, "[key]") if key else text

    def _key(self) -> str:
        key = os.environ.get(self.config.key_variable, "").strip()
        if not re.fullmatch(r"[\x21-\x7e]*", key):
            raise ConfigError(
                f"The key in {self.config.key_variable} holds white space or characters that no key has.",
                hint="Copy it again.",
            )
        return key

    def _ask(self, method: str, path: str, body: bytes | None) -> dict[str, Any]:
        fault = ""
        for attempt in range(self.config.retries + 1):
            self._wait_for_turn()
            wait: float | None = None
            try:
                status, headers, content = self._once(method, path, body)
            except httpx2.TimeoutException:
                fault = f"no reply within {self.config.timeout:g} s"
            except httpx2.HTTPError as error:
                fault = f"{type(error).__name__}: {self.clean(error)}"
            else:
                if status == 200:
                    value = _object(content)
                    value = _streamed(content) if value is None else value
                    if value is not None:
                        return value
                    kind = self.clean(headers.get("content-type", "nothing said"))
                    if "json" not in kind and "event-stream" not in kind:
                        raise ReasonerError(
                            f"{self.config.base_url} does not answer like an OpenAI-compatible server.",
                            received=f"{kind}: {self.clean(content.decode('utf-8', 'replace'))}",
                            hint="Check the address; most end in /v1.",
                        )
                    fault = "the reply is not whole JSON"
                elif status in _AGAIN and not _takes_no_pictures(body, content):
                    fault = f"status {status} ({self._said(content)})"
                    wait = _retry_after(headers.get("retry-after"))
                else:
                    raise self._refusal(status, headers, content, _takes_no_pictures(body, content))
            if attempt < self.config.retries:
                self._back_off(attempt, wait, fault)
        raise ReasonerError(
            f"The reasoner at {self.config.base_url} gave no answer in {self.config.retries + 1} attempts; "
            f"last: {fault}.",
            hint="Is the server running at this address?",
        )

    def _once(self, method: str, path: str, body: bytes | None) -> tuple[int, httpx2.Headers, bytes]:
        """One request. The deadline holds for the whole reply, so that a server cannot drip for ever."""
        key = self._key()
        headers = {"Content-Type": "application/json"} if body is not None else {}
        if key:
            headers["Authorization"] = f"Bearer {key}"
        end = time.monotonic() + self.config.timeout
        base = httpx2.URL(self.config.base_url)
        if base.query and key:  # Azure
            headers["api-key"] = key
        url = base.copy_with(path=base.path + path)
        with self._client.stream(method, url, content=body, headers=headers, timeout=self.config.timeout) as response:
            parts, size = [], 0
            for part in response.iter_bytes():
                parts.append(part)
                size += len(part)
                if size > _LARGEST:
                    raise ReasonerError(f"The reply of {self.config.base_url} is larger than {_LARGEST >> 20} MiB.")
                if time.monotonic() > end:
                    raise httpx2.ReadTimeout("the deadline has passed")
            return response.status_code, response.headers, b"".join(parts)

    def _wait_for_turn(self) -> None:
        with self._lock:
            now = time.monotonic()
            turn = max(now, self._next)
            if self.config.requests_per_minute is not None:
                self._next = turn + 60 / self.config.requests_per_minute
        if turn > now:
            self._sleep(turn - now)

    def _back_off(self, attempt: int, asked: float | None, fault: str) -> None:
        jittered = self.config.backoff * 2**attempt * self._jitter.uniform(0.5, 1.0)
        wait = min(jittered, self.config.longest_wait) if asked is None else asked
        if wait > self.config.longest_wait:
            raise ReasonerError(
                f"The reasoner at {self.config.base_url} wants to be left alone for {wait:.0f} s: {fault}.",
                hint="Try again later, or lower the rate (requests per minute).",
            )
        log.warning("Asking %s again in %.1f s: %s", self.config.base_url, wait, fault)
        if asked is not None:  # the server speaks to all threads
            with self._lock:
                self._next = max(self._next, time.monotonic() + wait)
        self._sleep(wait)

    def _refusal(self, status: int, headers: httpx2.Headers, content: bytes, text_only: bool) -> RefusedError:
        hint = None
        if text_only:
            error = RefusedError(
                f"The model at {self.config.base_url} takes no pictures (status {status}).",
                received=self._said(content),
                hint="Serve a vision-language model, with its vision part (llama.cpp: --mmproj), and name it.",
            )
            error.status, error.text_only = status, True
            return error
        if status in (401, 403):
            hint = f"Set the environment variable {self.config.key_variable} to a key that is valid there."
        elif status == 404:
            hint = "Check the address (most end in /v1) and the name of the model."
        elif 300 <= status < 400:
            hint = f"It points to {self.clean(headers.get('location', 'nowhere'))}; give that address."
        error = RefusedError(
            f"The reasoner at {self.config.base_url} refused with status {status}.",
            received=self._said(content),
            hint=hint,
        )
        error.status, error.body = status, content[:4000].decode("utf-8", "replace")
        return error

    def _said(self, content: bytes) -> str:
        """The message of an error body."""
        value = _object(content)
        if value is None:
            return self.clean(content.decode("utf-8", "replace")) or "nothing said"
        said = value.get("error", value.get("message", value.get("detail", value)))
        return self.clean(said.get("message", said) if isinstance(said, dict) else said)


def _object(content: bytes) -> dict[str, Any] | None:
    try:
        value = json.loads(content)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _streamed(content: bytes) -> dict[str, Any] | None:
    """A reply that came as server-sent events, put together; None if it is none, or not whole."""
    lines = content.decode("utf-8", "replace").splitlines()
    data = [line[5:].strip() for line in lines if line.startswith("data:")]
    parts = [part for part in (_object(text.encode()) for text in data) if part is not None]
    if fault := next((part for part in parts if part.get("error")), None):
        return fault
    message: dict[str, Any] = {}
    out: dict[str, Any] = {}
    finish = None
    for part in parts:
        out |= {"usage": part["usage"]} if part.get("usage") else {}
        choices = part.get("choices")
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        finish = choice.get("finish_reason") or finish
        delta = choice.get("delta") or choice.get("message") or {}
        for call in delta.get("tool_calls") or ():
            said = (call.get("function") or {}).get("arguments") or ""
            message.setdefault("function_call", {"arguments": ""})["arguments"] += said
        for key in ("content", "reasoning_content", "reasoning", "refusal"):
            if isinstance(delta.get(key), str):
                message[key] = message.get(key, "") + delta[key]
    if finish is None and "[DONE]" not in data:
        return None
    return {**out, "choices": [{"message": message, "finish_reason": finish}]}


def _takes_no_pictures(body: bytes | None, content: bytes) -> bool:
    """Whether a refusal of a question with a picture says that there must be none."""
    said = content[:4000].decode("utf-8", "replace")
    if (
        body is None
        or b'"image_url"' not in body
        or re.search(r"format|resolution|size|large|mime", said, re.IGNORECASE)
    ):
        return False
    return _TEXT_ONLY.search(said) is not None


def _retry_after(value: str | None) -> float | None:
    """Seconds that a Retry-After header asks for; None if it is missing or makes no sense."""
    if value is None:
        return None
    if re.fullmatch(r"\d{1,9}(\.\d*)?", value.strip()):
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return max(0.0, (moment - datetime.now(UTC)).total_seconds())


def _is_local(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
