"""What several verbs share: reading numbers from options, progress on stderr."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from terraprompt.pipeline import Progress as Report

__all__ = ["numbers", "progress"]


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
