"""What is known about one category: its names, and what it is for."""

from __future__ import annotations

from dataclasses import dataclass

from terraprompt.prompt import Task

__all__ = ["Category", "Noun"]


@dataclass(frozen=True, slots=True)
class Noun:
    """A countable name. ``plural`` equals ``singular`` for words such as aircraft."""

    singular: str
    plural: str


@dataclass(frozen=True, slots=True)
class Category:
    """One row of the knowledge table. Every ``held_*`` field is kept from training and measures unseen wording.

    Attributes:
        name: as in the labels, e.g. "solar_panel".
        nouns: countable names, the canonical one first; they take size and position words.
        held_nouns: likewise.
        phrases: further noun phrases without article.
        held_phrases: likewise.
        uses: function, use, material or consequence; a clause ("where …", "what …") or a whole question with "?".
        held_uses: likewise.
        roles: countable descriptions by function, which take size and position words too.
        held_roles: likewise.
    """

    name: str
    nouns: tuple[Noun, ...]
    held_nouns: tuple[Noun, ...]
    phrases: tuple[str, ...]
    held_phrases: tuple[str, ...]
    uses: tuple[str, ...]
    held_uses: tuple[str, ...]
    roles: tuple[Noun, ...]
    held_roles: tuple[Noun, ...]

    @property
    def singular(self) -> str:
        """The canonical singular, e.g. "solar panel"."""
        return self.nouns[0].singular

    @property
    def plural(self) -> str:
        """The canonical plural, e.g. "solar panels"."""
        return self.nouns[0].plural

    def names(self, *, held_out: bool = False) -> tuple[Noun, ...]:
        """Countable names, for training or held back."""
        return self.held_nouns if held_out else self.nouns

    def wordings(self, task: Task | str, *, held_out: bool = False) -> tuple[str, ...]:
        """Everything this category may be called in a referring instruction, or asked by in a reasoning one."""
        if Task(task) is Task.REASONING:
            return self.held_uses if held_out else self.uses
        phrases = self.held_phrases if held_out else self.phrases
        return tuple(dict.fromkeys([noun.plural for noun in self.names(held_out=held_out)] + list(phrases)))


def nouns(*pairs: str) -> tuple[Noun, ...]:
    """``"lake/lakes"`` -> ``Noun("lake", "lakes")``, for the tables."""
    split = (pair.split("/") for pair in pairs)
    return tuple(Noun(singular, plural) for singular, plural in split)
