"""The vocabulary: every category with its names, uses and wordings, loaded from ``vocabulary/*.toml``.

Keys of a category in TOML:

- ``singular`` (default: the key with blanks for underscores) and ``plural``: how it is written;
- ``synonyms``: other names that mean the same; none may stand in a question that hides the category;
- ``group``: categories of one group are never told apart by use alone; with ``functions``, a category of the forge;
- ``broad``: its name covers the other categories of its group ("vehicle" covers "bus");
- ``object``: a thing ("that …") instead of a place ("where …");
- ``functions``: two clauses after "where" or "that" that say what it is for, without naming it;
- ``nouns``, ``roles``, ``phrases``, ``uses``: wordings for training, see :class:`Wordings`;
- ``held_out``: a table of the same, kept from training to measure unseen wording. Training wordings were written
  without sight of it, and none comes near one of it.

Forge and training each see the categories that have what they need.
"""

from __future__ import annotations

import difflib
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from importlib import resources
from typing import Any

from terraprompt.errors import ConfigError
from terraprompt.prompt import Task

__all__ = [
    "Category",
    "Noun",
    "Vocabulary",
    "Wordings",
    "canonical_plural",
    "forge_vocabulary",
    "is_plural",
    "plural_of",
    "training_vocabulary",
]

#: In the order of the numbers of the categories; named in full, so that a fingerprint of this module covers them.
_FILES = (
    "vocabulary/water.toml",
    "vocabulary/woods.toml",
    "vocabulary/grass.toml",
    "vocabulary/crops.toml",
    "vocabulary/bare_ground.toml",
    "vocabulary/traffic.toml",
    "vocabulary/built.toml",
    "vocabulary/sport.toml",
    "vocabulary/vehicles.toml",
    "vocabulary/ships.toml",
    "vocabulary/aircraft.toml",
)
_WORDING_KEYS = {"nouns", "roles", "phrases", "uses"}
_KEYS = {"singular", "plural", "synonyms", "group", "broad", "object", "functions", "held_out"} | _WORDING_KEYS
_MAX_CATEGORIES = 255  # label masks are uint8, 0 = no category


@dataclass(frozen=True, slots=True)
class Noun:
    """A countable name. ``plural`` equals ``singular`` for words such as aircraft."""

    singular: str
    plural: str


@dataclass(frozen=True, slots=True)
class Wordings:
    """What a category is called in instructions.

    Attributes:
        nouns: countable names, which take size and position words.
        roles: countable descriptions by function, which take size and position words too.
        phrases: further noun phrases without article.
        uses: function, material or consequence; a clause ("where …", "what …") or a whole question with "?".
    """

    nouns: tuple[Noun, ...] = ()
    roles: tuple[Noun, ...] = ()
    phrases: tuple[str, ...] = ()
    uses: tuple[str, ...] = ()

    def for_task(self, task: Task | str) -> tuple[str, ...]:
        """Names for a referring instruction, plural nouns first; uses for a reasoning one."""
        if Task(task) is Task.REASONING:
            return self.uses
        return tuple(dict.fromkeys([*(noun.plural for noun in self.nouns), *self.phrases]))


@dataclass(frozen=True, slots=True)
class Category:
    """One category; the fields are explained at the top of this file.

    Attributes:
        name: its key, e.g. "storage_tank".
        number: its value in label masks of the forge, from 1; 0 = no category of the forge.
        trained: wordings for training, the canonical noun first; empty where there are none.
        held_out: wordings that training never sees.
    """

    name: str
    number: int
    singular: str
    plural: str
    synonyms: tuple[str, ...]
    group: str
    is_broad: bool
    is_object: bool
    functions: tuple[str, ...]
    trained: Wordings
    held_out: Wordings

    @classmethod
    def from_toml(cls, name: str, row: Mapping[str, Any], number: int) -> Category:
        """Read one table of a vocabulary file.

        Raises:
            ConfigError: a key is unknown, missing or of the wrong type.
        """
        held_out = row.get("held_out", {})
        if unknown := sorted((set(row) - _KEYS) | (set(held_out) - _WORDING_KEYS)):
            raise ConfigError(f"Category {name} has unknown keys.", received=", ".join(unknown))
        if not isinstance(row.get("plural"), str):
            raise ConfigError(f"Category {name} needs a plural.", received=row.get("plural"))
        if ("group" in row) != (len(row.get("functions", ())) == 2):
            raise ConfigError(f"Category {name} needs a group and two functions, or neither.", received=list(row))
        singular = row.get("singular", name.replace("_", " "))
        trained = _wordings(name, row)
        if trained.uses:
            nouns = (Noun(singular, row["plural"]), *trained.nouns)
            trained = Wordings(nouns, trained.roles, trained.phrases, trained.uses)
        return cls(
            name=name,
            number=number,
            singular=singular,
            plural=row["plural"],
            synonyms=_texts(name, row, "synonyms"),
            group=row.get("group", ""),
            is_broad=row.get("broad", False),
            is_object=row.get("object", False),
            functions=_texts(name, row, "functions"),
            trained=trained,
            held_out=_wordings(name, held_out),
        )

    @property
    def names(self) -> tuple[str, ...]:
        """Singular, plural and synonyms, longest first."""
        return tuple(sorted({self.singular, self.plural, *self.synonyms}, key=lambda word: (-len(word), word)))

    def is_named_in(self, sentence: str) -> bool:
        """Whether one of its names stands in a sentence as whole words, also in the plural, whatever the case."""
        words = "|".join(re.escape(name) for name in self.names)
        return re.search(rf"\b(?:{words})(?:e?s)?\b", sentence, re.IGNORECASE) is not None

    def is_confusable_with(self, other: Category) -> bool:
        """Whether the name of one of two categories could mean the other too."""
        return self.name != other.name and self.group == other.group and (self.is_broad or other.is_broad)


