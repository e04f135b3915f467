"""Reading of answers against the recorded verdicts of Think2Seg-RS, and against hostile text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.geometry.boxes import box_iou, nms
from terraprompt.vlm.answer_parser import (
    AnswerRules,
    Instance,
    ParsedAnswer,
    Verdict,
    parse_lenient,
    parse_phrases,
    parse_strict,
    structured_to_tagged,
    tagged,
)
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.placement import without_duplicates
from terraprompt.vlm.wording import answer_schema, question_words

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/think2seg/cases.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
# Recorded as accepted: the bug that is mended here.
MENDED = "non_numeric_box"
# Recorded as refused by the lenient reading; now read as meant.
MEANT = {"one_point", "three_points", "object_instead_of_list"}

ITEM = '{"bbox_2d": [4, 6, 30, 28], "positive_points": [[10, 12], [20, 22]]}'


def wrapped(body: str, think: str = "a tank") -> str:
    return f"<think>{think}</think> <answer>```json\n{body}\n```</answer>"


def as_recorded(instances: tuple[Instance, ...]) -> list[dict[str, Any]]:
    out = []
    for instance in instances:
        item: dict[str, Any] = {} if instance.box is None else {"bbox_2d": list(instance.box)}
        if instance.points:
            item["positive_points"] = [list(point) for point in instance.points]
        out.append(item)
    return out


def numbered(recorded: list[dict[str, Any]] | None) -> list[dict[str, Any]] | None:
    """Quoted numbers of the record as numbers."""
    if recorded is None:
        return None
    return [
        {k: [[float(n) for n in v] if isinstance(v, list) else v for v in value] for k, value in item.items()}
        for item in recorded
    ]


@pytest.mark.parametrize("name", [name for name in CASES if name != MENDED])
def test_strict_and_lenient_are_as_recorded(name: str) -> None:
    case = CASES[name]
    for parsed, how in (
        (parse_strict(case["completion"]), "strict"),
        (parse_lenient(case["completion"]), "lenient"),
    ):
        assert parsed.ok is (case[f"{how}_ok"] or (how == "lenient" and name in MEANT))
        assert (parsed.feedback == "") is parsed.ok
        if parsed.ok and case[f"{how}_ok"]:
            assert as_recorded(without_duplicates(parsed.instances)) == numbered(case[f"{how}_parsed"])
    assert tagged(case["completion"]) is (case["r3"] == 1.0)


@pytest.mark.parametrize("name", [n for n, c in CASES.items() if isinstance(c["nms_survivors"], list) and n != MENDED])
def test_suppression_keeps_the_recorded_items(name: str) -> None:
    instances = parse_strict(CASES[name]["completion"]).instances
    assert len(instances) == CASES[name]["instances_before_nms"]
    assert without_duplicates(instances) == tuple(instances[i] for i in CASES[name]["nms_survivors"])


def test_mended_bug_a_box_that_is_not_numbers_is_refused_alone_too() -> None:
    alone, among = CASES[MENDED], CASES["non_numeric_box_among_two"]
    assert alone["strict_ok"] is True, "recorded: passes the format check when it is alone"
    assert among["strict_ok"] is False
    for case in (alone, among):
        for parse in (parse_strict, parse_lenient):
            assert parse(case["completion"]).verdict is Verdict.BAD_BOX
    assert "'left'" in parse_strict(alone["completion"]).feedback


@pytest.mark.parametrize(
    ("text", "strict", "lenient"),
    [
        ("", "empty", "empty"),
        (" \n", "empty", "empty"),
        (wrapped("[]"), "no_target", "no_target"),
        ("There is nothing. []", "no_fence", "no_target"),
        ("I am sorry, I cannot help with that.", "no_fence", "not_json"),
        (wrapped("[[[["), "not_json", "not_json"),
        (wrapped("[,]"), "not_json", "not_json"),
        (wrapped("nothing"), "not_json", "not_json"),
        (wrapped("{}"), "not_a_list", "not_a_list"),
        (wrapped("null"), "not_a_list", "not_a_list"),
        (wrapped("[7]"), "bad_item", "bad_item"),
        (wrapped("[{}]"), "wrong_count", "bad_item"),
        (wrapped('[{"bbox_2d": [1, 2, 3]}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": null}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": [1, 2, 3, NaN]}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": [1, 2, 3, Infinity]}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": [1, 2, 3, 1e200]}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": [1, 2, 3, true]}]'), "bad_box", "bad_box"),
        (wrapped('[{"bbox_2d": [1, 2, 3, ' + "9" * 400 + "]}]"), "bad_box", "bad_box"),
        (wrapped('[{"positive_points": [[1], [2, 3]]}]'), "bad_points", "bad_points"),
        (wrapped('[{"positive_points": [1, 2]}]'), "bad_points", "bad_points"),
        (wrapped('[{"positive_points": "here"}]'), "bad_points", "bad_points"),
        (wrapped('[{"positive_points": []}]'), "wrong_count", "wrong_count"),
        (f"<think>x</think><answer>```json\n[{ITEM}", "no_fence", "not_json"),
        (f"<think>x</think><answer>```json\n[{ITEM}, {{", "no_fence", "not_json"),
        (f"<think>x</think><answer>[{ITEM}, {ITEM[:40]}", "no_fence", "not_json"),
        ("[" * 100_000, "no_fence", "not_json"),
        (wrapped("[" * 100_000 + "]" * 100_000), "not_json", "not_json"),
        (wrapped("[" + "9" * 5000 + "]"), "not_json", "not_json"),
    ],
    ids=lambda value: value[:40],
)
def test_every_failure_has_its_verdict(text: str, strict: str, lenient: str) -> None:
    assert parse_strict(text).verdict.value == strict
    assert parse_lenient(text).verdict.value == lenient


@pytest.mark.parametrize(
    "text",
    [
        f"[{ITEM}]",
        f"Sure! As in [1], the set {{a}} holds: [{ITEM}] Hope that helps.",
        f"```\n[{ITEM}]\n```",
        f"<think>first [] then more</think>[{ITEM}]",
        f"<answer>```json\n[{ITEM}]\n```",
        f"<answer>```json\nHere it is: [{ITEM}]\n```</answer>",
        f"Draft: [{ITEM.replace('30', '99')}]. Final: [{ITEM}]",
        f"[{ITEM},]",
        f"[{ITEM}]".replace('"', "'"),
        wrapped(f"[{ITEM[:-1]}" + ', "label": "a [tank"}]').replace("```json", "").replace("```", ""),
    ],
)
def test_lenient_reads_what_was_meant(text: str) -> None:
    parsed = parse_lenient(text)
    assert parsed.verdict is Verdict.OK
    assert [(i.box, i.points) for i in parsed.instances] == [((4, 6, 30, 28), ((10, 12), (20, 22)))]


def test_a_number_cut_in_the_middle_is_not_taken_for_a_whole_one() -> None:
    cut = wrapped(f"[{ITEM}]").split("22]]")[0] + "2"
    assert parse_lenient(cut).verdict is Verdict.NOT_JSON


def test_thought_names_and_negative_points() -> None:
    body = f'[{ITEM[:-1]}, "label": "tank", "negative_points": [[1, 1]]}}]'
    parsed = parse_lenient(wrapped(body, "by the\npier"), AnswerRules(negatives=1))
    assert (parsed.reasoning, parsed.instances[0].name) == ("by the\npier", "tank")
    assert parsed.instances[0].labels == (1, 1, 0)
    assert parse_strict(wrapped(body)).verdict is Verdict.NEGATIVE_POINTS
    assert parse_strict(wrapped(f"[{ITEM}]"), AnswerRules(negatives=1)).verdict is Verdict.WRONG_COUNT
    assert parse_lenient(wrapped(f"[{ITEM}]"), AnswerRules(negatives=1)).ok
    three = wrapped('[{"positive_points": [[1, 1], [2, 2], [3, 3]]}]')
    assert parse_strict(three, AnswerRules(points=None)).ok


def test_strict_and_lenient_take_the_same_of_two_answers() -> None:
    """The release's expression is greedy and lets a second part pass; both readers read the last one."""
    first, second = (f"```json\n[{ITEM.replace('30', side)}]\n```" for side in ("99", "30"))
    for text in (
        f"<think>a</think><answer>{first}</answer><answer>{second}</answer>",
        f"<think>a</think><answer>{first} Better: {second}</answer>",
        f"<answer>{first}</answer> wait <answer>{second}",
        f"{first}\n{second}",
    ):
        strict, lenient = parse_strict(text), parse_lenient(text)
        assert strict.instances == lenient.instances
        assert strict.instances[0].box == (4, 6, 30, 28)
    assert tagged(f"<think>a</think><answer>{first}</answer><answer>{second}</answer>")


