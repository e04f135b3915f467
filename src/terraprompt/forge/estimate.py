"""What the models of a recipe may be asked at most, before anything is asked.

An upper bound, from the headers of the images alone or, where the rule filter has run, from the regions it kept: every
region passes the model filter, every text comes about, every question takes all its attempts, every answer all of
``max_tokens``, and every patch is diverse enough for reasoning. Tokens of a question: one for 28 x 28 pixels of the
picture, half a token for a character of the words, 64 for the rest; a complaint repeats the answer before it.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from terraprompt.forge.constraints import REASON_WORDS, WORDS
from terraprompt.forge.items import Source
from terraprompt.forge.model_settings import Endpoint
from terraprompt.forge.prompts import prompt
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.stages import Parts
from terraprompt.language.categories import forge_vocabulary

__all__ = ["Load", "StageCost", "estimate", "load_of_headers", "load_of_regions"]

_LETTERS = 8  # characters a word, blank included, generously


@dataclass(frozen=True, slots=True)
class Load:
    """How much there is to ask about.

    Attributes:
        regions: that the rules keep, at most.
        attribute, contextual: of them, fit for such a question, at most.
    """

    regions: int
    attribute: int
    contextual: int


@dataclass(frozen=True, slots=True)
class StageCost:
    """Upper bound of one role.

    Attributes:
        endpoint: who is asked.
        questions: if every first answer is good.
        calls: with all attempts.
        tokens_in, tokens_out: of all calls.
        cost: in the currency of the endpoint's price.
    """

    endpoint: str
    questions: int
    calls: int
    tokens_in: int
    tokens_out: int
    cost: float


def load_of_headers(recipe: Recipe, sources: Iterable[Source], patches: Mapping[str, int]) -> Load:
    """From how many patches each source has: every category of its table is in every patch, as often as it may."""
    rules = recipe.regions
    room = max(1, math.floor(1 / rules.area[0])) if rules.area[0] > 0 else math.inf
    regions = attribute = contextual = 0
    for source in sources:
        kinds = len({row.category for row in source.table.classes if row.category is not None})
        here = patches.get(source.name, 0)
        regions += here * int(min(kinds * rules.quota, room))
        attribute += here * int(min(kinds, room))
        # two or three regions of a category, of which the quota keeps some
        contextual += here * int(min(kinds * min(rules.quota, 3), room))
    if (
        "contextual" in recipe.writing.kinds
    ):  # a category with several regions has no attribute question, and costs more
        attribute = 0
    return Load(regions, attribute, contextual)


def load_of_regions(filtered: Parts) -> Load:
    """From what a filter kept."""
    regions = attribute = contextual = 0
    for patch in filtered.rows(["regions"]):
        counts: dict[str, int] = {}
        for region in patch["regions"]:
            counts[region["category"]] = counts.get(region["category"], 0) + 1
        for region in patch["regions"]:
            if region["keep"]:
                regions += 1
                attribute += counts[region["category"]] == 1
                contextual += counts[region["category"]] in (2, 3)
    return Load(regions, attribute, contextual)


def estimate(recipe: Recipe, ruled: Load, load: Load, side: int) -> dict[str, StageCost]:
    """Upper bounds by role: "filter", "writer", "judge <name>".

    Args:
        recipe: names the models.
        ruled: what the rules keep, for the filter.
        load: what there is to write about.
        side: of the largest patch, pixels.
    """
    models, kinds = recipe.models, recipe.writing.kinds
    words = _longest_words(recipe)
    referring = load.regions if "referring" in kinds else 0
    attribute = load.attribute if "attribute" in kinds else 0
    contextual = load.contextual if "contextual" in kinds else 0
    asked: dict[str, tuple[str, dict[str, int]]] = {}
    if models.filter is not None:
        asked["filter"] = models.filter, {"filter": ruled.regions}
    if models.writer is not None:
        asked["writer"] = (
            models.writer,
            {"referring": referring, "attribute": attribute, "cues": contextual, "contextual": contextual},
        )
    for judge in models.judges:
        asked[f"judge {judge}"] = judge, {"judge_referring": referring, "judge_reasoning": attribute + contextual}
    return {
        role: _cost(name, models.endpoints[name], questions, words, 1 + models.reasks, side)
        for role, (name, questions) in asked.items()
    }


def _longest_words(recipe: Recipe) -> dict[str, int]:
    """Characters of each question, filled with the longest names there are."""
    kinds = forge_vocabulary().categories.values()
    line = recipe.models.line
    fields = {
        "category": max((kind.singular for kind in kinds), key=len),
        "names": max((", ".join(kind.names) for kind in kinds), key=len),
        "categories": "x" * 20 * 24,
        "cues": "x" * _LETTERS * 60,
        "colour": line.target,
        "others": line.others,
        "distractors": "x" * 100,  # a sentence on the other regions of the category
        "count": 3,
        "question": "x" * _LETTERS * max(WORDS["contextual"]),
        "reason": "x" * _LETTERS * REASON_WORDS,
    }
    names = ("filter", "referring", "attribute", "cues", "contextual", "judge_referring", "judge_reasoning")
    return {name: len(prompt(name, **fields)) for name in names}


def _cost(
    name: str, endpoint: Endpoint, questions: Mapping[str, int], words: Mapping[str, int], attempts: int, side: int
) -> StageCost:
    shown = side if endpoint.side is None else min(side, endpoint.side)
    picture = math.ceil(shown / 28) ** 2
    total = sum(questions.values())
    first = sum(count * (picture + math.ceil(words[what] / 2) + 64) for what, count in questions.items())
    # asking again shows the question, the bad answer (up to max_tokens) and a complaint
    again = first + total * (endpoint.max_tokens + 300)
    tokens_in = first + (attempts - 1) * again
    tokens_out = total * attempts * endpoint.max_tokens
    cost = (tokens_in * endpoint.price.tokens_in + tokens_out * endpoint.price.tokens_out) / 1e6
    return StageCost(name, total, total * attempts, tokens_in, tokens_out, cost)
