"""Cues: something true of one object and of no other that could be meant, and the ways to say it."""

from __future__ import annotations

import re
from dataclasses import dataclass

from terraprompt.language.selector import Selector
from terraprompt.language.spatial import ORDINALS, patterns

__all__ = [
    "Cue",
    "CueWording",
    "direction_cue",
    "nearest_cue",
    "only_cue",
    "selector_cue",
    "touching_cue",
    "with_article",
]


_ODD = re.compile(r"\{o\} \w+most|\w-(?:left|right) |the single ")


@dataclass(frozen=True, slots=True)
class CueWording:
    """Two ways to say a cue.

    Attributes:
        phrase: a noun phrase, ``{s}`` is the noun: "the largest {s}".
        clause: after "it": "is the largest one".
    """

    phrase: str
    clause: str


@dataclass(frozen=True, slots=True)
class Cue:
    """Something true of one object alone.

    Attributes:
        name: for records, e.g. "largest", "touches:road".
        wordings: how it can be said.
        topic: two cues of one topic say nearly the same.
    """

    name: str
    wordings: tuple[CueWording, ...]
    topic: str


def only_cue() -> Cue:
    """The object is the only one of its category."""
    return Cue("only", tuple(CueWording(f"the {only}{{s}}", "is the only one") for only in ("", "only ")), "only")


def selector_cue(selector: Selector) -> Cue | None:
    """The object is the one that a selector picks; None if the selector cannot be said of one object."""
    phrases = [
        pattern.text.replace("{o}", ORDINALS.get(selector.rank, ""))
        for pattern in patterns(selector.kind, where=selector.where, rank=selector.rank, count=selector.count)
        # "the second topmost", "the one that is upper-left" and "the single smallest" are said by nobody
        if not (pattern.held_out or pattern.plural or _ODD.search(pattern.text))
    ]
    if not phrases:
        return None
    rank = str(selector.rank) if selector.rank > 1 else None
    return Cue(
        ":".join(part for part in (selector.kind, selector.where, rank) if part),
        tuple(CueWording(phrase, f"is {phrase.format(s='one')}") for phrase in phrases),
        "size" if selector.kind in ("largest", "smallest") else (selector.where or "central"),
    )


def touching_cue(category: str, noun: str) -> Cue:
    """The object alone touches one of another category, called ``noun``."""
    other = with_article(noun)
    wordings = (
        CueWording(f"the {{s}} that touches {other}", f"touches {other}"),
        CueWording(f"the {{s}} bordering on {other}", f"borders on {other}"),
    )
    return Cue(f"touches:{category}", wordings, f"beside {category}")


def nearest_cue(category: str, noun: str) -> Cue:
    """The object is the nearest to the only one of another category, called ``noun``."""
    wordings = tuple(
        CueWording(f"the {{s}} {near} to the {noun}", f"is the one {near} to the {noun}")
        for near in ("nearest", "closest")
    )
    return Cue(f"nearest:{category}", wordings, f"beside {category}")


def direction_cue(category: str, noun: str, direction: str) -> Cue:
    """The object alone lies in a compass direction of the only one of another category, called ``noun``."""
    where = f"{direction} of the {noun}"
    return Cue(
        f"{direction} of:{category}", (CueWording(f"the {{s}} {where}", f"lies {where}"),), f"side of {category}"
    )


def with_article(noun: str) -> str:
    """A noun of the vocabulary with "a" or "an"."""
    return f"{'an' if noun[0].lower() in 'aeio' or noun.startswith('urban') else 'a'} {noun}"
