"""Rules that every forged instruction keeps to, whoever wrote it (spec, section 6)."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from terraprompt.language.categories import Category

__all__ = ["MARKING", "WORDS", "broken_rules", "word_count"]

#: Least and most words of a question, by kind. The paper asks for "about 30" in attribute questions and prints some of
#: 18; contextual ones have at least 25.
WORDS: Mapping[str, tuple[int, int]] = {
    "point": (5, 60),
    "box": (5, 30),
    "referring": (2, 40),
    "attribute": (15, 45),
    "contextual": (25, 90),
}
REASON_WORDS = 30
_SEGMENT = re.compile(r"\bsegment", re.IGNORECASE)
#: Speaks of the line round a region.
MARKING = re.compile(
    r"\b(?:outlin\w*|contour\w*|highlight\w*|overlay\w*|annotat\w*|bounding box\w*|marked|marking|mask\w*|"
    r"(?:en)?circled|delineated|demarcated|"
    r"(?:red|blue|yellow|cyan|magenta|coloured|colored) (?:line|border|box|region|area|shape|polygon|frame)s?)\b",
    re.IGNORECASE,
)


def word_count(sentence: str) -> int:
    """Words between blanks."""
    return len(sentence.split())


def broken_rules(sample: Mapping[str, Any], category: Category) -> list[str]:
    """What an instruction does wrong; empty if nothing.

    Args:
        sample: with ``kind``, ``question``, ``reason``, ``points`` and ``box``.
        category: its category.
    """
    kind, question, reason = sample["kind"], sample["question"], sample["reason"] or ""
    found = []
    if not _SEGMENT.search(question):
        found.append("the word segment is missing")
    least, most = WORDS[kind]
    count = word_count(question)
    if not least <= count <= most:
        found.append(f"the question has {count} words, allowed are {least} to {most}")
    if kind in ("point", "box"):
        numbers = [v for point in sample["points"] or [] for v in point] + list(sample["box"] or [])
        if not numbers or any(not 0 <= v <= 1 for v in numbers):
            found.append("coordinates are missing or outside [0, 1]")
        return found
    if MARKING.search(question) or MARKING.search(reason):
        found.append("the marking of the region is mentioned")
    if kind in ("attribute", "contextual"):
        if category.is_named_in(question):
            found.append("the question names the category")
        if not reason:
            found.append("the reason is missing")
        elif word_count(reason) > REASON_WORDS:
            found.append(f"the reason has {word_count(reason)} words, allowed are {REASON_WORDS}")
        elif not category.is_named_in(reason):
            found.append("the reason does not name the category")
    return found
