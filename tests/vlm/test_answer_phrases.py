"""Several targets, none, and answers that are neither."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.vlm.answer_parser import Instance, Verdict, official_target, parse_phrases

ROOF = {"bbox": [10, 20, 110, 220], "prompt": "grey roof"}
BOAT = {"bbox": [300.5, 40, 350, 60], "prompt": "boat"}
TWO = (Instance((10, 20, 110, 220), name="grey roof"), Instance((300.5, 40, 350, 60), name="boat"))


@pytest.mark.parametrize(
    "text",
    [
        json.dumps([ROOF, BOAT]),
        json.dumps({"targets": [ROOF, BOAT]}),
        json.dumps({"reason": "both fit", "objects": [ROOF, BOAT]}),
        f"```json\n{json.dumps([ROOF, BOAT], indent=2)}\n```",
        f"First [1] I look.\n{json.dumps(ROOF)}\nand then {json.dumps(BOAT)}.",
        f"<think>Perhaps {json.dumps({'bbox': [1, 2, 3, 4], 'prompt': 'car'})}?</think>{json.dumps([ROOF, BOAT])}",
        f"A draft: {json.dumps({'bbox': [1, 2, 3, 4], 'prompt': 'car'})}\n```\n{json.dumps([ROOF, BOAT, ROOF])}\n```",
        '[{"bbox_2d": [10, 20, 110, 220], "label": " grey roof "}, {"box": [300.5, 40, 350, 60], "phrase": "boat"}]',
        json.dumps([{"bbox": [110, 20, 10, 220], "prompt": "grey roof"}, BOAT]),
    ],
)
def test_two_targets(text: str) -> None:
    answer = parse_phrases(text)
    assert answer.verdict == Verdict.OK
    assert answer.instances == TWO
    assert answer.skipped == ()


def test_center_is_kept() -> None:
    assert parse_phrases(json.dumps({**ROOF, "center": [11, 12.5]})).instances[0].center == (11, 12.5)


@pytest.mark.parametrize(
    "text",
    [
        "[]",
        "Nothing fits.\n```json\n[]\n```",
        '{"targets": []}',
        '{"bbox": null, "prompt": "boat"}',
        '{"bbox": [], "prompt": ""}',
        '{"no_target": true}',
        "<think>maybe</think> []",
    ],
)
def test_no_target_is_said_in_the_format(text: str) -> None:
    answer = parse_phrases(text)
    assert (answer.verdict, answer.instances, answer.skipped) == (Verdict.NO_TARGET, (), ())


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I cannot find it.",
        "The boat is at [120, 40, 160, 90].",
        '{"bbox": [1, 2, 3], "prompt": "boat"}',
        '{"bbox": [1, 2, 3, "4"], "prompt": "boat"}',
        '{"bbox": [1, 2, 3, NaN], "prompt": "boat"}',
        '{"bbox": [1, 2, 3, Infinity], "prompt": "boat"}',
        '{"bbox": [1, 2, 3, 1' + "0" * 400 + '], "prompt": "boat"}',
        '{"bbox": [true, 2, 3, 4], "prompt": "boat"}',
        '{"bbox": [1, 2, 3, 4], "prompt": " "}',
        '{"bbox": [1, 2, 3, 4]}',
        '{"prompt": "boat"}',
        '{"targets": [], "note": broken}',
        "<think>[]</think>",
        "[" * 100_000,
        '{"a":' * 2_000,
        "[{" * 50_000,
    ],
)
def test_a_failure_is_not_no_target(text: str) -> None:
    answer = parse_phrases(text)
    assert answer.verdict == Verdict.UNREADABLE
    assert answer.instances == ()
    assert answer.skipped


def test_good_targets_survive_bad_ones() -> None:
    answer = parse_phrases(json.dumps([ROOF, {"bbox": [1, 2], "prompt": "car"}]))
    assert answer.verdict == Verdict.OK
    assert answer.instances == TWO[:1]
    assert len(answer.skipped) == 1
    assert '"car"' in answer.skipped[0]


def test_list_cut_off_in_the_middle_keeps_what_is_whole() -> None:
    assert parse_phrases(json.dumps([ROOF, BOAT, ROOF])[:-30]).instances == TWO


def test_loose_form() -> None:
    text = 'bbox: [110, 20, 10, 220], prompt: "grey roof"'
    assert parse_phrases(text).instances == TWO[:1]
    official = official_target(text, (400, 500))
    assert official is not None
    assert official.box == (110, 20, 111, 220)  # the release does not turn corners round


def test_official_reads_one_target_and_knows_no_empty_answer() -> None:
    assert official_target("[]", (400, 500)) is None
    assert official_target('{"bbox": [1, 2, 3, "4"], "prompt": "boat"}', (400, 500)) is None
    first = official_target(json.dumps(ROOF) + json.dumps(BOAT), (400, 500))
    assert first is not None
    assert (first.box, first.name, first.center) == ((10, 20, 110, 220), "grey roof", (60, 120))


@given(st.text(alphabet='{}[]",:0123456789.-ebbox prompt`jsonl<think>/', max_size=80))
def test_any_text_has_a_status(text: str) -> None:
    answer = parse_phrases(text)
    assert (answer.verdict == Verdict.OK) == bool(answer.instances)
    assert answer.verdict != Verdict.UNREADABLE or answer.skipped
    official_target(text, (30, 40))
