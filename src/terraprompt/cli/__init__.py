"""The command line: one file a verb, thin."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence

import typer

from terraprompt import __version__
from terraprompt.cli import dataset, demo, evaluate, info, models, reasoner, segment, train
from terraprompt.errors import TerrapromptError

__all__ = ["app", "main"]

_INTERRUPTED = 130

app = typer.Typer(
    name="terraprompt",
    help="Prompt the Earth: a raster and an instruction in, a georeferenced mask and polygons out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 3 ran and found nothing, 130 interrupted.",
)
for verb in (segment, info, models, reasoner, train, dataset, evaluate, demo):
    verb.register(app)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _options(
    version: bool = typer.Option(False, "--version", callback=_version, is_eager=True, help="Print the version."),
    verbose: bool = typer.Option(False, "--verbose", "-v", help="Log what is done."),
) -> None:
    logging.basicConfig(
        level=logging.INFO if verbose else logging.WARNING, format="%(levelname)s %(message)s", stream=sys.stderr
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: errors of the package become one line on stderr and exit code 1.

    Args:
        arguments: after the program's name; None takes those of the process.

    Raises:
        SystemExit: always; its code is the exit code.
    """
    try:
        app(args=None if arguments is None else list(arguments))
    except TerrapromptError as error:
        typer.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except SystemExit as stop:
        if stop.code == _INTERRUPTED:  # typer turns Ctrl-C into this code without a word
            typer.echo("Interrupted; no file was left half written.", err=True)
        raise
