"""The categories that instructions are written for, their names and what they are for."""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from importlib import resources

from terraprompt.errors import ConfigError

__all__ = ["Kind", "Taxonomy", "load_taxonomy"]

_MOST = 255  # masks of patches are uint8, 0 = nothing


@dataclass(frozen=True, slots=True)
class Kind:
    """One category.

    Attributes:
        name: its key, e.g. "storage_tank".
        number: its value in the masks of patches, from 1.
        singular, plural: how it is written.
        also: other names that mean the same.
        group: what it can be taken for by use alone.
        broad: its name covers the other categories of its group.
        is_object: a thing ("that …") and not a place ("where …").
        uses: clauses after "that" or "where"; none names the category.
    """

    name: str
    number: int
    singular: str
    plural: str
    also: tuple[str, ...]
    group: str
    broad: bool
    is_object: bool
    uses: tuple[str, ...]

    @property
    def names(self) -> tuple[str, ...]:
        """Everything it may be called, longest first."""
        return tuple(sorted({self.singular, self.plural, *self.also}, key=lambda word: (-len(word), word)))

    def is_named_in(self, sentence: str) -> bool:
        """Whether one of its names stands in a sentence as whole words, also in the plural, whatever the case."""
        words = "|".join(re.escape(name) for name in self.names)
        return re.search(rf"\b(?:{words})(?:e?s)?\b", sentence, re.IGNORECASE) is not None


@dataclass(frozen=True)
class Taxonomy:
    """All categories.

    Attributes:
        kinds: by name, in the order of their numbers.
    """

    kinds: Mapping[str, Kind]
    _by_number: tuple[Kind | None, ...] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        row: list[Kind | None] = [None] * (len(self.kinds) + 1)
        for kind in self.kinds.values():
            row[kind.number] = kind
        object.__setattr__(self, "_by_number", tuple(row))

    def __len__(self) -> int:
        return len(self.kinds)

    def __getitem__(self, name: str) -> Kind:
        """The category called ``name``.

        Raises:
            ConfigError: there is none; the message names the nearest.
        """
        try:
            return self.kinds[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.kinds, n=3, cutoff=0.5)
            hint = f"Near: {', '.join(near)}. " if near else ""
            raise ConfigError(
                "The taxonomy has no place for this category.",
                received=name,
                hint=f"{hint}Map it to one that is there, set `ignore = true`, or add it to taxonomy.toml.",
            ) from None

    def of_number(self, number: int) -> Kind:
        """The category with this value in a mask."""
        kind = self._by_number[number] if 0 < number < len(self._by_number) else None
        if kind is None:
            raise ConfigError("No category has this number.", received=number)
        return kind

    def find(self, word: str) -> Kind | None:
        """The category with this name or synonym, whatever the case, underscores and plural; None if there is none."""
        return self._words().get(_plain(word))

    def covers(self, one: Kind, other: Kind) -> bool:
        """Whether the name of one of two categories could mean the other too."""
        return one.name != other.name and one.group == other.group and (one.broad or other.broad)

    @cache  # noqa: B019 - one taxonomy a process
    def _words(self) -> Mapping[str, Kind]:
        words: dict[str, Kind] = {}
        for kind in self.kinds.values():
            for word in (kind.name, *kind.names):
                words.setdefault(_plain(word), kind)
        return words

    def __hash__(self) -> int:
        return hash(tuple(self.kinds))


def _plain(word: str) -> str:
    return re.sub(r"[^a-z0-9]+", "", word.lower())


@cache
def load_taxonomy() -> Taxonomy:
    """The taxonomy of the package.

    Raises:
        ConfigError: the file is broken.
    """
    raw = tomllib.loads(resources.files(__package__).joinpath("taxonomy.toml").read_text(encoding="utf-8"))
    if len(raw) > _MOST:
        raise ConfigError(f"A taxonomy has at most {_MOST} categories.", received=len(raw))
    kinds = {}
    for number, (name, row) in enumerate(raw.items(), 1):
        kinds[name] = Kind(
            name=name,
            number=number,
            singular=name.replace("_", " ") if "singular" not in row else row["singular"],
            plural=row["plural"],
            also=tuple(row.get("also", ())),
            group=row["group"],
            broad=bool(row.get("broad", False)),
            is_object=bool(row.get("object", False)),
            uses=tuple(row["uses"]),
        )
    return Taxonomy(kinds)
