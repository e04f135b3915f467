"""Replies kept on disk by the content of the question; a damaged entry is noticed and asked for again."""

from __future__ import annotations

import hashlib
import json
import logging
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from terraprompt.errors import OutputError
from terraprompt.io.atomic import write_atomic
from terraprompt.vlm.base import Reply

__all__ = ["ReplyCache", "question_key"]

log = logging.getLogger(__name__)

_VERSION = 1


def question_key(content: Any) -> str:
    """Name of a question: sha256 of its content (anything JSON holds), hex."""
    text = json.dumps(content, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class ReplyCache:
    """A folder of replies, one file each, safe to share among threads and processes.

    Args:
        folder: made if it is not there.
        strict: a reply that cannot be kept is an error instead of a warning.

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, strict: bool = False) -> None:
        self.folder, self.strict = Path(folder), strict
        self._lock = threading.Lock()
        self._held: dict[str, tuple[threading.Lock, int]] = {}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise OutputError(f"The cache folder cannot be made: {error.strerror}.", received=folder) from None

    def get(self, key: str) -> Reply | None:
        """The reply, marked as cached; None if it is not known, or damaged (a warning is logged)."""
        path = self._path(key)
        try:
            stored = json.loads(path.read_bytes())
            body = stored["reply"]
            if stored["version"] != _VERSION or stored["key"] != key or stored["sha256"] != question_key(body):
                raise ValueError("the checksum does not fit")
            return replace(Reply(**body), cached=True)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            log.warning("A cached reply is damaged and will be asked for again: %s (%s)", path, error)
            return None

    @contextmanager
    def holding(self, key: str) -> Iterator[None]:
        """Let one thread at a time look up and ask a question, so that no question is asked twice at once."""
        with self._lock:
            lock, users = self._held.get(key, (threading.Lock(), 0))
            self._held[key] = lock, users + 1
        try:
            with lock:
                yield
        finally:
            with self._lock:
                users = self._held[key][1] - 1
                if users:
                    self._held[key] = lock, users
                else:
                    del self._held[key]

    def put(self, key: str, reply: Reply, *, counted: tuple[int, int] | None = None) -> None:
        """Keep a reply: on the disk, under its name, whole, when this returns.

        Args:
            key: of the question.
            reply: to it.
            counted: tokens of question and answer as a budget counts them, where the server does not count.

        Raises:
            OutputError: the disk is full, or the folder cannot be written, and the cache is strict. Otherwise that
                costs the entry, not the answer: a warning is logged.
        """
        body = asdict(reply) | {"cached": False}
        stored = {"version": _VERSION, "key": key, "sha256": question_key(body), "reply": body, "counted": counted}
        path = self._path(key)
        try:
            write_atomic(path, json.dumps(stored))  # ASCII: a lone surrogate of a hostile reply stays an escape
        except OSError as error:
            if self.strict:
                raise OutputError(
                    f"A reply that was paid for cannot be kept: {error.strerror}.",
                    received=path,
                    hint="Make room and go on; all replies before it are kept.",
                ) from error
            log.warning("A reply cannot be cached: %s (%s)", path, error)

    def paid(self) -> tuple[int, int, int]:
        """Replies in the folder, and their tokens of question and answer."""
        calls = tokens_in = tokens_out = 0
        for path in self.folder.glob("??/[!.]*.json"):
            try:
                stored = json.loads(path.read_bytes())
                body, counted = stored["reply"], stored.get("counted") or (0, 0)
                tokens_in += counted[0] if body["tokens_in"] is None else int(body["tokens_in"])
                tokens_out += counted[1] if body["tokens_out"] is None else int(body["tokens_out"])
            except (OSError, ValueError, KeyError, TypeError) as error:
                log.warning("A cached reply is damaged: %s (%s)", path, error)
            calls += 1
        return calls, tokens_in, tokens_out

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
