"""Replies kept on disk by the content of the question; a damaged entry is noticed and asked for again."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import secrets
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from terraprompt.errors import OutputError
from terraprompt.reasoners.base import Reply

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

    Raises:
        OutputError: the folder cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
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

    def put(self, key: str, reply: Reply) -> None:
        """Keep a reply. A full disk costs the entry, not the answer: a warning is logged."""
        body = asdict(reply) | {"cached": False}
        stored = {"version": _VERSION, "key": key, "sha256": question_key(body), "reply": body}
        path = self._path(key)
        temporary = path.with_name(f".{key[:16]}-{secrets.token_hex(6)}.tmp")
        try:
            path.parent.mkdir(exist_ok=True)
            try:
                with temporary.open("w", encoding="utf-8") as file:
                    json.dump(stored, file)  # ASCII: a lone surrogate of a hostile reply stays an escape
                    file.flush()
                    os.fsync(file.fileno())
                temporary.replace(path)
            finally:
                temporary.unlink(missing_ok=True)
        except OSError as error:
            log.warning("A reply cannot be cached: %s (%s)", path, error)

    def _path(self, key: str) -> Path:
        return self.folder / key[:2] / f"{key}.json"
