"""Rules of the presets that the golden cases do not reach: failures, grids, boxes, wordings, properties."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from terraprompt.errors import ConfigError
from terraprompt.evaluation.grids import Grid
from terraprompt.evaluation.metrics import EXTRAS, Overlap
from terraprompt.evaluation.protocols import PROTOCOLS, protocol
from terraprompt.evaluation.scored_prediction import ScoredPrediction, size_bucket

NAMES = list(PROTOCOLS)
EMPTY = np.zeros((12, 10), np.uint8)
MASK = EMPTY.copy()
MASK[2:6, 3:8] = 1
masks = arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.integers(0, 1))


def found(predicted, truth, sample_id="a", **other):
    return {"predicted": predicted, "truth": truth, "sample_id": sample_id, **other}


def failed(truth, sample_id="a", reason="no JSON"):
    return {**found(None, truth, sample_id), "status": "failed", "reason": reason}


def natively(name):
    return replace(protocol(name), grid=Grid())


# Presets


def test_presets_have_names_and_cannot_be_changed():
    assert {"native", "unigeoseg", "segearth", "segearth-rsvg", "think2seg", "rmsin", "geoseg810", "rela_gres"} <= {
        *PROTOCOLS
    }
    assert all(name == p.name and p.origin for name, p in PROTOCOLS.items())
    assert {p.name: str(p.grid) for p in PROTOCOLS.values() if p.grid.kind != "native"} == {
        "unigeoseg": "512 letterbox",
        "unigeoseg-rsvg": "512 letterbox",
        "segearth": "1024 letterbox",
        "segearth-rsvg": "1024 letterbox",
        "think2seg": "840 stretch",
        "rmsin": "480 stretch",
    }
    with pytest.raises(TypeError):
        PROTOCOLS["native"] = protocol("rmsin")
    with pytest.raises(FrozenInstanceError):
        protocol("native").strict = False


def test_an_unknown_name_says_which_are_known():
    with pytest.raises(ConfigError, match=r"no such protocol.*Received: gress.*native.*rela_gres"):
        protocol("gress")


def test_every_named_extra_exists():
    assert all(set(p.extras) <= set(EXTRAS) for p in PROTOCOLS.values())


# Outcomes


@pytest.mark.parametrize(
    ("status", "predicted", "reason", "match"),
    [
        ("failed", MASK, "no JSON", "failure has a reason and no mask"),
        ("failed", None, None, "failure has a reason and no mask"),
        ("found", None, None, "failure has a reason and no mask"),
        ("found", MASK, "no JSON", "failure has a reason and no mask"),
        ("found", MASK[1:], None, "one size"),
        ("lost", MASK, None, "found, no_target or failed"),
    ],
)
def test_outcomes_that_contradict_themselves(status, predicted, reason, match):
    with pytest.raises(ConfigError, match=match):
        protocol("native").score(predicted, MASK, sample_id="a", status=status, reason=reason)


@pytest.mark.parametrize("name", NAMES)
def test_a_failure_earns_nothing(name):
    rules = natively(name)
    for truth in (MASK, EMPTY):
        score = rules.score(**failed(truth))
        assert (score.iou, score.intersection, score.union, score.predicted) == (0, 0, truth.sum(), 0)
        assert set(score.extra.values()) <= {0.0}
        assert not any(score.hits.values())
        assert not score.silent
    summary = rules.summarise([rules.score(**failed(MASK, "a", "x")), rules.score(**failed(EMPTY, "b", "y"))], rounds=5)
    assert summary.failures == {"x": 1, "y": 1}
    metrics = summary.overall.metrics
    assert (metrics["N-acc"].value, metrics["T-acc"].value, metrics["failure rate"].value) == (0, 0, 1)


# One sample


@given(masks, st.sampled_from(NAMES), st.data())
def test_bounds_and_counts(truth, name, data):
    predicted = data.draw(arrays(np.uint8, truth.shape, elements=st.integers(0, 1)))
    score = natively(name).score(**found(predicted, truth))
    assert 0 <= score.iou <= 1
    assert 0 <= score.intersection <= min(score.predicted, score.truth)
    assert score.union in (0, score.predicted + score.truth - Overlap.of(predicted, truth).intersection) or (
        PROTOCOLS[name].shape != "mask" and score.union <= truth.size
    )
    assert all(0 <= value <= 1 for value in score.extra.values())
    assert set(score.extra) == set(PROTOCOLS[name].extras)
    assert ScoredPrediction(**json.loads(json.dumps(score.to_row()))) == score


@given(masks, st.sampled_from([n for n in NAMES if PROTOCOLS[n].shape == "mask" or PROTOCOLS[n].box_truth]))
def test_the_truth_itself_is_right(truth, name):
    score = natively(name).score(
        truth, truth, sample_id="a", status="found" if truth.any() or name != "rela_gres" else "no_target"
    )
    if name == "grounding-largest":
        assert score.iou > 0 or not truth.any()
    elif truth.any() or name != "rmsin":
        assert score.iou == pytest.approx(1, abs=2e-5)
        assert set(score.extra.values()) <= {1.0}
    else:
        assert score.iou == 0


@given(masks, st.sampled_from(["native", "unigeoseg", "rela_gres", "geoseg810", "grounding"]), st.data())
def test_iou_is_symmetric(truth, name, data):
    predicted = data.draw(arrays(np.uint8, truth.shape, elements=st.integers(0, 1)))
    rules = natively(name)
    one, other = rules.score(**found(predicted, truth)), rules.score(**found(truth, predicted))
    if truth.any() and predicted.any():
        assert one.iou == other.iou
        symmetric = {"dice", "BF score", "boundary IoU", "boundary IoU 0.5 %", "accuracy"} & set(one.extra)
        assert {n: one.extra[n] for n in symmetric} == pytest.approx({n: other.extra[n] for n in symmetric})


def test_strictness_decides_ties():
    half = MASK.copy()
    half[2:4] = 0
    reached = {n: natively(n).score(**found(half, MASK)).hits.get("Pr@0.5") for n in NAMES}
    assert {n for n, hit in reached.items() if hit} == {"think2seg", "rmsin"}
    assert reached["rela_gres"] is None  # has no Pr@0.5


def test_a_silent_answer_by_status_keeps_its_mask_out_of_gres_alone():
    said = found(MASK, MASK, status="no_target")
    assert natively("rela_gres").score(**said).iou == 0
    assert natively("rela_gres").score(**said).union == MASK.sum()
    assert natively("native").score(**said).iou == 1


@pytest.mark.parametrize("name", NAMES)
def test_any_value_but_zero_is_target(name):
    rules = natively(name)
    once, thrice = rules.score(**found(MASK, MASK)), rules.score(**found(MASK * 255, MASK * 3))
    assert once == thrice


@pytest.mark.parametrize(
    ("target", "bucket"), [(0, "none"), (99, "small"), (100, "medium"), (1000, "medium"), (1001, "large")]
)
def test_size_buckets(target, bucket):
    truth = np.zeros(10_000, np.uint8)
    truth[:target] = 1
    assert size_bucket(target, 10_000) == bucket
    assert protocol("unigeoseg").score(**found(truth.reshape(100, 100), truth.reshape(100, 100))).size == bucket


# Boxes


def test_boxes_of_the_mask_or_of_its_largest_part():
    predicted, truth = np.zeros((2, 20, 20), np.uint8)
    truth[4:9, 2:12] = 1  # a labelled box
    predicted[4:9, 2:11] = 1
    predicted[5:9, 3:10] = 0
    predicted[18, 18] = 1  # a speck far away
    assert natively("unigeoseg-rsvg").score(**found(predicted, truth)).iou == pytest.approx(45 / 50, abs=1e-5)
    assert natively("grounding-largest").score(**found(predicted, truth)).iou == 45 / 50
    assert natively("grounding").score(**found(predicted, truth)).iou == 50 / (15 * 17)
    hits = natively("grounding-largest").score(**found(predicted, truth)).hits
    assert hits == {"Pr@0.3": True, "Pr@0.5": True, "Pr@0.7": True}


# Grids


@given(st.integers(1, 90), st.integers(1, 90), st.integers(1, 90))
def test_letterbox_takes_the_pixel_below(height, width, size):
    rows, columns = np.mgrid[:height, :width]
    for picture, count, axis in ((rows, height, 0), (columns, width, 1)):
        placed = Grid("letterbox", size).put(picture.astype(np.uint8))
        assert max(placed.shape) == size
        wanted = placed.shape[axis]
        assert wanted == max(1, int(count * size / max(height, width)))
        got = placed[:, 0] if axis == 0 else placed[0]
        exact = [i * count // wanted for i in range(wanted)]
        for i, (a, b) in enumerate(zip(got, exact, strict=True)):
            # OpenCV's two divisions may fall just short of a whole number, nowhere else
            assert a == b or (a == b - 1 and i * count % wanted == 0)


@given(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60))
def test_stretch_takes_the_pixel_at_the_centre(height, width, size):
    columns = np.broadcast_to(np.arange(width, dtype=np.uint8), (height, width)).copy()
    placed = Grid("stretch", size).put(columns)
    assert placed.shape == (size, size)
    exact = (np.arange(size) + 0.5) * width / size
    near = np.abs(exact - np.round(exact)) > 1e-9
    assert (placed[0] == np.floor(exact))[near].all()
    assert (placed == placed[0]).all()


@given(masks, st.integers(1, 4))
def test_whole_multiples_keep_every_share(mask, factor):
    big = np.kron(mask, np.ones((factor, factor), np.uint8))
    assert (Grid("letterbox", factor * max(mask.shape)).put(mask) == big).all()
    assert (Grid("letterbox", max(mask.shape)).put(mask) == mask).all()
    assert Grid().put(mask) is mask


def test_padding_takes_no_part():
    wide = np.zeros((100, 400), np.uint8)
    wide[20:60, 100:300] = 1
    score = protocol("unigeoseg").score(**found(wide, wide))
    assert score.truth == pytest.approx(wide.sum() * (512 / 400) ** 2, rel=0.02)
    everything = protocol("unigeoseg").score(**found(np.ones_like(wide), np.ones_like(wide)))
    assert everything.union == 512 * 128


def test_a_target_can_vanish_on_a_coarse_grid():
    truth = np.zeros((2048, 2048), np.uint8)
    truth[1, 1] = 1
    score = protocol("unigeoseg").score(**found(np.zeros_like(truth), truth))
    assert (score.truth, score.iou, score.size) == (0, 1, "small")
    assert protocol("native").score(**found(np.zeros_like(truth), truth)).iou == 0


@pytest.mark.parametrize(("kind", "size"), [("native", 3), ("letterbox", 0), ("stretch", -4)])
def test_grids_that_make_no_sense(kind, size):
    with pytest.raises(ConfigError, match="needs a size"):
        Grid(kind, size)


# Wordings


def test_which_wording_is_asked():
    assert protocol("native").choose_instruction("x", 5) == (0,)
    assert replace(protocol("native"), questions="all").choose_instruction("x", 3) == (0, 1, 2)
    random = protocol("think2seg")
    chosen = [random.choose_instruction(f"image {i}", 4) for i in range(400)]
    assert chosen == [random.choose_instruction(f"image {i}", 4) for i in range(400)]
    assert set(chosen) == {(0,), (1,), (2,), (3,)}
    assert max(Counter(chosen).values()) < 140
    with pytest.raises(ConfigError, match="no instruction"):
        random.choose_instruction("x", 0)


@pytest.mark.parametrize("lines", [1, -13, 7])
@pytest.mark.parametrize("name", [name for name in NAMES if PROTOCOLS[name].grid.kind == "stretch"])
def test_pictures_a_few_lines_off_their_masks_count_where_both_are_stretched(name: str, lines: int) -> None:
    truth = np.zeros((800, 800), np.uint8)
    truth[200:400, 100:500] = 1
    rows = np.minimum(np.floor((np.arange(800 + lines) + 0.5) * 800 / (800 + lines)), 799).astype(int)
    score = protocol(name).score(**found(truth[rows], truth))
    assert score.iou == pytest.approx(1, abs=0.02)


@pytest.mark.parametrize("name", [name for name in NAMES if PROTOCOLS[name].grid.kind != "stretch"])
def test_other_protocols_want_one_size(name: str) -> None:
    with pytest.raises(ConfigError, match="one size"):
        protocol(name).score(**found(np.ones((801, 800), np.uint8), np.ones((800, 800), np.uint8)))
