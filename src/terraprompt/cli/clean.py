"""``terraprompt clean``: what runs that were killed left on the disk."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Annotated

import typer

__all__ = ["register"]


def register(app: typer.Typer) -> None:
    """Add the verb."""
    app.command()(clean)


def clean(
    folders: Annotated[
        list[Path] | None,
        typer.Argument(help="Folders of outputs to look in, beside the one for work files.", show_default=False),
    ] = None,
    remove: Annotated[bool, typer.Option("--remove", help="Remove what is listed.")] = False,
) -> None:
    """List, or remove, what runs that were killed left behind; what a living process uses stays."""
    from terraprompt.io.files import translated
    from terraprompt.io.leftovers import leftovers

    places = dict.fromkeys(place.resolve() for place in (Path(tempfile.gettempdir()), Path(), *(folders or ())))
    found = [left for place in places for left in leftovers(place)]
    for left in found:
        typer.echo(f"{left.path} ({left.size / 1e6:,.1f} MB)")
        if remove:
            with translated(left.path):
                left.remove()
    total = f"{len(found)} leftover{'' if len(found) == 1 else 's'}, {sum(left.size for left in found) / 1e6:,.1f} MB"
    hint = "" if remove or not found else ". Remove with --remove"
    typer.echo(f"{total}{' removed' if remove else ''}{hint}.", err=True)
