"""The vocabulary: enough wordings, nothing shared, held-out wording really unseen, broken files refused."""

from __future__ import annotations

import re
from itertools import combinations

import pytest

from terraprompt.errors import ConfigError
from terraprompt.language.categories import Category, forge_vocabulary, plural_of, training_vocabulary
from terraprompt.language.frames import frames
from terraprompt.prompt import Task, infer_text_task

CATEGORIES = training_vocabulary().categories
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
    "water",
    "vegetation",
]
ROWS = pytest.mark.parametrize("row", CATEGORIES.values(), ids=lambda row: row.name)


def words(text: str) -> str:
    return " ".join(re.findall(r"[a-z]+", text.lower()))


def everything(row: Category) -> set[str]:
    out = {
        words(w)
        for task in ("referring", "reasoning")
        for held in (False, True)
        for w in (row.held_out if held else row.trained).for_task(task)
    }
    for noun in (*row.trained.nouns, *row.held_out.nouns, *row.trained.roles, *row.held_out.roles):
        out |= {words(noun.singular), words(noun.plural)}
    return out


def test_every_needed_category_is_there() -> None:
    assert set(NEEDED) == set(CATEGORIES)
    assert training_vocabulary()["lake"].singular == "lake"
    with pytest.raises(ConfigError, match="unicorn"):
        training_vocabulary()["unicorn"]


@ROWS
def test_there_are_enough_wordings_on_both_sides(row: Category) -> None:
    for task, trained, held in (("referring", 30, 5), ("reasoning", 70, 5)):
        assert len(row.trained.for_task(task)) >= trained
        assert len(row.held_out.for_task(task)) >= held


@ROWS
def test_held_back_wording_differs_in_words(row: Category) -> None:
    for task in ("referring", "reasoning"):
        trained = [set(words(w).split()) for w in row.trained.for_task(task)]
        for wording in row.held_out.for_task(task):
            mine = set(words(wording).split())
            for other in trained:
                assert len(mine & other) < len(mine | other) * 0.7, wording
    assert not set(row.trained.nouns) & set(row.held_out.nouns)


def test_no_wording_is_shared_by_two_categories() -> None:
    for a, b in combinations(CATEGORIES.values(), 2):
        assert not everything(a) & everything(b), (a.name, b.name)


def test_no_wording_is_repeated() -> None:
    for row in CATEGORIES.values():
        for task in ("referring", "reasoning"):
            texts = [words(w) for held in (False, True) for w in (row.held_out if held else row.trained).for_task(task)]
            assert len(set(texts)) == len(texts), row.name


@ROWS
def test_reasoning_does_not_name_the_category(row: Category) -> None:
    names = {
        word
        for noun in (*row.trained.nouns, *row.held_out.nouns)
        for word in (noun.singular.lower(), noun.plural.lower())
    }
    for text in (*row.trained.uses, *row.held_out.uses, *(r.plural for r in (*row.trained.roles, *row.held_out.roles))):
        assert not any(re.search(rf"\b{re.escape(name)}\b", text.lower()) for name in names), text


def test_frames_are_distinct_and_hold_one_slot() -> None:
    for key in ("name", "clause", "context"):
        trained, held = frames(key), frames(key, held_out=True)
        assert len(set(trained) | set(held)) == len(trained) + len(held)
        assert all(frame.count("{x}") == 1 for frame in (*trained, *held))
    assert not set(frames("article")) & set(frames("article", held_out=True))


def test_the_task_rule_fits_the_bare_wordings() -> None:
    for row in CATEGORIES.values():
        for task in (Task.REFERRING, Task.REASONING):
            for held in (False, True):
                for wording in (row.held_out if held else row.trained).for_task(task):
                    assert infer_text_task(wording) is task, wording


def test_plurals_are_known_for_nouns_only() -> None:
    assert plural_of("Lake") == "lakes"
    assert plural_of("PV panel") == "PV panels"
    assert plural_of("zeppelin") is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"plurals": "mills"}, "unknown keys.*plurals"),
        ({"held_out": {"use": ["where grain is ground"]}}, "unknown keys.*use"),
        ({"plural": 3}, "needs a plural"),
        ({"group": "built"}, "a group and two functions"),
        ({"synonyms": "windmill"}, "synonyms of category mill"),
        ({"nouns": ["windmill"]}, "nouns of category mill"),
    ],
)
def test_a_broken_category_is_refused(change: dict[str, object], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Category.from_toml("mill", {"plural": "mills", **change}, 1)


def test_training_and_the_forge_share_their_categories() -> None:
    forge, training = forge_vocabulary(), training_vocabulary()
    both = set(forge.categories) & set(training.categories)
    assert len(both) == 15
    assert all(forge[name] is training[name] for name in both)
    assert sorted(row.number for row in forge.categories.values()) == list(range(1, 108))
    assert all(forge.of_number(row.number) is row for row in forge.categories.values())
    assert forge.find("Solar-Panels") is forge["solar_panel"]