@dataclass(frozen=True)
class Vocabulary:
    """Categories by name, in the order of their numbers."""

    categories: Mapping[str, Category] = field(repr=False)

    def __getitem__(self, name: str) -> Category:
        """The category called ``name``.

        Raises:
            ConfigError: there is none; the message names the nearest.
        """
        try:
            return self.categories[name]
        except KeyError:
            near = difflib.get_close_matches(name, self.categories, n=3, cutoff=0.5)
            raise ConfigError(
                "The vocabulary has no such category.",
                received=name,
                hint=(f"Near: {', '.join(near)}. " if near else "")
                + "Use one that is there, or add it to terraprompt/language/vocabulary; a class of a source table can "
                "also be left out with `ignore = true`.",
            ) from None

    def of_number(self, number: int) -> Category:
        """The category with this value in a label mask.

        Raises:
            ConfigError: there is none.
        """
        try:
            return self._by_number[number]
        except KeyError:
            raise ConfigError("No category has this number.", received=number) from None

    def find(self, word: str) -> Category | None:
        """The category with this name or synonym, whatever the case, underscores and plural; None if there is none."""
        return self._by_word.get(_letters(word))

    @cached_property
    def _by_number(self) -> Mapping[int, Category]:
        return {category.number: category for category in self.categories.values() if category.number}

    @cached_property
    def _by_word(self) -> Mapping[str, Category]:
        words: dict[str, Category] = {}
        for category in self.categories.values():
            for word in (category.name, *category.names):
                words.setdefault(_letters(word), category)
        return words


@cache
def forge_vocabulary() -> Vocabulary:
    """The categories that forge data sets are written about."""
    return Vocabulary({row.name: row for row in _load() if row.group})


@cache
def training_vocabulary() -> Vocabulary:
    """The categories that training instructions are written about."""
    return Vocabulary({row.name: row for row in _load() if row.trained.uses})


def plural_of(singular: str) -> str | None:
    """The plural of a noun of the training vocabulary (any case), None for a noun that it does not know."""
    return _plurals()[0].get(singular.lower())


def is_plural(phrase: str) -> bool | None:
    """Whether a noun of the training vocabulary stands in the plural, None for a phrase that it does not know."""
    singulars, plurals = _plurals()
    if phrase.lower() in singulars:
        return False
    return True if phrase.lower() in plurals else None


def canonical_plural(phrase: str) -> str:
    """A plural of the training vocabulary as it is spelt there ("pv panels" -> "PV panels"); any other unchanged."""
    return _plurals()[1].get(phrase.lower(), phrase)


@cache
def _load() -> tuple[Category, ...]:
    """All categories.

    Raises:
        ConfigError: a file is broken.
    """
    rows: dict[str, Category] = {}
    number = 0
    for file in _FILES:
        text = resources.files(__package__).joinpath(file).read_text(encoding="utf-8")
        for name, row in tomllib.loads(text).items():
            if name in rows:
                raise ConfigError("A category stands twice in the vocabulary.", received=name)
            number += "group" in row
            rows[name] = Category.from_toml(name, row, number if "group" in row else 0)
    if number > _MAX_CATEGORIES:
        raise ConfigError(f"A vocabulary has at most {_MAX_CATEGORIES} categories with a number.", received=number)
    return tuple(rows.values())


@cache
def _plurals() -> tuple[Mapping[str, str], Mapping[str, str]]:
    """Plurals by lower-case singular, and by lower-case plural."""
    nouns = [
        noun
        for row in training_vocabulary().categories.values()
        for words in (row.trained, row.held_out)
        for noun in (*words.nouns, *words.roles)
    ]
    return {n.singular.lower(): n.plural for n in nouns}, {n.plural.lower(): n.plural for n in nouns}


def _wordings(name: str, row: Mapping[str, Any]) -> Wordings:
    nouns, roles = (
        tuple(Noun(*pair.split("/", 1)) for pair in _texts(name, row, key, form=r"[^/]+/[^/]+"))
        for key in ("nouns", "roles")
    )
    return Wordings(nouns, roles, _texts(name, row, "phrases"), _texts(name, row, "uses"))


def _texts(name: str, row: Mapping[str, Any], key: str, *, form: str = ".+") -> tuple[str, ...]:
    texts: Sequence[object] = row.get(key, ())
    if isinstance(texts, str) or not all(isinstance(text, str) and re.fullmatch(form, text) for text in texts):
        raise ConfigError(f"{key} of category {name} is not a list of texts of the right form.", received=texts)
    return tuple(str(text) for text in texts)


def _letters(word: str) -> str:
    """Lower-case letters and digits only."""
    return re.sub(r"[^a-z0-9]+", "", word.lower())
