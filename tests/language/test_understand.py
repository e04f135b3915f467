"""Sentences taken apart before a model with a known vocabulary is asked."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest

from terraprompt.engines.weights import packaged
from terraprompt.language.categories import training_vocabulary
from terraprompt.language.understand import MIN_AREA_M2, Understood, understand

CARD = json.loads(packaged("nano").with_suffix(".json").read_text())
KNOWN = tuple(name for name in training_vocabulary().categories if name in CARD["categories"])
with (Path(__file__).parent / "wordings_90.csv").open(encoding="utf-8") as file:
    WORDINGS = [(row["wording"], row["expected"]) for row in csv.DictReader(file)]


def read(text: str) -> Understood:
    real = {"track", "horses", "grass", "hello", "boots", "goats", "cards", "stress"}
    return understand(text, KNOWN, engine="nano", is_word=real.__contains__)


def test_every_category_has_a_smallest_size() -> None:
    assert set(MIN_AREA_M2) == set(training_vocabulary().categories)


@pytest.mark.parametrize(("text", "expected"), WORDINGS)
def test_each_wording_is_done_or_refused_or_said(text: str, expected: str) -> None:
    found = read(text)
    refused, said = bool(found.refusal), bool(found.remarks)
    assert refused == (not found.phrases)
    assert not refused or "nano knows lakes" in found.remarks[0]
    if expected in ("found", "answered", "some", "one"):
        assert not refused
        assert not found.unknown_words
    if expected == "one":
        assert found.single or (found.selector is not None and found.selector.count == 1)
    if expected in ("found_remark", "answered_remark"):
        assert not refused
        assert said or found.counted
    if expected == "remark":
        assert not refused
        assert found.unknown_words
        assert said
    if expected in ("remark_or_refused", "same_or_refused"):
        assert said
    if expected == "refused":
        assert refused
    assert found.negated == (expected == "complement")
    assert (len(found.phrases) > 1) == (expected == "union")


@pytest.mark.parametrize(
    "text",
    ["do not segment the buildings", "non-buildings", "anything other than houses", "everything that isn't a building",
     "ignore the roofs", "areas without buildings", "neither buildings nor roads"],
)  # fmt: skip
def test_more_negations(text: str) -> None:
    found = read(text)
    assert found.negated
    assert "building" in found.categories
    assert not found.refusal


@pytest.mark.parametrize(
    ("text", "low", "high"),
    [
        ("houses with an area of at least 60 m²", 60.0, None),
        ("buildings under 1,000 sq ft", None, 92.90304),
        ("roofs > 40 m2", 40.0, None),
        ("lakes of more than 2 hectares", 20000.0, None),
        ("buildings larger than 50 m2 and smaller than 90 m2", 50.0, 90.0),
        ("fields between 1 and 2 ha", 10000.0, 20000.0),
        ("show me the buildings that are no larger than 80 sqm", None, 80.0),
    ],
)
def test_more_limits(text: str, low: float | None, high: float | None) -> None:
    found = read(text)
    assert not found.refusal
    assert not found.unknown_words
    assert (found.min_area_m2, found.max_area_m2) == (pytest.approx(low), pytest.approx(high))


@pytest.mark.parametrize(
    "text",
    ["car parks", "shadows of the buildings", "building sites", "windows on the houses", "road signs", "horses",
     "goats", "not grass", "everything except the football stadiums", "people near houses", "bonjour", "Hühner"],
)  # fmt: skip
def test_more_that_is_not_known_is_refused(text: str) -> None:
    assert read(text).refusal


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("small grey roofs", ("small", "grey")),
        ("trees beside a lake", ("beside a lake",)),
        ("cars facing north", ("facing north",)),
        ("five lakes", ("five",)),
        ("roads and cathedrals of glass", ("cathedrals", "glass")),
    ],
)
def test_more_words_that_are_not_followed_are_said(text: str, words: tuple[str, ...]) -> None:
    found = read(text)
    assert not found.refusal
    assert found.remarks
    assert set(words) <= set(found.unknown_words)


@pytest.mark.parametrize(
    ("typo", "right"),
    [
        ("biuldings", "buildings"),
        ("rodas", "roads"),
        ("tress", "trees"),
        ("airplnae", "airplane"),
        ("swiming pools", ""),
    ],
)
def test_more_typos(typo: str, right: str) -> None:
    found = read(typo)
    assert not found.refusal
    assert right in found.phrases[0]
    assert found.remarks
