"""Base of settings that are read from files: an unknown key is an error that names the known ones."""

from __future__ import annotations

import difflib
import logging
from collections.abc import Iterator
from typing import Any, ClassVar, get_args

from pydantic import BaseModel, ConfigDict, ValidationError

from terraprompt.errors import ConfigError

__all__ = ["Strict", "check_keys", "faults", "keys_of"]

log = logging.getLogger(__name__)


class Strict(BaseModel):
    """Base of the settings of recipes and source tables.

    Attributes:
        renamed: old key -> its name now; an old one is taken, with a warning that says so.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    renamed: ClassVar[dict[str, str]] = {}


def keys_of(model: type[BaseModel]) -> list[str]:
    """Keys that may stand in a file."""
    return [name for name, field in model.model_fields.items() if not field.exclude]


def check_keys(raw: dict[Any, Any], model: type[BaseModel], where: str = "") -> None:
    """Look for unknown keys at every depth; old names are replaced by the new ones, in place, with a warning.

    Raises:
        ConfigError: there is one; the message gives its place and the nearest known key, never its value.
    """
    known = keys_of(model)
    renamed: dict[str, str] = getattr(model, "renamed", {})
    for key, value in list(raw.items()):
        if key in renamed:
            new = renamed[key]
            if new in raw:
                raise ConfigError(
                    "A key of the recipe is given under its old and its new name.",
                    received=f"{where}{key} and {where}{new}",
                    hint=f'Leave "{key}" out.',
                )
            log.warning('The key "%s%s" is called "%s" now.', where, key, new)
            raw[new] = raw.pop(key)
            key = new
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1, cutoff=0.6)
            meant = f'Did you mean "{near[0]}"? ' if near else ""
            raise ConfigError(
                "The recipe has an unknown key.", received=f"{where}{key}", hint=f"{meant}Known: {', '.join(known)}."
            )
        annotation = model.model_fields[key].annotation
        for part in _settings_in(annotation):
            for place, item in _items(value, f"{where}{key}.", named=_is_named(annotation)):
                if isinstance(item, dict):
                    check_keys(item, part, place)


def faults(error: ValidationError) -> str:
    """What pydantic found, in one line."""
    parts = []
    for fault in error.errors():
        place = ".".join(str(part) for part in fault["loc"])
        parts.append(f"{place}: {fault['msg']}" if place else str(fault["msg"]))
    return "; ".join(parts[:5])


def _settings_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for part in get_args(annotation):
        yield from _settings_in(part)


def _is_named(annotation: Any) -> bool:
    return getattr(annotation, "__origin__", None) is dict


def _items(value: Any, where: str, *, named: bool) -> Iterator[tuple[str, Any]]:
    if isinstance(value, list):
        yield from ((where, item) for item in value)
    elif named and isinstance(value, dict):
        yield from ((f"{where}{name}.", item) for name, item in value.items())
    else:
        yield where, value
