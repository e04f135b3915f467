"""Numbers over samples: groups, undefined metrics, float32 meters, intervals, two systems."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.evaluation.intervals import bootstrap, paired_intervals, ratio_intervals
from terraprompt.evaluation.metrics import Overlap, summarise
from terraprompt.evaluation.protocols import protocol
from terraprompt.evaluation.scored_prediction import ScoredPrediction
from terraprompt.evaluation.scores import compare

NATIVE, SEGEARTH = protocol("native"), protocol("segearth")


def score(sample_id="a", iou=0.5, intersection=5, union=10, truth=8, *, protocol="native", **other):
    return ScoredPrediction(
        protocol, sample_id, "found", iou, intersection, union, 7, truth, other.pop("silent", False), **other
    )


def some(count, seed=0, **other):
    rng = np.random.default_rng(seed)
    return [
        score(f"s{i:04}", (inter := int(rng.integers(0, 50))) / 50, inter, 50, category="ab"[i % 2], **other)
        for i in range(count)
    ]


# Summaries


def test_groups_are_summaries_of_their_samples():
    rows = [replace(s, task="referring", level=None if i % 3 else "hard", size="small") for i, s in enumerate(some(12))]
    found = NATIVE.summarise(rows, rounds=50)
    assert list(found.groups) == ["category", "task", "level", "size"]
    for grouping, groups in found.groups.items():
        for value, group in groups.items():
            alone = NATIVE.summarise([r for r in rows if getattr(r, grouping) == value], rounds=50)
            assert group == alone.overall
    assert found.groups["level"]["hard"].samples == 4
    assert found.groups["task"]["referring"] == found.overall


def test_sizes_come_in_their_own_order():
    rows = [score(str(i), size=size) for i, size in enumerate(["large", "none", "medium", "small"])]
    assert list(NATIVE.summarise(rows, rounds=5).groups["size"]) == ["none", "small", "medium", "large"]


def test_undefined_is_none_and_not_zero():
    metrics = NATIVE.summarise([score(hits={"Pr@0.5": None})], rounds=5).overall.metrics
    for name in ("N-acc", "Pr@0.5", "seconds"):
        assert (metrics[name].value, metrics[name].low, metrics[name].high, metrics[name].samples) == (
            None,
            None,
            None,
            0,
        )
    assert metrics["T-acc"].value == 1


@pytest.mark.parametrize(("name", "value"), [("native", 1.0), ("think2seg", 0.0), ("rmsin", None), ("segearth", None)])
def test_ciou_of_right_silence_alone(name, value):
    silent = score(iou=1.0, intersection=0, union=0, truth=0, silent=True, protocol=name)
    metrics = protocol(name).summarise([silent], rounds=5).overall.metrics
    assert metrics["cIoU"].value == value
    assert (metrics["N-acc"].value, metrics["T-acc"].value) == (1.0, None)


def test_failures_by_reason_most_frequent_first():
    rows = [
        replace(score(str(i)), status="failed", reason=r) for i, r in enumerate(["late", "no JSON", "no JSON", "bad"])
    ]
    found = NATIVE.summarise([*rows, score("x", seconds=2.0), score("y", seconds=4.0)], rounds=5)
    assert list(found.failures.items()) == [("no JSON", 2), ("bad", 1), ("late", 1)]
    assert found.overall.failed == 4
    assert found.overall.metrics["failure rate"].value == pytest.approx(4 / 6)
    assert (found.overall.metrics["seconds"].value, found.overall.metrics["seconds"].samples) == (3.0, 2)


def test_streams_are_taken_and_json_is_given():
    found = NATIVE.summarise(iter(some(5)), rounds=20)
    assert (
        json.loads(json.dumps(found.as_dict()))["overall"]["metrics"]["gIoU"]["value"]
        == found.overall.metrics["gIoU"].value
    )


def test_float32_meters_lose_what_float32_loses():
    # 2^24 + 1 is no float32: a meter that holds 2^24 does not notice one pixel more.
    rows = [score("a", 0.1, 2**24, 2**25, protocol="segearth"), score("b", 0.2, 1, 2**25, protocol="segearth")]
    found = SEGEARTH.summarise(rows, rounds=5).overall.metrics
    assert found["cIoU"].value == 0.25
    assert found["gIoU"].value == float((np.float32(0.1) + np.float32(0.2)) / np.float32(2))
    precise = NATIVE.summarise([replace(r, protocol="native") for r in rows], rounds=5).overall.metrics
    assert precise["cIoU"].value == (2**24 + 1) / 2**26


@pytest.mark.parametrize(
    ("rows", "match"),
    [
        ([], "nothing to summarise"),
        ([score("a"), score("b", protocol="rmsin")], "other rules"),
        ([score("a"), score("b", extra={"dice": 1.0})], "other rules"),
        ([score("a"), score("b"), score("a")], "one sample id"),
        ([score("a", protocol="rmsin")], "another protocol"),
    ],
)
def test_scores_that_cannot_be_summed(rows, match):
    with pytest.raises(ConfigError, match=match):
        NATIVE.summarise(rows, rounds=5)


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=12))
def test_native_is_the_plain_summary(counts):
    overlaps = [Overlap(min(a, b, c), b, c) for a, b, c in counts]
    rows = [
        ScoredPrediction(
            "native", str(i), "found", o.iou, o.intersection, o.union, o.predicted, o.truth, o.predicted == 0
        )
        for i, o in enumerate(overlaps)
    ]
    found, plain = NATIVE.summarise(rows, rounds=2).overall.metrics, summarise(overlaps)
    assert found["gIoU"].value == pytest.approx(plain.giou)
    assert found["cIoU"].value == pytest.approx(plain.ciou)
    assert (found["N-acc"].value, found["T-acc"].value) == (pytest.approx(plain.n_acc), pytest.approx(plain.t_acc))


# Intervals


def straightforward(values, seed, rounds):
    """The textbook bootstrap of a mean, all at once."""
    picks = np.random.default_rng(seed).integers(len(values), size=(rounds, len(values)))
    return np.percentile(np.asarray(values)[picks].mean(1), (2.5, 97.5))


@pytest.mark.parametrize("count", [1, 7, 300, 9000])
def test_the_bootstrap_is_the_textbook_one(count):
    # 9000 samples x 1000 rounds are drawn in several portions
    values = np.random.default_rng(3).random(count).tolist()
    assert bootstrap(values, seed=4, rounds=1000) == pytest.approx(straightforward(values, 4, 1000), abs=1e-12)


def test_ciou_has_the_interval_of_a_ratio_of_sums():
    rng = np.random.default_rng(1)
    union = rng.integers(1, 1000, 40).astype(float)
    inter = np.floor(union * rng.random(40))
    rows = [score(f"{i:02}", i_ / u, int(i_), int(u)) for i, (i_, u) in enumerate(zip(inter, union, strict=True))]
    picks = np.random.default_rng(5).integers(40, size=(500, 40))
    expected = np.percentile(inter[picks].sum(1) / union[picks].sum(1), (2.5, 97.5))
    found = NATIVE.summarise(rows, seed=5, rounds=500).overall.metrics["cIoU"]
    assert (found.low, found.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_resamplings_without_the_rare_kind_are_left_out():
    above, below = np.zeros((30, 1)), np.zeros((30, 1))
    above[0] = below[0] = 1
    assert ratio_intervals(above, below, rounds=200).ravel() == pytest.approx([1, 1])
    assert np.isnan(ratio_intervals(above, np.zeros((30, 1)), rounds=20)).all()


def test_the_interval_covers_as_often_as_it_says():
    rng = np.random.default_rng(0)
    truth, inside = 0.3, 0
    for i in range(200):
        low, high = bootstrap((rng.random(80) < truth).astype(float), seed=i, rounds=300)
        inside += low <= truth <= high
    assert 0.88 <= inside / 200 <= 0.99


# Two systems


def better(rows, by):
    return [replace(r, iou=min(1.0, r.iou + by)) for r in rows]


def test_a_paired_difference_is_sharper_than_two_intervals():
    a = some(200)
    b = better(a, 0.02)
    found = compare(a, b[::-1], rounds=500)
    gain = found.metrics["gIoU"]
    assert (found.samples, found.worse, found.only_a, found.only_b) == (200, 0, (), ())
    assert found.better + found.equal == 200
    assert gain.a == NATIVE.summarise(a, rounds=2).overall.metrics["gIoU"].value
    assert gain.difference == pytest.approx(gain.b - gain.a)
    assert 0 < gain.low <= gain.difference <= gain.high
    alone = NATIVE.summarise(a, rounds=500).overall.metrics["gIoU"]
    assert gain.high - gain.low < (alone.high - alone.low) / 10
    assert found.metrics["cIoU"].difference == 0
    assert found.metrics["N-acc"].difference is None
    assert json.dumps(found.as_dict())


def test_the_other_way_round_is_the_negative():
    a, b = some(60), better(some(60), 0.1)
    there, back = (compare(*pair, rounds=400).metrics["gIoU"] for pair in ((a, b), (b, a)))
    assert (there.low, there.high) == pytest.approx((-back.high, -back.low))
    same = compare(a, a, rounds=50)
    assert (same.equal, same.metrics["gIoU"].low, same.metrics["gIoU"].high) == (60, 0, 0)


def test_only_common_samples_are_compared():
    a, b = some(10)[:7], some(10)[4:]
    found = compare(a, b, rounds=20)
    assert (found.samples, found.only_a, found.only_b) == (
        3, ("s0000", "s0001", "s0002", "s0003"), ("s0007", "s0008", "s0009"),
    )  # fmt: skip
    assert found.metrics["gIoU"].a == pytest.approx(np.mean([r.iou for r in some(10)[4:7]]))


def test_paired_intervals_of_ratios():
    rng = np.random.default_rng(2)
    a, c = rng.random((2, 30))
    b, d = rng.random((2, 30)) + 1
    picks = np.random.default_rng(7).integers(30, size=(300, 30))
    expected = np.percentile(c[picks].sum(1) / d[picks].sum(1) - a[picks].sum(1) / b[picks].sum(1), (2.5, 97.5))
    columns = (x[:, None] for x in (a, b, c, d))
    assert paired_intervals(*columns, seed=7, rounds=300).ravel() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize(
    ("other", "match"),
    [
        ([score("s0000", protocol="rmsin")], "different rules"),
        ([score("z")], "no sample in common"),
        ([score("s0000", truth=9)], "another truth"),
    ],
)
def test_runs_that_cannot_be_compared(other, match):
    with pytest.raises(ConfigError, match=match):
        compare(some(3), other, rounds=5)