BOX, POINTS = '{"bbox_2d": [4, 6, 30, 28]}', '{"positive_points": [[10, 12], [20, 22]]}'


@pytest.mark.parametrize(
    ("rules", "good", "bad", "lenient"),
    [
        (AnswerRules(points=0), BOX, (ITEM, POINTS), ((4, 6, 30, 28), ())),
        (AnswerRules(boxes=False), POINTS, (ITEM, BOX), (None, ((10, 12), (20, 22)))),
        (AnswerRules(points=1), '{"bbox_2d": [1, 1, 5, 5], "positive_points": [[2, 2]]}', (ITEM, BOX), None),
    ],
)
def test_a_box_or_points_alone(rules: AnswerRules, good: str, bad: tuple[str, ...], lenient: Any) -> None:
    """The ablation of the paper: what was not asked for is a fault in training, and left out otherwise."""
    assert parse_strict(wrapped(f"[{good}]"), rules).ok
    assert parse_lenient(wrapped(f"[{good}]"), rules).instances == parse_strict(wrapped(f"[{good}]"), rules).instances
    for item in bad:
        assert not parse_strict(wrapped(f"[{item}]"), rules).ok
        assert parse_lenient(wrapped(f"[{item}]"), rules).ok
    if lenient is not None:
        (found,) = parse_lenient(wrapped(f"[{ITEM}]"), rules).instances
        assert (found.box, found.points) == lenient
    words = question_words("tanks", Convention(Units.PIXELS, View("square", side=840)), (9, 9), rules=rules)
    assert ("bbox_2d" in words) == rules.boxes
    assert ("positive_points" in words) == (rules.points != 0)
    schema = answer_schema(rules)["properties"]["instances"]["items"]["properties"]
    assert ("bbox_2d" in schema, "positive_points" in schema) == (rules.boxes, rules.points != 0)


