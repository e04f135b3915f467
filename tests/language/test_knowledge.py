"""The category knowledge table: enough wordings, nothing shared, held-back wording really unseen."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from terraprompt.errors import ConfigError
from terraprompt.language import sentence_frames as frames
from terraprompt.language.knowledge import CATEGORIES, Category, category, plural_of
from terraprompt.prompt import Task, infer_text_task

NEEDED = [
    "building",
    "road",
    "lake",
    "solar_panel",
    "landslide",
    "forest",
    "car",
    "bus",
    "truck",
    "boat",
    "airplane",
    "tree",
    "field",
    "storage_tank",
    "sports_court",
    "swimming_pool",
    "bare_ground",
]
ROWS = pytest.mark.parametrize("row", CATEGORIES.values(), ids=lambda row: row.name)


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def everything(row: Category) -> set[str]:
    out = {
        words(w)
        for task in ("referring", "reasoning")
        for held in (False, True)
        for w in row.wordings(task, held_out=held)
    }
    for noun in (*row.nouns, *row.held_nouns, *row.roles, *row.held_roles):
        out |= {words(noun.singular), words(noun.plural)}
    return out


def test_every_needed_category_is_there() -> None:
    assert set(NEEDED) == set(CATEGORIES)
    assert category("lake").singular == "lake"
    with pytest.raises(ConfigError, match="unicorn"):
        category("unicorn")


@ROWS
def test_there_are_enough_wordings_on_both_sides(row: Category) -> None:
    for task, trained, held in (("referring", 30, 5), ("reasoning", 70, 5)):
        assert len(row.wordings(task)) >= trained
        assert len(row.wordings(task, held_out=True)) >= held


@ROWS
def test_held_back_wording_differs_in_words(row: Category) -> None:
    for task in ("referring", "reasoning"):
        trained = [set(words(w).split()) for w in row.wordings(task)]
        for wording in row.wordings(task, held_out=True):
            mine = set(words(wording).split())
            for other in trained:
                assert len(mine & other) < len(mine | other) * 0.7, wording
    assert not set(row.nouns) & set(row.held_nouns)


def test_no_wording_is_shared_by_two_categories() -> None:
    for a, b in combinations(CATEGORIES.values(), 2):
        assert not everything(a) & everything(b), (a.name, b.name)


def test_no_wording_is_repeated() -> None:
    for row in CATEGORIES.values():
        for task in ("referring", "reasoning"):
            texts = [words(w) for held in (False, True) for w in row.wordings(task, held_out=held)]
            assert len(set(texts)) == len(texts), row.name


@ROWS
def test_reasoning_does_not_name_the_category(row: Category) -> None:
    names = {word for noun in (*row.nouns, *row.held_nouns) for word in (noun.singular.lower(), noun.plural.lower())}
    for text in (*row.uses, *row.held_uses, *(r.plural for r in (*row.roles, *row.held_roles))):
        assert not any(re.search(rf"\b{re.escape(name)}\b", text.lower()) for name in names), text


def test_frames_are_distinct_and_hold_one_slot() -> None:
    for trained, held in (
        (frames.NAME_FRAMES, frames.HELD_NAME_FRAMES),
        (frames.CLAUSE_FRAMES, frames.HELD_CLAUSE_FRAMES),
        (frames.CONTEXT_FRAMES, frames.HELD_CONTEXT_FRAMES),
    ):
        assert len(set(trained) | set(held)) == len(trained) + len(held)
        assert all(frame.count("{x}") == 1 for frame in (*trained, *held))
    assert not set(frames.ARTICLES) & set(frames.HELD_ARTICLES)


def test_the_task_rule_fits_the_bare_wordings() -> None:
    for row in CATEGORIES.values():
        for task in (Task.REFERRING, Task.REASONING):
            for held in (False, True):
                for wording in row.wordings(task, held_out=held):
                    assert infer_text_task(wording) is task, wording


def test_plurals_are_known_for_nouns_only() -> None:
    assert plural_of("Lake") == "lakes"
    assert plural_of("PV panel") == "PV panels"
    assert plural_of("zeppelin") is None
