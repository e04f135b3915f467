"""Engines by name, from the entry points ``terraprompt.engines``.

A loaded engine answers prompts about pictures; :class:`terraprompt.flow.session.Session` joins it to a scene. (The
session lives downstream, with the flow, so that no engine imports what uses it.)
"""

from __future__ import annotations

import difflib
import inspect
from typing import Any

from terraprompt.engines.base import Engine
from terraprompt.errors import EngineError
from terraprompt.io.entry_points import installed, load_installed

__all__ = ["engine_names", "engine_option_names", "load_engine"]

GROUP = "terraprompt.engines"


def engine_names() -> tuple[str, ...]:
    """Names of the installed engines, sorted."""
    return tuple(installed(GROUP))


def engine_option_names(name: str) -> frozenset[str]:
    """Options that the loader of an installed engine takes; empty for an unknown name.

    Raises:
        EngineError: the engine cannot be imported.
    """
    if name not in engine_names():
        return frozenset()
    return frozenset(inspect.signature(load_installed(GROUP, name, EngineError)).parameters)


def load_engine(name: str, **options: Any) -> Engine:
    """Load an engine with its weights.

    Args:
        name: one of :func:`engine_names`.
        options: handed to the engine's loader (device, precision, a folder of weights, …).

    Raises:
        EngineError: unknown name, an engine that cannot be imported, or a loader that does not take these options.
        CheckpointError: its weights are missing or damaged.
    """
    if name not in engine_names():
        near = difflib.get_close_matches(name, engine_names(), n=1, cutoff=0.5)
        known = ", ".join(engine_names()) or "none are installed"
        meant = f'Did you mean "{near[0]}"? ' if near else ""
        raise EngineError("Unknown engine.", received=name, hint=f"{meant}Engines: {known}.")
    loader = load_installed(GROUP, name, EngineError)
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