def test_rules_and_instances_are_checked() -> None:
    for faulty in ({"points": -1}, {"points": 0, "negatives": 1}, {"points": 0, "boxes": False}):
        with pytest.raises(ConfigError):
            AnswerRules(**faulty)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="one label"):
        Instance(None, ((1, 1),), (1, 0))


def test_a_schema_bound_answer_takes_the_tagged_form() -> None:
    text = structured_to_tagged(json.dumps({"think": "by the pier", "instances": [json.loads(ITEM)]}))
    assert tagged(text)
    assert parse_strict(text) == parse_strict(wrapped(f"[{ITEM}]", "by the pier"))
    for other in ("[]", "{}", "plain", '{"instances": 3}', "[" * 100_000):
        assert structured_to_tagged(other) == other


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<think>a</think><answer>b</answer>\n", True),
        ("<think>a</think><answer>b</answer><answer>c</answer>", True),
        ("<think><think>a</think></think><answer>b</answer>", False),
        ("<answer>b</answer><think>a</think>", False),
        ("<think>a</think>so<answer>b</answer>", False),
    ],
)
def test_tags(text: str, expected: bool) -> None:
    assert tagged(text) is expected


@given(st.text(alphabet='[]{}",:0123456789.-e `\njsontruefalsenull<>/think', max_size=200))
def test_no_text_crashes_a_reader(text: str) -> None:
    for parse in (parse_strict, parse_lenient):
        parsed = parse(text)
        assert isinstance(parsed, ParsedAnswer)
        assert bool(parsed.instances) is (parsed.verdict is Verdict.OK)


