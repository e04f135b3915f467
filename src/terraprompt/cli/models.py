"""``terraprompt models``: which engines are installed."""

from __future__ import annotations

from typing import Annotated

import typer

from terraprompt.cli.common import as_json as to_json
from terraprompt.engines.registry import engine_names, load_engine

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(models)


def models(
    name: Annotated[str | None, typer.Argument(help="Load this engine and print what it is.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print as JSON.")] = False,
) -> None:
    """List the installed engines, or describe one (its weights are loaded and their checksum verified)."""
    if name is None:
        typer.echo(to_json(list(engine_names())) if as_json else "\n".join(engine_names()))
        return
    engine = load_engine(name)
    facts = {
        "engine": name,
        "model": engine.info.name,
        "revision": engine.info.revision,
        "sha256": engine.info.checksum,
        "settings": engine.info.settings,
        "tasks": sorted(task.value for task in engine.tasks),
        "tile": engine.tile.size,
        "overlap": engine.tile.overlap,
    }
    if as_json:
        typer.echo(to_json(facts))
        return
    for key, value in facts.items():
        typer.echo(f"{key:<9} {value}")
