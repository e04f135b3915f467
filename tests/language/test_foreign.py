"""Sentences in other languages are recognised as such, and the English word is offered."""

from __future__ import annotations

import pytest

from terraprompt.language.categories import training_vocabulary
from terraprompt.language.foreign import _tables, foreign_nouns
from terraprompt.language.understand import understand

KNOWN = tuple(name for name in training_vocabulary().categories if name not in ("water", "vegetation"))  # wide kinds
ENGLISH = {"auto", "water", "bus", "see", "die", "case", "via", "tennis", "the", "culture"}


def is_word(word: str) -> bool:
    return word in ENGLISH


@pytest.mark.parametrize(
    ("text", "language", "plural"),
    [
        ("les bâtiments", "French", "buildings"),
        ("LES BATIMENTS", "French", "buildings"),
        ("die Häuser", "German", "buildings"),
        ("alle Straßen im Norden", "German", "roads"),
        ("los edificios", "Spanish", "buildings"),
        ("gli alberi", "Italian", "trees"),
        ("as piscinas", "Portuguese", "swimming pools"),
        ("de gebouwen", "Dutch", "buildings"),
        ("drogi", "Polish", "roads"),
        ("łodzie", "Polish", "boats"),
        ("ağaçlar", "Turkish", "trees"),
        ("binalar\u0131 göster", "Turkish", "buildings"),
        ("المباني", "Arabic", "buildings"),
        ("找出所有建筑物", "Chinese", "buildings"),
        ("飞机", "Chinese", "airplanes"),
        ("道路を見つけて", "Japanese", "roads"),
        ("建物", "Japanese", "buildings"),
        ("l'avion", "French", "airplanes"),
    ],
)
def test_the_english_word_is_offered(text: str, language: str, plural: str) -> None:
    found = understand(text, KNOWN, engine="nano", is_word=is_word)
    assert found.refusal
    [remark] = found.remarks
    assert f'for "{plural}"' in remark
    assert language in remark
    assert "It reads English." in remark


def test_several_nouns_are_each_named() -> None:
    [remark] = understand("Bäume und Straßen", KNOWN, engine="nano", is_word=is_word).remarks
    assert all(part in remark for part in ('"Bäume" is German for "trees"', '"Straßen" is German for "roads"'))


@pytest.mark.parametrize("text", ["the bus", "water", "the buildings", "bulidings", "cars near the water"])
def test_english_stays_english(text: str) -> None:
    assert not understand(text, KNOWN, engine="nano", is_word=is_word).refusal


def test_a_word_of_two_meanings_names_both() -> None:
    [remark] = understand("autocarro", KNOWN, engine="nano", is_word=is_word).remarks
    assert 'Italian for "trucks", Portuguese for "buses"' in remark


def test_every_language_has_every_category() -> None:
    for language, table in _tables().items():
        assert table.keys() == set(KNOWN), language
        for word in " ".join(table.values()).split():
            found = foreign_nouns(word, KNOWN).values()
            assert any(language in languages for names in found for languages in names.values()), word
