"""Engines by name, from the entry points ``terraprompt.engines``.

A loaded engine answers prompts about pictures; :class:`terraprompt.flow.session.Session` joins it to a scene. (The
session lives downstream, with the flow, so that no engine imports what uses it.)
"""

from __future__ import annotations

import difflib
import functools
import inspect
from collections.abc import Callable, Mapping
from importlib.metadata import EntryPoint, entry_points
from types import MappingProxyType
from typing import Any

from terraprompt.engines.base import Engine
from terraprompt.errors import EngineError

__all__ = ["engine_names", "engine_option_names", "engines", "load_engine"]

GROUP = "terraprompt.engines"


@functools.cache
def engines() -> Mapping[str, EntryPoint]:
    """Name to entry point of every installed engine, read once; immutable, sorted by name."""
    return MappingProxyType({point.name: point for point in sorted(entry_points(group=GROUP))})


def engine_names() -> tuple[str, ...]:
    """Names of the installed engines, sorted."""
    return tuple(engines())


def engine_option_names(name: str) -> frozenset[str]:
    """Options that the loader of an installed engine takes; empty for an unknown name.

    Raises:
        EngineError: the engine cannot be imported.
    """
    if name not in engines():
        return frozenset()
    return frozenset(inspect.signature(_loader(name)).parameters)


def load_engine(name: str, **options: Any) -> Engine:
    """Load an engine with its weights.

    Args:
        name: one of :func:`engine_names`.
        options: handed to the engine's loader (device, precision, a folder of weights, …).

    Raises:
        EngineError: unknown name, an engine that cannot be imported, or a loader that does not take these options.
        CheckpointError: its weights are missing or damaged.
    """
    if name not in engines():
        near = difflib.get_close_matches(name, engine_names(), n=1, cutoff=0.5)
        known = ", ".join(engine_names()) or "none are installed"
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        raise EngineError("Unknown engine.", received=name, hint=f"{meant}Engines: {known}.")
    loader = _loader(name)
    try:
        inspect.signature(loader).bind(**options)
    except TypeError as error:
        raise EngineError(
            f'The engine "{name}" does not take these options ({error}).', received=", ".join(options)
        ) from error
    engine = loader(**options)
    if not isinstance(engine, Engine):
        lacking = [part for part in ("name", "info", "tile", "tasks", "encode", "predict") if not hasattr(engine, part)]
        raise EngineError(
            f'The entry point of "{name}" did not return an engine.',
            received=type(engine).__name__,
            hint=f"It lacks {', '.join(lacking)}; see docs/extend/engine.md.",
        )
    return engine


def _loader(name: str) -> Callable[..., Any]:
    point = engines()[name]
    try:
        loader: Callable[..., Any] = point.load()
    except (ImportError, AttributeError) as error:
        raise EngineError(
            f'The engine "{name}" cannot be imported ({error}).',
            received=point.value,
            hint="Install what it needs, or reinstall terraprompt.",
        ) from error
    return loader
