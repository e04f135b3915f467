"""How a long piece of work reports how far it is."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["Progress"]

#: Called with (done, total) whenever a unit of work is finished.
Progress = Callable[[int, int], None]
