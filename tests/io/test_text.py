"""Strangers' text is cleaned and bounded."""

from __future__ import annotations

import pytest

from terraprompt.io.text import sanitize_text, unique_names


def test_one_line() -> None:
    assert sanitize_text("a\n\tb\x00c\u202ed \ud800", 100) == "a b c d ?"
    assert sanitize_text("x" * 999, 20) == "x" * 19 + "…"
    assert sanitize_text("x" * 20, 20) == "x" * 20


def test_lines_are_kept_on_wish() -> None:
    assert sanitize_text("a\n\tb\x1b[31m\u2066", 100, keep_lines=True) == "a\n\tb [31m "
    assert sanitize_text("x" * 30, 10, keep_lines=True) == "x" * 10 + "… (30 characters)"


@pytest.mark.parametrize(
    ("names", "taken", "longest", "expected"),
    [
        (["a", "A", "a_2"], [], None, ["a", "A_2", "a_2_2"]),
        (["Score"], ["score", "score_2"], None, ["Score_3"]),
        ([""], [], None, ["attribute"]),
        (["abcdefghijkl", "abcdefghijkm"], [], 10, ["abcdefghij", "abcdefgh_2"]),
    ],
)
def test_unique_names(names: list[str], taken: list[str], longest: int | None, expected: list[str]) -> None:
    assert unique_names(names, taken, longest) == expected
