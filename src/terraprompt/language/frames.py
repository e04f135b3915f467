"""Sentences round a noun phrase or a clause, from ``frames.toml``."""

from __future__ import annotations

import tomllib
from functools import cache
from importlib import resources
from typing import Any

__all__ = ["frames"]


@cache
def frames(key: str, *, held_out: bool = False) -> tuple[str, ...]:
    """Frames by dotted key, e.g. ``"function.place.question"``; slots are described in the file.

    Args:
        key: of ``frames.toml``.
        held_out: those that training never sees.
    """
    found: Any = _load()["held_out"] if held_out else _load()
    for part in key.split("."):
        found = found[part]
    return tuple(found)


@cache
def _load() -> dict[str, Any]:
    return tomllib.loads(resources.files(__package__).joinpath("frames.toml").read_text(encoding="utf-8"))
