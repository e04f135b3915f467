"""Extensions of third parties: objects named by entry points, imported when they are first used."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from terraprompt.errors import ConfigError, TerrapromptError

__all__ = ["installed", "load_installed"]


@functools.cache
def installed(group: str) -> Mapping[str, EntryPoint]:
    """Name to entry point of a group, read once; immutable, sorted by name."""
    return MappingProxyType({point.name: point for point in sorted(entry_points(group=group))})


@functools.cache
def load_installed(group: str, name: str, error: type[TerrapromptError] = ConfigError) -> Any:
    """The object that an entry point names.

    Raises:
        error: it cannot be imported.
    """
    point = installed(group)[name]
    try:
        return point.load()
    except (ImportError, AttributeError) as cause:
        raise error(
            f'The entry point "{name}" of {group} cannot be imported ({cause}).',
            received=point.value,
            hint="Install what it needs, or reinstall or remove the package that declares it.",
        ) from cause
