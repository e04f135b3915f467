"""SIGTERM and SIGHUP end a run as Ctrl-C does; a loop that can save is asked to stop instead."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

__all__ = ["SIGNALS", "Interruption", "Stopped", "ends_by_signal", "saves_first"]

#: Signals that end a run, as far as the system has them, to the word for it.
SIGNALS = {
    getattr(signal, name): word
    for name, word in (("SIGINT", "Interrupted"), ("SIGTERM", "Terminated"), ("SIGHUP", "Hung up"))
    if hasattr(signal, name)
}


class Stopped(KeyboardInterrupt):
    """A signal asks the process to end; whatever cleans up after Ctrl-C cleans up after it."""


class Interruption:
    """Signals that came while :func:`ends_by_signal` or :func:`saves_first` was on, in order."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __bool__(self) -> bool:
        return bool(self.numbers)


@contextmanager
def ends_by_signal() -> Iterator[Interruption]:
    """Raise :class:`Stopped` in the main thread on the first signal, and on every further Ctrl-C.

    A signal that is ignored (``nohup``) or that somebody else handles stays so. Processes forked meanwhile die by
    SIGTERM as ever.
    """
    owner, came = os.getpid(), Interruption()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
        elif number == signal.SIGINT or not came:
            came.numbers.append(number)
            raise Stopped(number)

    hook = sys.unraisablehook

    def again(unraisable: Any) -> None:
        """A finaliser or a callback swallowed it: deliver it once more."""
        if isinstance(unraisable.exc_value, Stopped):
            threading.Timer(0.01, os.kill, (owner, came.numbers.pop())).start()  # sent here, it would be lost again
        else:
            hook(unraisable)

    with _handled(stop):
        sys.unraisablehook = again
        try:
            yield came
        finally:
            sys.unraisablehook = hook


@contextmanager
def saves_first(say: str, log: Any) -> Iterator[Interruption]:
    """Note the first signal, so that the work in hand can be saved; a second one acts at once.

    After the block the signal acts as if it had just come: KeyboardInterrupt, or the end of the process.

    Args:
        say: what is done now, e.g. "Saving after this step".
        log: logger for it.
    """
    came, owner = Interruption(), os.getpid()
    before: dict[int, Any] = {}

    def note(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner:  # a worker that was forked feeds the work that is to be saved
            signal.signal(number, signal.SIG_DFL)
            return
        signal.signal(number, before[number])
        came.numbers.append(number)
        log.warning("%s; interrupt again to stop at once.", say)

    with _handled(note) as handlers:
        before.update(handlers)
        yield came
    if came:
        signal.raise_signal(came.numbers[0])


@contextmanager
def _handled(handler: Any) -> Iterator[dict[int, Any]]:
    """Handle the signals that nobody ignores or handles in ways of their own; the former handlers come back."""
    before: dict[int, Any] = {}
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            now = signal.getsignal(number)
            if now in (signal.SIG_DFL, signal.default_int_handler) or getattr(now, "__module__", "") == __name__:
                before[number] = now
                signal.signal(number, handler)
    try:
        yield before
    finally:
        for number, now in before.items():
            signal.signal(number, now)
