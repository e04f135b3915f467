"""The fit finds what was planted, and says honestly what it is worth."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from terraprompt.errors import DatasetError
from terraprompt.vlm.bias import fit_bias
from terraprompt.vlm.box_refinement import refine

SIZE = (800, 800)
Array = NDArray[np.float64]


def _true_boxes(seed: int, count: int = 60, *, margin: float = 0.2) -> Array:
    """Boxes of 20..150 px, far enough from the border that nothing is clamped."""
    rng = np.random.default_rng(seed)
    side = rng.uniform(20, 150, (count, 2))
    corner = rng.uniform(margin * 800, (1 - margin) * 800 - side)
    return np.concatenate([corner, corner + side], axis=1)


def _shifted(boxes: Array, share: float) -> Array:
    side = boxes[:, 2:] - boxes[:, :2]
    return boxes + np.tile(share * side, 2)


def _jittered(boxes: Array, seed: int, share: float) -> Array:
    side = np.tile(boxes[:, 2:] - boxes[:, :2], 2)
    return boxes + np.random.default_rng(seed).normal(0, share, boxes.shape) * side


def test_planted_shift_is_recovered() -> None:
    true = _true_boxes(0)
    fit = fit_bias(_shifted(true, 0.25), true, SIZE)
    assert (fit.alpha, fit.beta, fit.count) == (0.25, -0.25, 60)
    assert fit.iou_plain == pytest.approx(0.5625 / 1.4375)  # 75 % x 75 % shared
    assert fit.iou_fitted == pytest.approx(1)
    assert fit.gain_over_plain == pytest.approx(1 - 0.5625 / 1.4375)
    assert fit.gain_over_fixed > 0.4
    assert fit.advised == ("fitted", 0.25, -0.25)


def test_planted_shift_is_recovered_under_jitter() -> None:
    true = _true_boxes(1)
    fit = fit_bias(_jittered(_shifted(true, 0.25), 2, 0.06), true, SIZE)
    assert abs(fit.alpha - 0.25) <= 0.03
    assert abs(fit.beta + 0.25) <= 0.03
    without_shift = fit_bias(_jittered(true, 2, 0.06), true, SIZE).iou_plain
    lost = without_shift - fit.iou_plain
    assert fit.gain_over_plain > 0.9 * lost


def test_wrong_objects_do_not_pull_the_constants() -> None:
    """A fifth of the answers points elsewhere; a mean of offsets would be off by whole boxes."""
    true = _true_boxes(3)
    answered = _shifted(true, 0.25)
    answered[:12] = _true_boxes(4, 12)
    fit = fit_bias(answered, true, SIZE)
    assert (fit.alpha, fit.beta) == (0.25, -0.25)


@settings(max_examples=15)
@given(st.integers(-30, 60), st.integers(-30, 60), st.integers(0, 999))
def test_any_planted_constants(hundredths_alpha: int, hundredths_beta: int, seed: int) -> None:
    """The inverse of the formula is recovered to the hundredth, the step of the finer grid."""
    alpha, beta = hundredths_alpha / 100, hundredths_beta / 100
    true = _true_boxes(seed, 25, margin=0.25)
    side = (true[:, 2:] - true[:, :2]) / (1 + alpha + beta)
    low = true[:, :2] + alpha * side
    answered = np.concatenate([low, low + side], axis=1)
    fit = fit_bias(answered, true, SIZE)
    assert (fit.alpha, fit.beta) == (alpha, beta)
    assert fit.iou_fitted == pytest.approx(1)
    for box, wanted in zip(answered, true, strict=True):
        refined = refine(tuple(box), SIZE, alpha=fit.alpha, beta=fit.beta)
        assert refined.expanded == pytest.approx(tuple(wanted))


def test_leave_one_out_is_really_left_out() -> None:
    """The slow way for a handful of pairs: fit on the others, correct the one."""
    true = _true_boxes(5, 12)
    answered = _jittered(_shifted(true, 0.2), 6, 0.1)
    fit = fit_bias(answered, true, SIZE)
    slow = []
    for one in range(len(true)):
        others = np.arange(len(true)) != one
        part = fit_bias(answered[others], true[others], SIZE)
        refined = refine(tuple(answered[one]), SIZE, alpha=part.alpha, beta=part.beta)
        slow.append(_iou(np.array(refined.expanded), true[one]))
    assert fit.iou_fitted == pytest.approx(np.mean(slow), abs=0.01)  # the finer grid may lie elsewhere
    assert fit.iou_fitted < fit.iou_in_sample


def _iou(one: Array, other: Array) -> float:
    shared = np.clip(np.minimum(one[2:], other[2:]) - np.maximum(one[:2], other[:2]), 0, None).prod()
    return float(shared / ((one[2:] - one[:2]).prod() + (other[2:] - other[:2]).prod() - shared))


def test_no_bias_needs_no_correction() -> None:
    true = _true_boxes(7)
    exact = fit_bias(true, true, SIZE)
    assert (exact.alpha, exact.beta) == (0, 0)
    assert exact.advised == ("plain", 0, 0)
    assert exact.gain_over_plain == 0
    assert exact.gain_over_fixed == pytest.approx(1 - 1 / 1.69)
    noisy = fit_bias(_jittered(true, 8, 0.02), true, SIZE)
    assert max(abs(noisy.alpha), abs(noisy.beta)) <= 0.02
    assert noisy.advised[0] != "fixed"
    whole = np.tile([0.0, 0.0, 800.0, 800.0], (3, 1))  # any growth is clamped away: the smallest wins
    assert fit_bias(whole, whole, SIZE).alpha == 0


def test_few_noisy_pairs_do_not_promise_a_gain() -> None:
    """Unbiased noise: over many small samples the expected gain of a fit is none, its in-sample gain is not."""
    fits = []
    for seed in range(12):
        true = _true_boxes(seed, 6)
        fits.append(fit_bias(_jittered(true, 100 + seed, 0.12), true, SIZE))
    assert np.mean([fit.gain_over_plain for fit in fits]) < 0.01
    assert np.mean([fit.iou_in_sample - fit.iou_plain for fit in fits]) > 0.01


def test_the_right_convention_wins() -> None:
    """0..1000 answers on 800-pixel images: read as pixels they are 25 % too far right and down, and too large."""
    true = _true_boxes(8, margin=0.0)
    answered = np.rint(true / 0.8)
    readings = {"pixels": answered, "thousandths": answered * 0.8, "of a 840 square": answered * 800 / 840}
    fits = {name: fit_bias(boxes, true, SIZE) for name, boxes in readings.items()}
    assert max(fits, key=lambda name: max(fits[name].iou_fitted, fits[name].iou_plain)) == "thousandths"
    assert fits["thousandths"].iou_plain > 0.97
    assert abs(fits["thousandths"].alpha) <= 0.01
    assert fits["pixels"].gain_over_plain > 0.05  # the constants repair a part of it …
    assert fits["pixels"].iou_fitted < 0.6  # … and only a part


def test_sizes_for_each_box_clamp_each_box() -> None:
    true = np.array([[10.0, 10, 50, 50], [10, 10, 90, 90]])
    answered = np.array([[10.0, 10, 70, 70], [10, 10, 90, 90]])
    assert fit_bias(answered, true, [(50, 50), (90, 90)]).iou_plain == 1
    assert fit_bias(answered, true, (90, 90)).iou_plain < 1


def test_bad_input() -> None:
    true = _true_boxes(9, 3)
    for answered, truth, sizes, message in (
        (true[:1], true[:1], SIZE, "at least two"),
        (true, true[:2], SIZE, "at least two"),
        (true[:, :3], true[:, :3], SIZE, "at least two"),
        (true, true, [SIZE, SIZE], "Sizes"),
        (true * np.nan, true, SIZE, "finite"),
        (true, true, (0, 800), "1 x 1"),
        (true, true[:, [0, 1, 0, 3]], SIZE, "no area"),
    ):
        with pytest.raises(DatasetError, match=message):
            fit_bias(answered, truth, sizes)
