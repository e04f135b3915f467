"""Published numbers that a report puts beside a run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["Reference", "references_for"]


@dataclass(frozen=True, slots=True)
class Reference:
    """One published result.

    Attributes:
        method: as its authors call it.
        protocol: name of the preset that its numbers were made with.
        split: of the data set.
        values: metric -> per cent.
        note: a known fault of the reporting, or "".
    """

    method: str
    protocol: str
    split: str
    values: Mapping[str, float] = field(default_factory=dict)
    note: str = ""


def references_for(dataset: str) -> tuple[Reference, ...]:
    """Published results on a data set; none where none are known."""
    return ()
