"""Sentences that training and evaluation write about known categories are accepted, and asked as they are."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from terraprompt.language.categories import training_vocabulary
from terraprompt.language.parse_selector import Selector, parse_selector
from terraprompt.language.spatial import PLACES, SIDES
from terraprompt.language.understand import understand
from terraprompt.language.writer import category_instruction, contextual_instruction, selector_instruction
from terraprompt.prompt import Task

KNOWN = tuple(training_vocabulary().categories)
SELECTORS = [
    Selector("central"),
    *(Selector(kind, rank=r, count=c) for kind in ("largest", "smallest") for r, c in ((1, 1), (2, 1), (1, 3))),
    *(Selector("extreme", side, rank=r, count=c) for side in SIDES for r, c in ((1, 1), (2, 1), (1, 2))),
    *(Selector("region", place) for place in PLACES),
]


def sentences(*, held_out: bool) -> Iterator[tuple[str, str]]:
    rng = np.random.default_rng(7)
    for name in KNOWN:
        for task in (Task.REFERRING, Task.REASONING):
            for _ in range(70):
                yield name, category_instruction(name, rng, task=task, held_out=held_out)
        for selector in SELECTORS:
            if selector.where == "centre":
                continue  # not every category can be written there
            for selected in (1, 2):
                yield name, selector_instruction(selector, name, rng, selected=selected, held_out=held_out)
            yield name, contextual_instruction(selector, name, rng, held_out=held_out)


@pytest.mark.parametrize(("held_out", "least"), [(False, 1.0), (True, 0.99)])
def test_sentences_of_known_categories_are_asked_as_before(held_out: bool, least: float) -> None:
    written = list(sentences(held_out=held_out))
    assert len(written) > 3500
    changed = []
    for _, text in written:
        found, parsed = understand(text, KNOWN), parse_selector(text)
        before = (text, None) if parsed is None else (parsed.phrase, parsed.selector)
        plain = not (found.refusal or found.unknown_words or found.negated or found.minus or found.excluded)
        if not plain or found.counted or (found.phrases, found.selector) != ((before[0],), before[1]):
            changed.append((text, found.phrases, found.refusal, found.unknown_words))
    assert 1 - len(changed) / len(written) >= least, changed[:20]
