"""The command line: one file a verb, thin."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from terraprompt.io.interruption import SIGNALS, ends_by_signal

if TYPE_CHECKING:
    from terraprompt.cli.root import app

__all__ = ["app", "main"]

_INTERRUPTED = 130  # what typer makes of Ctrl-C


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line; an error of the package becomes one line on stderr and exit code 1.

    SIGINT, SIGTERM and SIGHUP clean up and become one line and exit code 130, 143 or 129, from the first import on.

    Args:
        arguments: after the program's name; None takes those of the process.

    Raises:
        SystemExit: always; its code is the exit code.
    """
    with ends_by_signal() as came:
        try:
            from terraprompt.cli.root import run

            run(arguments)
        except BaseException as error:
            code = error.code if isinstance(error, SystemExit) else None
            done = isinstance(error, SystemExit) and code in (None, 0, 3)
            by_hand = isinstance(error, KeyboardInterrupt) or code == _INTERRUPTED
            if done or not (came or by_hand):
                raise
            number = came.numbers[0] if came else next(iter(SIGNALS))
            sys.stderr.write(f"{SIGNALS[number]}; no file was left half written.\n")
            raise SystemExit(128 + number) from None


def __getattr__(name: str) -> object:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from terraprompt.cli.root import app

    return app
