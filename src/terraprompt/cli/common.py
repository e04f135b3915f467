"""What several verbs share: reading options, JSON, progress on stderr."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Any, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from terraprompt.errors import ConfigError
from terraprompt.io.progress import Progress as Report

__all__ = ["FlowName", "as_json", "dem_option", "numbers", "progress", "renamed", "usable_device"]


class FlowName(StrEnum):
    """Choices of ``--flow``; see :data:`terraprompt.flow.settings.Flow`."""

    PUBLISHED = "published"
    PRODUCT = "product"


def numbers(text: str, counts: tuple[int, ...], option: str) -> list[float]:
    """Comma-separated numbers; a usage error names the option."""
    try:
        values = [float(part) for part in text.split(",")]
    except ValueError:
        values = []
    if len(values) not in counts:
        wanted = " or ".join(str(c) for c in counts)
        raise typer.BadParameter(f"{option} takes {wanted} numbers with commas between. Received: {text}")
    return values


def as_json(value: Any) -> str:
    """Indented JSON that every reader accepts: numbers without a JSON form ("nan", "inf") become text."""
    return json.dumps(_finite(value), indent=1, default=str, ensure_ascii=False, allow_nan=False)


def _finite(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def usable_device(name: str) -> str:
    """The name of a torch device, once a number came back from it.

    Raises:
        ConfigError: no such device, or none that works here.
    """
    import torch

    try:
        torch.zeros(1, device=name).tolist()
    except (RuntimeError, AssertionError) as error:
        said = str(error).partition("\n")[0].rstrip(".")
        raise ConfigError(
            f"The device cannot be used ({said}).",
            received=name,
            hint="Leave out --device for cpu; give cuda where torch sees a GPU.",
        ) from error
    return name


@contextmanager
def progress(label: str, *, quiet: bool) -> Iterator[Report | None]:
    """A bar on stderr with an estimate of the time left; nothing when quiet or not on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(label, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


def renamed(new: str) -> Callable[[Any], None]:
    """Callback of a hidden option of an old name: an error that says the new one."""

    def refuse(value: Any) -> None:
        if value:
            raise typer.BadParameter(f"This option is called {new} now.")

    return refuse


def dem_option(text: str | None) -> float | str | None:
    """The value of ``--dem``: a number is a height, anything else a raster."""
    try:
        return None if text is None else float(text)
    except ValueError:
        return text


def nodata_option(text: str | None) -> float | Literal["none"] | None:
    """The value of ``--nodata``."""
    if text is None or text == "none":
        return None if text is None else "none"
    try:
        return float(text)
    except ValueError:
        raise typer.BadParameter(f'--nodata takes a number or "none". Received: {text}') from None
