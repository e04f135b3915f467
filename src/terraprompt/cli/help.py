"""Pages of help that a terminal of 80 columns can show: two columns, long names on a line of their own."""

from __future__ import annotations

import re
import shutil
import textwrap
from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

__all__ = ["HelpCommand", "HelpGroup", "VerbTyper"]

#: Columns: of the widest page, and of the names beside their texts.
_WIDEST, _NAMES = 100, 28
_TYPE = re.compile(r"<(?:list\[)?([\w ]+?)(?: range)?\]?>")


class HelpCommand(TyperCommand):
    """A command whose page of help is printed by :func:`_print_page`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Say of an option that is given twice that the last one counts."""
        words = args[: args.index("--")] if "--" in args else args
        for param in self.params:
            if param.param_type_name == "option" and not (param.multiple or param.is_flag):  # type: ignore[attr-defined]
                given = [word for word in words if word.partition("=")[0] in param.opts]
                if len(given) > 1:
                    name = given[0].partition("=")[0]
                    typer.echo(f"Note: {name} is given {len(given)} times; the last one counts.", err=True)
        return super().parse_args(ctx, args)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        _print_page(self, ctx)


class HelpGroup(TyperGroup):
    """A group whose page of help is printed by :func:`_print_page`."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print the page."""
        _print_page(self, ctx)


class VerbTyper(typer.Typer):
    """A Typer whose commands and groups print such pages."""

    def __init__(self, *, cls: type[TyperGroup] = HelpGroup, **options: Any) -> None:
        super().__init__(cls=cls, **options)

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """As of Typer; a decorator."""
        return super().command(name, **{"cls": HelpCommand, **options})


def _print_page(command: Any, ctx: Any) -> None:
    """Usage, text, then a panel for the arguments, each group of options and the commands, to stdout."""
    from rich.console import Console
    from rich.panel import Panel
    from rich.text import Text

    width = max(40, min(shutil.get_terminal_size((80, 24)).columns, _WIDEST))
    console = Console(width=width, highlight=False)
    panels: dict[str, list[tuple[str, str]]] = {}
    for param in command.get_params(ctx):
        if (record := param.get_help_record(ctx)) is not None:
            default = "Arguments" if param.param_type_name == "argument" else "Options"
            panel = getattr(param, "rich_help_panel", None) or default
            panels.setdefault(panel, []).append((_TYPE.sub(r"<\1>", record[0]), record[1]))
    for name in command.list_commands(ctx) if isinstance(command, TyperGroup) else ():
        verb = command.get_command(ctx, name)
        panels.setdefault("Commands", []).append((name, (verb.help or "").split("\n\n")[0]))
    console.print()
    for text in (f"Usage: {ctx.command_path} {' '.join(command.collect_usage_pieces(ctx))}", command.help or ""):
        for paragraph in filter(None, text.replace("``", "`").split("\n\n")):
            console.print(Text("\n".join(_wrap(paragraph, width - 2, " "))), end="\n\n")
    for title, rows in panels.items():
        lines = [line for row in rows for line in _row(*row, width - 4)]
        body = Text("\n").join(Text.assemble((head, "bold cyan"), tail) for head, tail in lines)
        console.print(Panel(body, title=title, title_align="left", border_style="dim"))
    if command.epilog:
        console.print(Text("\n".join(_wrap(command.epilog, width - 2, " "))), end="\n\n")


def _wrap(text: str, width: int, indent: str = "") -> list[str]:
    return textwrap.wrap(
        " ".join(text.split()), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
    )


def _row(names: str, text: str, width: int) -> list[tuple[str, str]]:
    """Lines of (names, text): names that are too long for their column stand above the text."""
    texts = _wrap(text, width - _NAMES) or [""]
    if len(names) > _NAMES - 2:
        heads = [(line, "") for line in _wrap(names, width)]
    else:
        heads = [(names.ljust(_NAMES), texts.pop(0))]
    return [*heads, *(("", " " * _NAMES + line) for line in texts)]
