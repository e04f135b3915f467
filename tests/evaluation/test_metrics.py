"""Overlap under the protocol "native": empty masks, false alarms, shares of right silence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terraprompt.errors import ConfigError
from terraprompt.evaluation.metrics import Overlap, Summary, bootstrap, summarise

NOTHING, HIT, MISS, ALARM = Overlap(0, 0, 0), Overlap(8, 8, 8), Overlap(0, 0, 6), Overlap(0, 5, 0)


@given(arrays(np.uint8, (5, 6), elements=st.integers(0, 2)), arrays(bool, (5, 6)))
def test_counts_agree_with_sets(predicted, truth):
    p, t = set(np.flatnonzero(predicted)), set(np.flatnonzero(truth))
    found = Overlap.of(predicted, truth)
    assert found == Overlap(len(p & t), len(p), len(t))
    assert found.union == len(p | t)
    assert found.iou == (len(p & t) / len(p | t) if p | t else 1.0)


def test_masks_of_two_sizes():
    with pytest.raises(ConfigError, match="one size"):
        Overlap.of(np.zeros((3, 4)), np.zeros((4, 3)))


@pytest.mark.parametrize(
    ("overlaps", "expected"),
    [
        ([NOTHING], Summary(1, 1.0, 1.0, 1.0, None)),
        ([ALARM], Summary(1, 0.0, 0.0, 0.0, None)),
        ([MISS], Summary(1, 0.0, 0.0, None, 0.0)),
        ([HIT], Summary(1, 1.0, 1.0, None, 1.0)),
        # right silence counts in gIoU, but has no pixels for cIoU
        ([HIT, NOTHING, NOTHING, MISS], Summary(4, 0.75, 8 / 14, 1.0, 0.5)),
        # a false alarm joins the union
        ([HIT, ALARM], Summary(2, 0.5, 8 / 13, 0.0, 1.0)),
        # an answer beside the target is an answer
        ([Overlap(0, 3, 9), MISS, ALARM, NOTHING], Summary(4, 0.25, 0.0, 0.5, 0.5)),
    ],
)
def test_the_rules_for_empty_masks(overlaps, expected):
    assert summarise(overlaps) == expected
    assert summarise(iter(overlaps[::-1])) == expected


def test_many_samples_weigh_alike_in_giou_and_by_area_in_ciou():
    found = summarise([Overlap(1, 1, 2), Overlap(900, 900, 1000)])
    assert found.giou == pytest.approx((0.5 + 0.9) / 2)
    assert found.ciou == pytest.approx(901 / 1002)


def test_the_same_as_a_public_evaluator_of_the_gres_rule():
    # (intersection, predicted, truth) of twelve mask pairs; the last two images hold no target.
    pairs = [
        (48, 48, 48), (32, 64, 64), (0, 20, 16), (32, 32, 64), (64, 64, 80), (16, 64, 16), (36, 36, 45), (0, 0, 54),
        (0, 0, 36), (0, 0, 0), (0, 8, 0), (0, 0, 0),
    ]  # fmt: skip
    overlaps = [Overlap(*pair) for pair in pairs]
    whole, targets = summarise(overlaps), summarise(overlaps[:9])
    assert whole.giou == pytest.approx(0.47361111111111114, abs=1e-9)
    assert whole.ciou == pytest.approx(0.42937853107344637, abs=1e-9)
    assert whole.n_acc == pytest.approx(2 / 3)
    assert whole.t_acc == pytest.approx(7 / 9)
    assert targets.giou == pytest.approx(0.40925925925925927, abs=1e-9)
    assert targets.ciou == pytest.approx(0.4359464627151051, abs=1e-9)


def test_nothing_has_no_metrics():
    with pytest.raises(ConfigError, match="nothing to summarise"):
        summarise([])
    with pytest.raises(ConfigError, match="at least one value"):
        bootstrap([])


# The interval


def test_the_interval_repeats_and_follows_its_seed():
    values = np.random.default_rng(5).random(60).tolist()
    assert bootstrap(values) == bootstrap(values) == bootstrap(tuple(values), seed=0)
    assert bootstrap(values, seed=1) != bootstrap(values)


def test_the_interval_holds_the_mean_and_narrows():
    rng = np.random.default_rng(2)
    widths = []
    for count in (10, 100, 1000):
        values = (rng.random(count) < 0.7).astype(float)
        low, high = bootstrap(values)
        assert low <= values.mean() <= high
        widths.append(high - low)
    assert widths[0] > 2 * widths[1] > 4 * widths[2]
    assert widths[2] == pytest.approx(2 * 1.96 * np.sqrt(0.7 * 0.3 / 1000), rel=0.15)


@given(st.floats(0, 1), st.integers(1, 5))
def test_equal_values_leave_no_doubt(value, count):
    assert bootstrap([value] * count, rounds=20) == pytest.approx((value, value))
