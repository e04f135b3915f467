"""The root of the command line: names and help lines of the verbs, each loaded when it is called."""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.main import get_group

from terraprompt import __version__
from terraprompt.cli.help import HelpGroup, VerbTyper
from terraprompt.errors import TerrapromptError

__all__ = ["VERBS", "app", "load_verb", "run"]

#: A verb, which is also its module here, to the first paragraph of its help: shown without importing the module.
VERBS = {
    "segment": "Find in SCENE what INSTRUCTION, points or boxes ask for.",
    "info": "Print size, bands, CRS, pixel size and the stretch that segmenting SCENE would use.",
    "demo": "Render a georeferenced scene and segment it with a text, a reasoning text, a point and a box.",
    "clean": "List, or remove, what runs that were killed left behind; what a living process uses stays.",
    "models": "List the installed engines, describe one, or convert weights.",
    "reasoner": "Check a reasoner, or measure the coordinates it answers in.",
    "train": "Train on the train split of DATA, of QUESTIONS, or of both; val is never looked at.",
    "dataset": "Data sets: list, check, index, download, forge, review.",
    "evaluate": "Ask ENGINE about every sample of a data set, score the answers by a protocol, and write a report.",
}


def load_verb(name: str) -> Any:
    """Import the module of a verb and return its click command."""
    verb = VerbTyper()
    verb.callback()(lambda: None)
    import_module(f"terraprompt.cli.{name}").register(verb)
    return get_group(verb).commands[name]


class _LazyGroup(HelpGroup):
    """Swap the placeholder of the verb that was called for the verb itself."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, placeholder, rest = super().resolve_command(ctx, args)
        return name, placeholder and load_verb(name or ""), rest


app = VerbTyper(
    name="terraprompt",
    cls=_LazyGroup,
    help="Prompt the Earth: a raster and an instruction in, a georeferenced mask and polygons out.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    epilog="Exit codes: 0 done, 1 error, 2 wrong usage, 3 ran and found nothing, 130 interrupted, 143 terminated.",
)
for _name, _help in VERBS.items():
    app.command(_name, help=_help)(lambda: None)


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


def run(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of the package becomes one line on stderr and exit code 1.

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
