"""Words for size, order and position: the phrasings of every selector, for training and held back.

A pattern holds ``{s}`` (a singular noun) or ``{p}`` (a plural noun), and ``{n}`` or ``{o}`` where the selector counts.
Compass words take north as up; they stand beside image words ("northernmost", "topmost") because people mix both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

__all__ = ["COUNTS", "ORDINALS", "PLACES", "SIDES", "Pattern", "patterns"]

COUNTS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 8: "eight", 9: "nine", 10: "ten"}
ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth"}

# side -> (image word, compass noun); places -> the same for regions
SIDES = {"top": "north", "bottom": "south", "left": "west", "right": "east"}
PLACES = {
    "upper left": "northwest",
    "upper right": "northeast",
    "lower left": "southwest",
    "lower right": "southeast",
    "upper half": "north",
    "lower half": "south",
    "left half": "west",
    "right half": "east",
    "centre": "centre",
}


@dataclass(frozen=True, slots=True)
class Pattern:
    """A way to say a selector.

    Attributes:
        text: with ``{s}`` or ``{p}`` for the noun, ``{n}`` for a count word, ``{o}`` for an ordinal.
        held_out: kept from training, used to measure unseen wording.
        compass: says north, south, east or west.
    """

    text: str
    held_out: bool
    compass: bool = False

    @property
    def plural(self) -> bool:
        """Whether the noun stands in the plural."""
        return "{p}" in self.text


_SIZE = {
    "largest": ("largest", "biggest", "most", "greatest"),
    "smallest": ("smallest", "tiniest", "least", "least"),
}


def patterns(kind: str, *, where: str | None = None, rank: int = 1, count: int = 1) -> tuple[Pattern, ...]:
    """All phrasings of a selector, () if there is none; arguments as in :class:`.Selector`."""
    if kind in _SIZE:
        trained, held = _size(kind, rank, count)
    elif kind == "extreme" and where is not None:
        trained, held = _extreme(where, rank, count)
    elif kind == "central" and rank == count == 1:
        trained = [
            "the {s} nearest the centre",
            "the most central {s}",
            "the {s} closest to the centre of the image",
        ]
        held = ["the {s} in the middle", "the centremost {s}", "the {s} nearest to the midpoint of the image"]
    elif kind == "region" and where is not None:
        trained, held = _region(where)
    else:
        return ()
    return tuple(Pattern(t, False, _is_compass(t)) for t in trained) + tuple(
        Pattern(t, True, _is_compass(t)) for t in held
    )


def _is_compass(text: str) -> bool:
    return re.search(r"\b(north|south|east|west)", text) is not None


def _size(kind: str, rank: int, count: int) -> tuple[list[str], list[str]]:
    word, other, much, great = _SIZE[kind]
    if rank > 1:
        return (
            [f"the {{o}} {word} {{s}}", f"the {{o}}-{word} {{s}}"],
            [f"the {{o}} {other} {{s}}", f"the {{s}} ranked {{o}} from the {word} down"]
            if kind == "largest"
            else [f"the {{o}} {other} {{s}}"],
        )
    if count > 1:
        return (
            [f"the {{n}} {word} {{p}}", f"the {word} {{n}} {{p}}"],
            [f"the {{n}} {other} {{p}}", f"the {{n}} {{p}} with the {great} area"],
        )
    return (
        [f"the {word} {{s}}", f"the single {word} {{s}}", f"the {{s}} with the {word} area"],
        [f"the {other} {{s}}", f"the {{s}} that takes up the {much} space", f"the {{s}} of {great} extent"],
    )


def _extreme(side: str, rank: int, count: int) -> tuple[list[str], list[str]]:
    compass = SIDES[side]
    image_most = {"top": "topmost", "bottom": "bottommost", "left": "leftmost", "right": "rightmost"}[side]
    edge = f"{side} edge"
    if rank > 1:
        return (
            [f"the {{o}} {{s}} from the {side}", f"the {{o}} {image_most} {{s}}"],
            [f"the {{o}} {{s}} counting from the {side}", f"the {{o}} {{s}} from the {compass}"],
        )
    if count > 1:
        return (
            [f"the {{n}} {compass}ernmost {{p}}", f"the {{n}} {image_most} {{p}}"],
            [f"the {{n}} most {compass}erly {{p}}", f"the {{n}} {{p}} closest to the {edge}"],
        )
    far = {
        "top": "furthest up",
        "bottom": "furthest down",
        "left": "furthest left",
        "right": "furthest right",
    }[side]
    return (
        [
            f"the {compass}ernmost {{s}}",
            f"the {image_most} {{s}}",
            f"the {{s}} nearest the {edge}",
            f"the {{s}} farthest {compass}",
        ],
        [f"the most {compass}erly {{s}}", f"the {{s}} {far}", f"the {{s}} closest to the {compass}ern edge"],
    )


def _region(place: str) -> tuple[list[str], list[str]]:
    compass = PLACES[place]
    if place == "centre":
        return (
            ["the {p} in the centre", "the {p} in the central part of the image"],
            ["the {p} in the middle of the image"],
        )
    if place.endswith("half"):
        side = {"upper": "top", "lower": "bottom"}.get(place.split()[0], place.split()[0])
        trained = [f"in the {place}", f"in the {compass}ern half", f"on the {side} side"]
        held = [f"in the {compass}ern part of the image", f"within the {side} half"]
        held.append(f"on the {side}-hand side" if side in ("left", "right") else f"towards the {side}")
        return _both(trained), _both(held)
    side = {"upper": "top", "lower": "bottom"}[place.split()[0]] + " " + place.split()[1]
    trained = [f"in the {place}", f"in the {place} corner", f"in the {compass}", f"in the {place} quarter"]
    held = [f"at the {side}", f"in the {compass}ern part of the image", f"within the {side} quadrant"]
    dashed = place.replace(" ", "-")
    return (
        [*_both(trained), f"the {dashed} {{s}}"],
        [*_both(held), f"the {side.replace(' ', '-')} {{s}}"],
    )


def _both(tails: list[str]) -> list[str]:
    return [f"the {{{number}}} {tail}" for tail in tails for number in ("s", "p")]
