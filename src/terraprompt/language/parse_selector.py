"""Size, order and position words as a value: which of the found objects are meant.

A model sees one tile and cannot know which lake of a scene is the largest. So the scene flow takes the words apart
with :func:`parse_selector`, asks the model for the plain noun phrase, and applies the :class:`Selector` to the objects
of the whole scene. Training uses the same class to make targets, so both sides mean the same by "the second largest".
"""

from __future__ import annotations

from dataclasses import dataclass

from terraprompt.language.grammar import parse
from terraprompt.language.selector import HasExtent, Selector
from terraprompt.language.spatial import ORDINALS

__all__ = ["HasExtent", "ParsedSelector", "Selector", "describe", "parse_selector"]


@dataclass(frozen=True, slots=True)
class ParsedSelector:
    """An instruction taken apart.

    Attributes:
        phrase: what to ask the model, e.g. "the lakes".
        selector: which of the found objects are meant.
    """

    phrase: str
    selector: Selector


def parse_selector(text: str) -> ParsedSelector | None:
    """Take an instruction apart into a noun phrase and a selector, or None if it holds no clear selector.

    Conservative: "large buildings", "the largest buildings" (how many?), "the road left of the lake" (two objects),
    questions of purpose and anything with further clauses give None and go to the model as they are.
    """
    found = parse(text)
    return None if found is None else ParsedSelector(*found)


def describe(selector: Selector) -> str:
    """A short English name for provenance and logs, e.g. "second largest", "2 nearest the top, in the left half"."""
    if selector.kind == "region":
        return f"in the {selector.where}"
    what = {
        "largest": "largest",
        "smallest": "smallest",
        "central": "nearest the centre",
        "extreme": f"nearest the {selector.where}",
    }[selector.kind]
    if selector.rank > 1:
        what = f"{ORDINALS.get(selector.rank, f'number {selector.rank}')} {what}"
    if selector.count > 1:
        what = f"{selector.count} {what}" if selector.rank == 1 else f"{selector.count} from the {what}"
    return what if selector.within is None else f"{what}, in the {selector.within}"
