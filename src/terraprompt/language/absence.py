"""Categories that are not in an image: labelled but not found, or implausible for its source (``absence.toml``)."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Literal, Protocol

import numpy as np

from terraprompt.language.categories import training_vocabulary

__all__ = ["EXCEPTIONS", "IMPLAUSIBLE", "AbsentCategory", "absent_categories", "draw_absent"]

_TABLES = tomllib.loads(resources.files(__package__).joinpath("absence.toml").read_text(encoding="utf-8"))
IMPLAUSIBLE: Mapping[str, Collection[str]] = _TABLES["implausible"]
"""Source -> categories that cannot be in its images."""
EXCEPTIONS: Mapping[str, Collection[str]] = _TABLES["exceptions"]
"""Record id -> categories that must not be assumed absent there."""
_UNRELIABLE: Mapping[str, Collection[str]] = _TABLES["unreliable"]


@dataclass(frozen=True, slots=True)
class AbsentCategory:
    """A category that is not in an image.

    Attributes:
        category: its name.
        kind: "verified" = annotators looked for it and marked none; "assumed" = implausible for the source.
    """

    category: str
    kind: Literal["verified", "assumed"]


class _ImageRecord(Protocol):
    """What :func:`absent_categories` needs of a record."""

    @property
    def id(self) -> str: ...
    @property
    def source(self) -> str: ...
    @property
    def labelled(self) -> tuple[str, ...]: ...
    @property
    def present(self) -> tuple[str, ...]: ...


def absent_categories(record: _ImageRecord) -> tuple[AbsentCategory, ...]:
    """All categories known or assumed to be absent from an image, verified ones first."""
    unproven = {*record.present, *_UNRELIABLE.get(record.source, ())}
    known = training_vocabulary().categories
    verified = [name for name in record.labelled if name not in unproven and name in known]
    doubtful = {*record.labelled, *record.present, *EXCEPTIONS.get(record.id, ())}
    assumed = sorted(set(IMPLAUSIBLE.get(record.source, ())) - doubtful)
    return (
        *(AbsentCategory(name, "verified") for name in verified),
        *(AbsentCategory(name, "assumed") for name in assumed),
    )


def draw_absent(absent: Sequence[AbsentCategory], rng: np.random.Generator) -> str:
    """Name of one of the categories; verified and assumed ones equally often where there are both."""
    kinds = sorted({a.kind for a in absent})
    kind = kinds[int(rng.integers(len(kinds)))]
    names = [a.category for a in absent if a.kind == kind]
    return names[int(rng.integers(len(names)))]
