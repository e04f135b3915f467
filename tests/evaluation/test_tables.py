"""Rows of an evaluation as tables and headline numbers."""

from __future__ import annotations

import pytest

from terraprompt.evaluation.metrics import Overlap
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.evaluation.tables import absence_table, headline, markdown, mask_table, selector_table


def row(kind="text", overlap=(5, 10, 5), *, category="lake", record="a/1", task="referring", wording="trained"):
    counts = Overlap(*overlap)
    return ScoredPrediction(
        "native", f"{record}/{category}/{kind}-0", "found", counts.iou, counts.intersection, counts.union,
        counts.predicted, counts.truth, counts.predicted == 0, category=category, task=task, level=f"{kind}, {wording}",
    )  # fmt: skip


ALL, HALF, NONE = (10, 10, 10), (5, 10, 5), (0, 0, 10)

ROWS = [
    row(overlap=ALL),
    row(overlap=HALF, record="a/2"),
    row(overlap=(0, 7, 0), record="a/3"),  # none there: a matter of absence, not of the mask
    row(overlap=HALF, wording="held back"),
    row(overlap=NONE, task="reasoning"),
    row(overlap=ALL, category="building", record="a/2"),
    row("box", ALL, task="interactive", wording=""),
    row("filled box", HALF, task="interactive", wording=""),
    row("point", HALF, task="interactive", wording=""),
]


def test_markdown():
    assert markdown([["a", "b"], ["1", "2"], ["3", "4"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n| 3 | 4 |\n"


def test_the_mask_table_has_a_row_a_category_and_their_mean():
    assert mask_table(ROWS) == [
        ["category", "images", "referring", "referring, held back", "reasoning", "box", "filling the box", "point"],
        ["building", "1", "100.0 (100.0)", "-", "-", "-", "-", "-"],
        ["lake", "2", "75.0 (75.0)", "50.0 (50.0)", "0.0 (0.0)", "100.0 (100.0)", "50.0 (50.0)", "50.0 (50.0)"],
        ["**mean of categories**", "", "**87.5**", "**50.0**", "**0.0**", "**100.0**", "**50.0**", "**50.0**"],
    ]


def test_the_headline_is_the_last_row_and_the_two_accuracies():
    absent = [
        row("absent", (0, 0, 0), wording="verified"),
        row("absent", (0, 0, 0), wording="assumed"),
        row("absent", (0, 4, 0), wording="assumed"),
    ]
    weak = [row("weak text", NONE, category="car"), row("weak text", HALF, category="car")]
    numbers = headline(ROWS + absent + weak)
    assert numbers["referring"] == pytest.approx(0.875)
    assert numbers["reasoning"] == 0
    assert numbers["U-Net"] is None
    assert numbers["N-acc"] == pytest.approx(2 / 4)  # three absent ones and the text on a/3
    assert numbers["T-acc"] == pytest.approx(5 / 7)  # texts with a target, weak ones too; no boxes or points


def test_headline_of_nothing():
    assert set(headline([]).values()) == {None}


def test_absence_by_how_sure_it_is():
    rows = [
        *ROWS,
        *[row("absent", (0, 0, 0), wording="verified")] * 3,
        row("absent", (0, 4, 0), wording="verified"),
        row("absent", (0, 0, 0), wording="assumed"),
    ]
    table = absence_table(rows)
    assert [line[:3] for line in table[1:]] == [
        ["labelled category, none in the image", "1", "0.0"],
        ["looked for, none marked", "4", "75.0"],
        ["implausible for the source", "1", "100.0"],
        ["**all without target (N-acc)**", "6", "66.7"],
        ["mask-labelled category (T-acc)", "5", "80.0"],
        ["**all with target (T-acc)**", "5", "80.0"],
    ]
    assert table[1][3] == "0.0-0.0"
    low, high = (float(v) for v in table[4][3].split("-"))
    assert low < 66.7 < high
    assert absence_table(rows) == table


def test_words_of_place_in_the_flow_and_in_the_model():
    rows = [row("selector", ALL), row("selector in the model", HALF), row("selector", HALF, wording="held back")]
    assert selector_table(rows)[1:] == [
        ["trained", "1", "100.0 (100.0)", "50.0 (50.0)"],
        ["held back", "1", "50.0 (50.0)", "-"],
    ]
    assert len(selector_table(ROWS)) == 1
