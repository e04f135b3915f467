"""The category knowledge table: every category that instructions can be written for."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import replace
from importlib import resources
from types import MappingProxyType

from terraprompt.errors import ConfigError
from terraprompt.language.category import Category, Noun
from terraprompt.language.facts_built import BUILT
from terraprompt.language.facts_land import LAND
from terraprompt.language.facts_vehicles import VEHICLES

__all__ = ["CATEGORIES", "Category", "Noun", "category", "is_plural", "plural_of", "spelling"]

#: More wordings for training, written without sight of the held-back ones.
_MORE = tomllib.loads(resources.files(__package__).joinpath("wordings.toml").read_text(encoding="utf-8"))


def _with_more(row: Category) -> Category:
    more = _MORE.get(row.name, {})
    return replace(
        row,
        phrases=(*row.phrases, *more.get("referring", ())),
        uses=(*row.uses, *more.get("reasoning", ())),
    )


CATEGORIES: Mapping[str, Category] = MappingProxyType({row.name: _with_more(row) for row in (*BUILT, *LAND, *VEHICLES)})

_NOUNS = tuple(
    noun for row in CATEGORIES.values() for noun in (*row.nouns, *row.held_nouns, *row.roles, *row.held_roles)
)
_PLURALS = {noun.singular.lower(): noun.plural for noun in _NOUNS}
_SPELLINGS = {noun.plural.lower(): noun.plural for noun in _NOUNS}


def category(name: str) -> Category:
    """The row of a category.

    Raises:
        ConfigError: the table does not know it.
    """
    try:
        return CATEGORIES[name]
    except KeyError:
        raise ConfigError(
            "No instructions can be written for this category.",
            received=name,
            hint=f"Known: {', '.join(sorted(CATEGORIES))}. Add a row to terraprompt.language.",
        ) from None


def plural_of(singular: str) -> str | None:
    """The plural of a noun of the table (any case), or None for a noun that it does not know."""
    return _PLURALS.get(singular.lower())


def is_plural(phrase: str) -> bool | None:
    """Whether a noun of the table stands in the plural, None for a phrase that it does not know."""
    low = phrase.lower()
    if low in _PLURALS:
        return False
    return True if low in _SPELLINGS else None


def spelling(phrase: str) -> str:
    """A plural of the table as it is spelt there ("pv panels" -> "PV panels"); any other phrase unchanged."""
    return _SPELLINGS.get(phrase.lower(), phrase)
