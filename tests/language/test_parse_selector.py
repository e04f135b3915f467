"""Selectors: what they pick, and how sentences are taken apart into them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.language.categories import training_vocabulary
from terraprompt.language.frames import frames
from terraprompt.language.parse_selector import ParsedSelector, Selector, describe, parse_selector
from terraprompt.language.spatial import COUNTS, ORDINALS, PLACES, SIDES, patterns

CATEGORIES = training_vocabulary().categories
WIDTH, HEIGHT = 100.0, 60.0


@dataclass(frozen=True)
class Thing:
    area: float
    centroid: tuple[float, float]


things = st.lists(
    st.builds(Thing, st.integers(1, 9).map(float), st.tuples(st.floats(0, WIDTH), st.floats(0, HEIGHT))),
    max_size=9,
)

EVERY = [
    Selector("central"),
    *(
        Selector(kind, rank=r, count=c)
        for kind in ("largest", "smallest")
        for r, c in ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))
    ),
    *(Selector("extreme", side, r, c) for side in SIDES for r, c in ((1, 1), (2, 1), (3, 1), (1, 2), (1, 3))),
    *(Selector("region", place) for place in PLACES),
]


def quarter(item: Thing) -> tuple[str, str]:
    x, y = item.centroid
    return ("lower" if y >= HEIGHT / 2 else "upper"), ("right" if x >= WIDTH / 2 else "left")


def brute(selector: Selector, items: list[Thing]) -> set[int]:
    """The definition, spelt out once more."""

    def inside(item: Thing, place: str) -> bool:
        if place == "centre":
            return (
                abs(item.centroid[0] / WIDTH - 0.5) <= 1 / 6 + 1e-12
                and abs(item.centroid[1] / HEIGHT - 0.5) <= 1 / 6 + 1e-12
            )
        return all(word in (*quarter(item), "half") for word in place.split())

    if selector.kind == "region":
        return {i for i, item in enumerate(items) if inside(item, selector.where or "")}
    pool = [i for i, item in enumerate(items) if selector.within is None or inside(item, selector.within)]
    measure = {
        "largest": lambda t: -t.area,
        "smallest": lambda t: t.area,
        "central": lambda t: math.dist(t.centroid, (WIDTH / 2, HEIGHT / 2)),
        "extreme": lambda t: {
            "top": t.centroid[1], "bottom": -t.centroid[1], "left": t.centroid[0], "right": -t.centroid[0]
        }[selector.where or ""],
    }[selector.kind]  # fmt: skip
    picked: set[int] = set()
    for step in range(selector.rank + selector.count - 1):
        rest = [i for i in pool if i not in picked]
        if not rest:
            break
        best = min(rest, key=lambda i: (measure(items[i]), i))
        picked.add(best)
        if step < selector.rank - 1:
            pool.remove(best)
            picked.discard(best)
    return picked


@given(things, st.sampled_from(EVERY), st.sampled_from([None, *(p for p in PLACES if p != "centre")]))
def test_select_agrees_with_the_definition(items: list[Thing], selector: Selector, within: str | None) -> None:
    if selector.kind != "region":
        selector = Selector(selector.kind, selector.where, selector.rank, selector.count, within)
    found = selector.select(items, WIDTH, HEIGHT)
    assert list(found) == sorted(found)
    assert set(found) == brute(selector, items)


@given(things)
def test_the_four_quarters_share_out_all_objects(items: list[Thing]) -> None:
    corners = [p for p in PLACES if p.split()[0] in ("upper", "lower") and not p.endswith("half")]
    found = [i for place in corners for i in Selector("region", place).select(items, WIDTH, HEIGHT)]
    assert sorted(found) == list(range(len(items)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("largest", "top"),
        ("extreme", None),
        ("extreme", "upper left"),
        ("region", "top"),
        ("median",),
        ("largest", None, 0),
    ],
)
def test_a_selector_that_means_nothing_is_refused(arguments: tuple[object, ...]) -> None:
    with pytest.raises(ConfigError):
        Selector(*arguments)  # type: ignore[arg-type]


def said(selector: Selector) -> list[tuple[str, object]]:
    found = patterns(selector.kind, where=selector.where, rank=selector.rank, count=selector.count)
    assert {p.held_out for p in found} == {True, False}, f"{describe(selector)} lacks trained or held-back words"
    return [
        (p.text.replace("{n}", COUNTS.get(selector.count, "")).replace("{o}", ORDINALS[selector.rank]), p)
        for p in found
    ]


@pytest.mark.parametrize("selector", EVERY, ids=describe)
def test_every_phrasing_of_every_noun_is_understood(selector: Selector) -> None:
    for text, pattern in said(selector):
        for row in CATEGORIES.values():
            for noun in (*row.trained.nouns, *row.held_out.nouns, *row.trained.roles, *row.held_out.roles):
                if selector.where == "centre" and noun.singular == noun.plural:
                    continue  # "the aircraft in the centre" is one or many
                phrase = text.format(s=noun.singular, p=noun.plural)
                parsed = parse_selector(phrase)
                assert parsed == ParsedSelector(f"the {noun.plural}", selector), phrase
                assert parsed.selector.compass == pattern.compass, phrase  # type: ignore[attr-defined]


@pytest.mark.parametrize("selector", EVERY, ids=describe)
def test_every_sentence_is_understood(selector: Selector) -> None:
    for text, _ in said(selector):
        for frame in (*frames("name"), *frames("name", held_out=True)):
            sentence = frame.format(x=text.format(s="lake", p="lakes"))
            for spelt in (sentence, sentence.capitalize() + "."):
                assert parse_selector(spelt) == ParsedSelector("the lakes", selector), spelt


def test_plain_categories_and_functions_hold_no_selector() -> None:
    for row in CATEGORIES.values():
        for held in (False, True):
            for name in (row.held_out if held else row.trained).for_task("referring"):
                for article in ("", "the ", "all the "):
                    for frame in (*frames("name"), *frames("name", held_out=True)):
                        assert parse_selector(frame.format(x=article + name)) is None
            for use in (row.held_out if held else row.trained).for_task("reasoning"):
                for frame in (*frames("clause"), *frames("clause", held_out=True)):
                    assert parse_selector(frame.format(x=use)) is None


@pytest.mark.parametrize(
    "text",
    [
        "large buildings",
        "the largest buildings",
        "the largest lakes in the upper left",
        "the road left of the lake",
        "the building on the left of the road",
        "the biggest building near the road",
        "the car closest to the bus",
        "the road in the north of the village",
        "trees at the bottom of the hill",
        "buildings not in the upper left",
        "the largest lake and the road",
        "the largest and the smallest lake",
        "the largest lake's shore",
        "larger than the lake",
        "most of the buildings",
        "the right building",
        "the southern lakes",
        "a building in the upper left",
        "the roof with the largest solar array",
        "what is the largest thing that floats",
        "where a truck could drive",
        "the boats on the water",
        "buildings in the image",
        "in the upper left",
        "the biggest",
        "",
    ],
)
def test_what_is_not_clearly_a_selector_goes_to_the_model(text: str) -> None:
    assert parse_selector(text) is None


@pytest.mark.parametrize(
    ("text", "phrase", "selector"),
    [
        ("Where is the largest lake?", "the lakes", Selector("largest")),
        ("which building is the largest?", "the buildings", Selector("largest")),
        ("show me where the largest lake is", "the lakes", Selector("largest")),
        ("the largest of all the buildings", "the buildings", Selector("largest")),
        ("the largest building in the upper left", "the buildings", Selector("largest", within="upper left")),
        ("two largest lakes in the north", "the lakes", Selector("largest", count=2, within="upper half")),
        ("the 3 largest fields", "the fields", Selector("largest", count=3)),
        ("segment the 2nd largest pond", "the ponds", Selector("largest", rank=2)),
        ("only the biggest roof", "the roofs", Selector("largest")),
        ("the leftmost two houses", "the houses", Selector("extreme", "left", count=2)),
        ("the most northern house", "the houses", Selector("extreme", "top")),
        ("the three ships furthest to the right", "the ships", Selector("extreme", "right", count=3)),
        ("find the top-left pond, please", "the ponds", Selector("region", "upper left")),
        ("every tree in the lower right corner", "the trees", Selector("region", "lower right")),
        (
            "Could you mark all buildings in the south-western part of the scene?",
            "the buildings",
            Selector("region", "lower left"),
        ),
        ("the lake at the center of the picture", "the lakes", Selector("central")),
        ("the largest football stadium", "the football stadium", Selector("largest")),
        ("the largest building with a red roof", "the building with a red roof", Selector("largest")),
        ("the largest place where people live", "the places where people live", Selector("largest")),
    ],
)
def test_sentences_of_users(text: str, phrase: str, selector: Selector) -> None:
    assert parse_selector(text) == ParsedSelector(phrase, selector)


def test_descriptions_tell_selectors_apart() -> None:
    names = [describe(selector) for selector in (*EVERY, Selector("largest", within="left half"))]
    assert len(set(names)) == len(names)
    assert describe(Selector("largest", rank=2)) == "second largest"
    assert describe(Selector("extreme", "top", count=2, within="left half")) == "2 nearest the top, in the left half"
