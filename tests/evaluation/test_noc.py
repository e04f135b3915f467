"""Simulated clicks: where they fall, and how many an oracle of known skill needs."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terraprompt.errors import ConfigError
from terraprompt.evaluation.noc import next_click, noc, simulate, summarise_clicks

TRUTH = np.zeros((40, 40), bool)
PARTS = [
    (slice(2, 12), slice(2, 12)),
    (slice(20, 28), slice(4, 12)),
    (slice(30, 36), slice(30, 36)),
    (slice(4, 8), slice(30, 34)),
]
for part in PARTS:
    TRUTH[part] = True


def whole_parts(points, labels):
    """An oracle that adds the whole part under each click on the target."""
    mask = np.zeros_like(TRUTH)
    for (x, y), label in zip(points, labels, strict=True):
        for rows, columns in PARTS:
            if label and rows.start <= y < rows.stop and columns.start <= x < columns.stop:
                mask[rows, columns] = True
    return mask


def test_one_click_a_part_largest_first():
    asked = []

    def predict(points, labels):
        asked.append((points.copy(), labels.copy()))
        return whole_parts(points, labels)

    areas = [100, 64, 36, 16]
    expected = [sum(areas[: i + 1]) / sum(areas) for i in range(4)]
    assert simulate(predict, TRUTH) == pytest.approx(expected)
    points, labels = asked[-1]
    assert points.dtype == np.float64
    assert labels.tolist() == [1, 1, 1, 1]
    # the middle of each part: the first of its deepest pixels
    assert points.tolist() == [[6.5, 6.5], [7.5, 23.5], [32.5, 32.5], [31.5, 5.5]]
    assert [len(p) for p, _ in asked] == [1, 2, 3, 4]


def test_noc_of_that_oracle():
    ious = simulate(whole_parts, TRUTH)
    assert ious[2] == pytest.approx(200 / 216)
    assert [noc(ious, x) for x in (0.3, 0.85, 0.9, 0.95, 1.0)] == [1, 3, 3, 4, 4]


def test_false_alarms_are_clicked_away():
    truth = np.zeros((30, 30), np.uint8)
    truth[5:15, 5:15] = 1

    def predict(points, labels):
        mask = truth.copy()
        mask[18:30, 0:20] = 1  # until told otherwise
        if 0 in labels.tolist():
            (x, y) = points[labels == 0][0]
            assert (x, y) == (5.5, 23.5)
            mask[18:30, 0:20] = 0
        return mask

    ious = simulate(predict, truth)
    assert ious == pytest.approx([100 / 340, 1.0])
    assert noc(ious, 0.9) == 2


@pytest.mark.parametrize("answer", [np.zeros((40, 40)), np.ones((40, 40))], ids=["nothing", "everything"])
def test_a_system_that_never_learns_counts_as_the_limit(answer):
    clicks = []

    def predict(points, labels):
        clicks.append(tuple(points[-1]))
        return answer

    ious = simulate(predict, TRUTH)
    assert len(ious) == 20
    assert noc(ious, 0.85) == 20
    assert len(set(clicks)) == 20  # no pixel is clicked twice
    assert len(simulate(predict, TRUTH, limit=3)) == 3
    assert noc([0.1, 0.2, 0.3], 0.85, limit=3) == 3


def test_no_click_more_than_needed():
    assert len(simulate(whole_parts, TRUTH, target_iou=0.85)) == 3
    assert len(simulate(lambda p, n: TRUTH, TRUTH)) == 1


def test_when_every_wrong_pixel_was_clicked():
    truth = np.zeros((5, 5), bool)
    truth[2, 1:4] = True
    ious = simulate(lambda p, n: np.zeros((5, 5)), truth)
    assert ious == [0.0, 0.0, 0.0]
    assert noc(ious, 0.85) == 20


def test_reaching_it_with_the_last_click_is_not_a_failure_to_reach_it():
    assert noc([0.0] * 19 + [0.9], 0.9) == 20
    assert noc([0.0, 0.9, 0.5], 0.9) == 2
    assert noc([], 0.9) == 20


def test_means_over_targets():
    curves = [[0.5, 0.9], [0.86], [0.1] * 20, [0.0] * 19 + [0.9]]
    found = summarise_clicks(iter(curves))
    assert list(found) == ["NoC@85", "NoF@85", "NoC@90", "NoF@90"]
    assert found["NoC@85"].value == (2 + 1 + 20 + 20) / 4
    assert found["NoF@85"].value == 0.25  # the last click reached it
    assert found["NoC@90"].value == (2 + 20 + 20 + 20) / 4
    assert found["NoF@90"].value == 0.5
    assert found["NoC@85"].low < found["NoC@85"].value < found["NoC@85"].high
    assert found["NoC@85"].samples == 4
    with pytest.raises(ConfigError, match="at least one value"):
        summarise_clicks([])


def test_pixels_or_depth_say_which_region_is_larger():
    truth, mask = np.zeros((2, 30, 60), bool)
    truth[2:4, 2:58] = True  # missed: 112 pixels, thin
    mask[15:24, 10:19] = True  # false: 81 pixels, deep
    assert next_click(mask, truth) == (2, 2, 1)
    assert next_click(mask, truth, rule="depth") == (19, 14, 0)


def depth_by_hand(region):
    padded = np.pad(region, 1)
    outside = list(zip(*np.nonzero(~padded), strict=True))
    return {
        (y, x): min(math.dist((y + 1, x + 1), o) for o in outside)
        for y, x in itertools.product(*map(range, region.shape))
        if region[y, x]
    }


@given(arrays(bool, (6, 7)), arrays(bool, (6, 7)), arrays(bool, (6, 7)), st.sampled_from(["pixels", "depth"]))
def test_the_next_click_by_hand(mask, truth, clicked, rule):
    regions = [(depth_by_hand(truth & ~mask), 1), (depth_by_hand(mask & ~truth), 0)]
    best = None
    for depths, label in regions:
        free = {p: d for p, d in depths.items() if not clicked[p]}
        if not free:
            continue
        deepest = max(free.values())
        size = len(depths) if rule == "pixels" else deepest
        if best is None or size > best[0] + 1e-9:
            place = min(p for p, d in free.items() if d >= deepest - 1e-9)
            best = (size, (*place, label))
    assert next_click(mask, truth, clicked=clicked, rule=rule) == (None if best is None else best[1])


def test_what_cannot_be_clicked():
    with pytest.raises(ConfigError, match="empty"):
        simulate(whole_parts, np.zeros((40, 40)))
    with pytest.raises(ConfigError, match="one click"):
        simulate(whole_parts, TRUTH, limit=0)
    with pytest.raises(ConfigError, match="one size"):
        simulate(lambda p, n: np.zeros((3, 3)), TRUTH)
