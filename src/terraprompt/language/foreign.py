"""Words of other languages for the categories: recognised, so that the English word can be offered."""

from __future__ import annotations

import re
import tomllib
import unicodedata
from collections.abc import Collection, Mapping
from functools import cache
from importlib.resources import files

__all__ = ["foreign_nouns"]

#: Written without spaces: words are looked for anywhere, the longest first.
_UNSPACED = ("Chinese", "Japanese")
_KANA = re.compile(r"[\u3040-\u30ff]")


def foreign_nouns(text: str, known: Collection[str]) -> dict[str, dict[str, list[str]]]:
    """Words of a text that other languages have for categories: ``found[word][category]`` lists the languages.

    Accents and case do not matter.

    Args:
        text: of the user.
        known: names of the categories that count.
    """
    found: dict[str, dict[str, list[str]]] = {}

    def add(word: str, meanings: Mapping[str, str]) -> None:
        for language, name in meanings.items():
            if name in known:
                found.setdefault(word, {}).setdefault(name, []).append(language)

    for word in re.findall(r"[^\W\d_]+", text):
        add(word, _meanings(unspaced=False).get(_plain(word), {}))
    rest, kana = text, _KANA.search(text)
    for word, meanings in _meanings(unspaced=True).items():
        if word in rest:
            rest = rest.replace(word, " ")
            add(word, {key: name for key, name in meanings.items() if key == "Japanese" or not kana})
    return found


def _plain(word: str) -> str:
    word = unicodedata.normalize(
        "NFKD", word.casefold().replace("\u0131", "i").replace("\u0142", "l")
    )  # no accents to Unicode
    return "".join(mark for mark in word if not unicodedata.combining(mark))


@cache
def _tables() -> Mapping[str, Mapping[str, str]]:
    text = files("terraprompt.language").joinpath("foreign.toml").read_text(encoding="utf-8")
    return tomllib.loads(text)


@cache
def _meanings(*, unspaced: bool) -> Mapping[str, Mapping[str, str]]:
    """Category by language, of each word, the longest word first."""
    out: dict[str, dict[str, str]] = {}
    for language, table in _tables().items():
        if (language in _UNSPACED) is unspaced:
            for name, words in table.items():
                for word in words.split():
                    out.setdefault(word if unspaced else _plain(word), {}).setdefault(language, name)
    return dict(sorted(out.items(), key=lambda pair: -len(pair[0])))
