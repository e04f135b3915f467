"""Extensions of third parties: objects named by entry points, imported when they are first used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from terraprompt.errors import ConfigError

__all__ = ["installed", "load_installed"]


@functools.cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Name to entry point of a group, read once; immutable, sorted by name."""
    return MappingProxyType({point.name: point for point in sorted(entry_points(group=group))})


@functools.cache
def load_installed(group: str, name: str) -> Any:
    """The object that an entry point names.

    Raises:
        ConfigError: it cannot be imported.
    """
    point = installed(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f'The entry point "{name}" of {group} cannot be imported ({error}).',
            received=point.value,
            hint="Reinstall the package that declares it, or remove it.",
        ) from error
