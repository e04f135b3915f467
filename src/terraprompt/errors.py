"""One error tree.

Every message says what was wrong, what was received and what to do next, so that the command line can print it
as it is and a service can return it as it is.
"""

from __future__ import annotations

__all__ = [
    "BudgetError",
    "CheckpointError",
    "ConfigError",
    "DatasetError",
    "EngineError",
    "LimitError",
    "OutputError",
    "PickleRefusedError",
    "PromptError",
    "ReasonerError",
    "SceneError",
    "TerrapromptError",
]


class TerrapromptError(Exception):
    """Base of everything this package raises on purpose.

    Args:
        what: what was wrong, one sentence.
        received: the offending value; shown as ``Received: …``.
        hint: what to do next, one sentence.
    """

    def __init__(self, what: str, *, received: object = None, hint: str | None = None) -> None:
        self.what = what
        self.received = received
        self.hint = hint
        parts = [what]
        if received is not None:
            parts.append(f"Received: {received}.")
        if hint is not None:
            parts.append(hint)
        super().__init__(" ".join(parts))


class SceneError(TerrapromptError):
    """The raster cannot be read or lacks what the request needs (bands, CRS, valid pixels)."""


class PromptError(TerrapromptError, ValueError):
    """The instruction, a point or a box makes no sense, or lies outside the scene."""


class OutputError(TerrapromptError):
    """A result cannot be written; what was there before is untouched."""


class EngineError(TerrapromptError):
    """An engine is unknown, misconfigured or failed while answering."""


class CheckpointError(EngineError):
    """Model weights are missing, damaged, truncated or of another architecture."""


class PickleRefusedError(TerrapromptError):
    """A pickle is missing, damaged, or holds more than plain data; nothing of it was run."""


class ReasonerError(EngineError):
    """A reasoner cannot be reached, is not what it claims, or gives no usable answer."""


class BudgetError(ReasonerError):
    """The next question could exceed the tokens or the money allowed; what was answered before is kept."""


class LimitError(EngineError):
    """One query would take more calls or more time than it may; it fails, others are not touched."""


class DatasetError(TerrapromptError):
    """A data set, a record or a label file is broken or missing."""


class ConfigError(TerrapromptError, ValueError):
    """A configuration value is out of range or contradicts another."""