@pytest.mark.parametrize(
    "unit", ["<think>", "</think>", "<answer>", "```json", "```json" + " " * 9, "[", "{}", "[]", " "]
)
def test_hostile_text_is_read_in_linear_time(unit: str) -> None:
    """A reader that looks ahead again and again would not come back from a million characters."""
    for text in (unit * (1_000_000 // len(unit)), "```json" + unit * (1_000_000 // len(unit))):
        assert parse_strict(text).verdict is not Verdict.OK
        assert parse_lenient(text).verdict is not Verdict.OK
        assert not tagged(text)


def test_thousands_of_items_are_read() -> None:
    parsed = parse_lenient(wrapped("[" + ",".join([ITEM] * 10_000) + "]"))
    assert len(parsed.instances) == 10_000


boxes = st.lists(st.tuples(*[st.integers(0, 20)] * 4), max_size=12)


@given(boxes)
def test_no_two_survivors_overlap_and_each_dropped_box_does(drawn: list[tuple[int, ...]]) -> None:
    stay = nms(drawn)
    iou = box_iou(drawn, drawn)
    area = [max(0, b[2] - b[0]) * max(0, b[3] - b[1]) for b in drawn]
    assert stay == sorted(set(stay))
    for i in stay:
        assert all(iou[i, j] <= 0.5 for j in stay if j != i)
    for i in set(range(len(drawn))) - set(stay):
        assert any(iou[i, j] > 0.5 and area[j] >= area[i] for j in stay)


def test_boxes_without_area_overlap_nothing() -> None:
    assert nms([(0, 0, 0, 0), (0, 0, 0, 0), (9, 9, 1, 1)]) == [0, 1, 2]
    assert box_iou([(0, 0, 2, 2)], [(1, 0, 3, 2)]).tolist() == [[pytest.approx(1 / 3)]]


# The shapes that models fall back to

HOME = (246, 254, 672, 805)


@pytest.mark.parametrize(
    "text",
    [
        '```json\n{"bbox_2d": [246, 254, 672, 805], "label": "building"}\n```',
        '```json\n[{"bbox_2d": [[246, 254, 672, 805]], "label": "building"}]\n```',
        '[{"bbox_2d": [[[246, 254, 672, 805]]], "label": "building"}]',
        '[[{"bbox_2d": [246, 254, 672, 805], "label": "building"}]]',
        '```json\n[{"bbox_2d": "[246, 254, 672, 805]", "label": "building"}]\n```',
        '[{"bbox_2d": "246, 254, 672, 805", "label": "building"}]',
        '[{"bbox_2d": "(246,254),(672,805)", "label": "building"}]',
        '[{"bbox_2d": [[246, 254], [672, 805]], "label": "building"}]',
        '[{"box": {"x1": 246, "y1": 254, "x2": 672, "y2": 805}, "label": "building"}]',
        '{"objects": [{"bbox_2d": [246, 254, 672, 805], "label": "building"}]}',
        'Here: {"instances": [{"bbox": [246, 254, 672, 805], "label": "building"}]} - done.',
        '{"answer": {"bbox": [1]}, "detections": [{"box": [246, 254, 672, 805], "name": "building"}]}',
        '[{"box_2d": [246, 254, 672, 805], "label": "building", "positive_points": null}]',
        '[{"bbox_2d": [246, 254, 672, 805], "label": "building", "positive_points": []}]',
        "<think>one</think><ref>building</ref><box>[[246, 254, 672, 805]]</box>",
        "<ref>building</ref><box>(246,254),(672,805)</box>",
        "<ref>building</ref><box>246 254 672 805</box>",
        "<|object_ref_start|>building<|object_ref_end|><|box_start|>(246,254),(672,805)<|box_end|>",
        "<|ref|>building<|/ref|><|det|>[[246, 254, 672, 805]]<|/det|>",
        '<|begin_of_box|>[{"bbox_2d": [246, 254, 672, 805], "label": "building"}]<|end_of_box|>',
    ],
)
def test_both_readings_take_the_shapes_that_models_fall_back_to(text: str) -> None:
    for parsed in (parse_lenient(text), parse_phrases(text)):
        assert parsed.verdict is Verdict.OK, parsed.feedback
        assert [(v.box, v.name, v.points) for v in parsed.instances] == [(HOME, "building", ())]


@pytest.mark.parametrize(
    "text",
    [
        "<think>one roof</think>It is at <|begin_of_box|>[[246,254,672,805]]<|end_of_box|>.",
        "[246, 254, 672, 805]",
        "[[246, 254, 672, 805]]",
        '{"boxes": [[246, 254, 672, 805]]}',
        "The box is [246, 254, 672, 805].",
    ],
)
def test_a_box_without_a_name(text: str) -> None:
    assert [(v.box, v.name) for v in parse_lenient(text).instances] == [(HOME, "")]


def test_a_box_without_a_name_takes_the_phrase_of_the_question() -> None:
    text = "<|begin_of_box|>[[246,254,672,805]]<|end_of_box|>"
    assert parse_phrases(text).verdict is Verdict.UNREADABLE
    assert parse_phrases(text, "the roof").instances == (Instance(HOME, name="the roof"),)


@pytest.mark.parametrize(
    "text",
    [
        '[{"point_2d": [459.0, 529.5], "label": "building"}]',
        '{"point_2d": [459.0, 529.5]}',
        '[{"points": [[459.0, 529.5]]}]',
        '[{"point": "[459.0, 529.5]"}]',
        "<|box_start|>(459.0,529.5)<|box_end|>",
    ],
)
def test_a_point_alone(text: str) -> None:
    assert [(v.box, v.points, v.labels) for v in parse_lenient(text).instances] == [(None, ((459.0, 529.5),), (1,))]


def test_several_boxes_of_one_name_are_several_instances() -> None:
    two = [HOME, (1.0, 2.0, 3.0, 4.0)]
    native = "<ref>roofs</ref><box>[[246, 254, 672, 805], [1, 2, 3, 4]]</box>"
    listed = '[{"bbox_2d": [[246, 254, 672, 805], [1, 2, 3, 4]], "label": "roofs"}]'
    for text in (native, listed):
        assert [(v.box, v.name) for v in parse_lenient(text).instances] == [(box, "roofs") for box in two]
        assert [v.box for v in parse_phrases(text).instances] == two


def test_another_number_of_points_than_asked_for() -> None:
    for points in ([[9, 9]], [[9, 9], [8, 8], [7, 7]]):
        text = wrapped(json.dumps([{"bbox_2d": [4, 6, 30, 28], "positive_points": points}]))
        assert [list(map(list, v.points)) for v in parse_lenient(text).instances] == [points]
        assert parse_strict(text).verdict is Verdict.WRONG_COUNT


@pytest.mark.parametrize(
    "text",
    [
        "<ref>roof</ref><box>[[246, 254, 672]]</box>",
        "<ref>roof</ref><box>[[246, 254, 672, 80",
        '[{"bbox_2d": "left of the road"}]',
        '[{"bbox_2d": [[246, 254, 672, 805], "x"]}]',
        '[{"bbox_2d": {"left": 3}}]',
        "[" * 900 + "]" * 900,
        "<box>" * 100_000,
        "<box>" + "1 " * 100_000,
    ],
    ids=lambda text: text[:30],
)
def test_what_stays_ambiguous_is_refused(text: str) -> None:
    assert not parse_lenient(text).ok
    assert not parse_phrases(text).instances


def test_a_schema_bound_answer_behind_reasoning_that_is_kept_apart() -> None:
    text = "<think>first</think>" + json.dumps({"think": "then", "instances": [json.loads(ITEM)]})
    parsed = parse_strict(structured_to_tagged(text))
    assert (parsed.verdict, parsed.reasoning) == (Verdict.OK, "first then")


@pytest.mark.parametrize(
    ("text", "boxes", "names"),
    [
        ("<loc0102><loc0205><loc0512><loc1023> roof", [(200, 100, 999, 500)], ["roof"]),
        ("<loc0102><loc0205><loc0512><loc0614><seg000><seg127> a roof ; <loc0000><loc0000><loc0102><loc0102> pool",
         [(200, 100, 600, 500), (0, 0, 100, 100)], ["a roof", "pool"]),
        ("</s><s>roof<loc_100><loc_200><loc_300><loc_400></s>", [(100, 200, 300, 400)], ["roof"]),
        ("roof<loc_1><loc_2><loc_3><loc_4><loc_5><loc_6><loc_7><loc_8>pool<loc_9><loc_9><loc_99><loc_99>",
         [(1, 2, 3, 4), (5, 6, 7, 8), (9, 9, 99, 99)], ["roof", "roof", "pool"]),
    ],
)  # fmt: skip
def test_location_tokens_are_boxes_in_thousandths(text: str, boxes: list[Any], names: list[str]) -> None:
    for parsed in (parse_lenient(text), parse_phrases(text, "it")):
        assert parsed.ok, parsed.feedback
        assert [v.box for v in parsed.instances] == [pytest.approx(box, abs=1) for box in boxes]
        assert parsed.thousandths
        assert parsed.mended
    assert [v.name for v in parse_phrases(text).instances] == names


@pytest.mark.parametrize(
    ("text", "points"),
    [
        ('<point x="61.5" y="40.4" alt="roof">roof</point>', [(615, 404)]),
        ('<points x1="10.0" y1="20" x2="30.5" y2="40" alt="roofs">roofs</points>', [(100, 200), (305, 400)]),
        ("Two: <point x='1' y='2'>a</point> <point x='3' y='4'>b</point>", [(10, 20), (30, 40)]),
    ],
)
def test_point_tags_are_percent(text: str, points: list[Any]) -> None:
    parsed = parse_lenient(text)
    assert parsed.ok, parsed.feedback
    assert [v.points for v in parsed.instances] == [(pytest.approx(point),) for point in points]
    assert parsed.thousandths


@pytest.mark.parametrize("text", ["<loc0102><loc0205><loc0512>", "<point>roof</point>", '<points x1="1" y2="2">'])
def test_tokens_that_are_no_place_are_no_answer(text: str) -> None:
    assert not parse_lenient(text).ok


@pytest.mark.parametrize(
    ("text", "mended"),
    [
        ('```json\n[{"bbox_2d": [1, 2, 3, 4], "label": "roof"}]\n```', False),
        ("[]", False),
        ('{"bbox_2d": [1, 2, 3, 4]}', True),
        ('[{"box_2d": [1, 2, 3, 4]}]', True),
        ('[{"bbox_2d": "[1, 2, 3, 4]"}]', True),
        ('{"objects": [{"bbox_2d": [1, 2, 3, 4]}]}', True),
        ("<box>[[1, 2, 3, 4]]</box>", True),
    ],
)
def test_other_shapes_are_said_to_be_mended(text: str, mended: bool) -> None:
    assert bool(parse_lenient(text).mended) is mended
