"""Rewards against the recorded ones of Think2Seg-RS, with a segmenter of rectangles."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from terraprompt.errors import ConfigError
from terraprompt.training.rewards import (
    format_reward,
    matching_reward,
    matching_score,
    no_target_reward,
    non_repetition_reward,
    tag_reward,
    target_reward,
)
from terraprompt.vlm.answer_parser import Instance

GOLDEN = json.loads((Path(__file__).parents[1] / "golden/think2seg/cases.json").read_text())
CASES = {case["name"]: case for case in GOLDEN["cases"]}
GRID = tuple(GOLDEN["grid"])
TRUTH = np.zeros(GRID, bool)
for x0, y0, x1, y1 in GOLDEN["gt_boxes_xyxy"]:
    TRUTH[y0:y1, x0:x1] = True
NOTHING = np.zeros(GRID, bool)
MENDED = "non_numeric_box"


def draw(instances: Sequence[Instance], sample: Any) -> np.ndarray:
    """The stub segmenter of the record: the box filled, or squares of 9 x 9 round the points."""
    mask = np.zeros(GRID, bool)
    for instance in instances:
        if instance.box is not None:
            left, top, right, bottom = (int(v) for v in instance.box)
            mask[max(0, top) : bottom, max(0, left) : right] = True
        else:
            for x, y in instance.points:
                mask[max(0, int(y) - 4) : int(y) + 5, max(0, int(x) - 4) : int(x) + 5] = True
    return mask


def same(sample: np.ndarray) -> np.ndarray:
    return sample


target = target_reward(draw, same)
no_target = no_target_reward(same)


def first(texts: list[str], truth: np.ndarray) -> list[float]:
    """The first reward of the record: one of the two, by the image."""
    column = [truth] * len(texts)
    return [a + b for a, b in zip(target(texts, sample=column), no_target(texts, sample=column), strict=True)]


@pytest.mark.parametrize("name", CASES)
def test_rewards_are_as_recorded(name: str) -> None:
    case = CASES[name]
    text = case["completion"]
    assert first([text], TRUTH) == [pytest.approx(case["r1_target"], abs=1e-12)]
    assert first([text], NOTHING) == [pytest.approx(case["r1_no_target"], abs=1e-12)]
    assert tag_reward([text]) == [case["r3"]]
    assert format_reward([text]) == [0.0 if name == MENDED else case["r2"]]


def test_mended_bug_a_box_that_is_not_numbers_earns_no_format_reward() -> None:
    assert CASES[MENDED]["r2"] == 1.0
    assert format_reward([CASES[MENDED]["completion"]]) == [0.0]


@pytest.mark.parametrize("batch", GOLDEN["batches"], ids=lambda batch: batch["names"][1])
def test_mended_bug_a_bad_box_costs_only_its_own_reward(batch: dict[str, Any]) -> None:
    got = first([CASES[name]["completion"] for name in batch["names"]], TRUTH)
    assert got == [pytest.approx(CASES[name]["r1_target"], abs=1e-12) for name in batch["names"]]
    if MENDED in batch["names"]:
        assert batch["r1_target"] == [0.0] * len(got), "recorded: the whole batch lost its reward"
        assert sum(got) > 2
    else:
        assert got == [pytest.approx(value, abs=1e-12) for value in batch["r1_target"]]


def test_chat_messages_and_other_columns() -> None:
    text = CASES["valid_two"]["completion"]
    for chat in (
        [{"role": "assistant", "content": text}],
        [{"role": "assistant", "content": [{"type": "text", "text": text}]}],
    ):
        assert target([chat], sample=[TRUTH], prompts=["?"], trainer_state=None) == [2.0]
        assert format_reward([chat], sample=[TRUTH]) == tag_reward([chat], prompts=["?"]) == [1.0]
    assert format_reward([[], [{"role": "assistant", "content": None}]]) == [0.0, 0.0]
    assert [reward.__name__ for reward in (target, no_target)] == ["target_reward", "no_target_reward"]


def test_wrong_columns_and_masks_are_errors() -> None:
    with pytest.raises(ConfigError, match="column sample"):
        target(["", ""], sample=[TRUTH])
    with pytest.raises(ConfigError, match="column sample"):
        no_target([""])
    with pytest.raises(ConfigError, match="another size"):
        target_reward(lambda instances, sample: TRUTH[:9], same)([CASES["valid_one"]["completion"]], sample=[TRUTH])


def test_a_fault_of_the_segmenter_is_not_a_reward_of_zero() -> None:
    def broken(instances: Sequence[Instance], sample: Any) -> np.ndarray:
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        target_reward(broken, same)([CASES["valid_one"]["completion"]], sample=[TRUTH])


# VisionReasoner

BOXES = [[0, 0, 100, 100], [200, 200, 300, 300]]
POINTS = [[50, 50], [250, 250]]


def instance(box: Sequence[float], *points: tuple[float, float]) -> Instance:
    return Instance(tuple(box), points)  # type: ignore[arg-type]


def test_matching_is_by_the_best_pairs() -> None:
    good = [instance(BOXES[1], (245, 250), (255, 250)), instance(BOXES[0], (50, 50))]
    assert matching_score(good, BOXES, POINTS) == 3.0
    assert matching_score(good[:1], BOXES, POINTS) == 1.5
    assert matching_score([*good, instance((400, 400, 500, 500), (450, 450))], BOXES, POINTS) == 2.0
    assert matching_score([], [], []) == 3.0
    assert matching_score([], BOXES, POINTS) == matching_score(good, [], []) == 0.0
    with pytest.raises(ConfigError, match="a box and a point"):
        matching_score(good, BOXES, POINTS[:1])


@pytest.mark.parametrize(
    ("found", "gain"),
    [
        (instance((0, 0, 100, 100)), 2),
        (instance((0, 0, 100, 139)), 2),  # IoU 0.72, mean difference 9.75
        (instance((0, 0, 100, 141)), 1),  # 10.25
        (instance((0, 0, 100, 200)), 0),  # IoU just 0.5
        (instance((0, 0, 1000, 1000), (79, 50)), 1),
        (instance((0, 0, 1000, 1000), (81, 50)), 0),
        (Instance(None, ((50, 50), (50, 99))), 1),  # mean distance 24.5
        (Instance(None, ((50, 50), (50, 101))), 0),  # one outside
        (Instance(None, ((50, 50), (50, 101)), (1, 0)), 1),  # which is negative
    ],
)
def test_each_term_of_a_pair(found: Instance, gain: float) -> None:
    assert matching_score([found], BOXES[:1], POINTS[:1]) == gain


def test_matching_reward_of_completions() -> None:
    texts = [CASES[name]["completion"] for name in ("valid_two", "empty_list", "no_fence", "valid_one")]
    column = [GOLDEN["gt_boxes_xyxy"]] * 4
    assert matching_reward(texts, truth_boxes=column) == [3.0, 0.0, 0.0, 1.5]
    assert matching_reward(texts, truth_boxes=[[]] * 4, other=1) == [0.0, 3.0, 0.0, 0.0]
    far = [[[60, 60], [0, 0]]] * 4
    assert matching_reward(texts[:1], truth_boxes=column[:1], truth_points=far[:1]) == [2.0]
    with pytest.raises(ConfigError, match="one entry a completion"):
        matching_reward(texts, truth_boxes=column[:3])


def test_repetition() -> None:
    texts = ["<think>A pier. Two tanks. A PIER</think>", "<think>One is 2.5 m. Two.</think>", "<think></think>", "x"]
    assert non_repetition_reward(texts) == [pytest.approx(2 / 3), 1.0, 0.0, 0.0]
    assert non_repetition_reward(["<think>" + "." * 1_000_000 + "</think>"]) == [0.0]
