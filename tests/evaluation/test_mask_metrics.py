"""Metrics of one mask pair against other people's code and against counting by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from torchmetrics.functional import classification

from terraprompt.evaluation.contours import band_width, bf_score, boundary_band, boundary_iou
from terraprompt.evaluation.metrics import EXTRAS, Overlap
from terraprompt.geometry.boxes import box_mask, mask_box
from terraprompt.geometry.connectivity import largest_component

THEIRS = {
    "dice": classification.binary_f1_score,
    "accuracy": classification.binary_accuracy,
    "precision": classification.binary_precision,
    "recall": classification.binary_recall,
    "specificity": classification.binary_specificity,
}
sizes = st.tuples(st.integers(1, 9), st.integers(1, 9))
bits = st.integers(0, 1)


@st.composite
def pairs(draw):
    size = draw(sizes)
    return draw(arrays(np.uint8, size, elements=bits)), draw(arrays(np.uint8, size, elements=bits))


def extra(name, predicted, truth):
    return EXTRAS[name](predicted, truth, Overlap.of(predicted, truth))


# Pixels


@given(pairs())
def test_pixel_metrics_agree_with_torchmetrics(pair):
    predicted, truth = pair
    if not (predicted.any() and truth.any()) or truth.all():
        return  # what is undefined has its own test
    p, t = torch.from_numpy(predicted), torch.from_numpy(truth)
    for name, theirs in THEIRS.items():
        assert extra(name, predicted, truth) == pytest.approx(float(theirs(p, t)), abs=1e-6)
    jaccard = classification.binary_jaccard_index(p, t)
    assert Overlap.of(predicted, truth).iou == pytest.approx(float(jaccard), abs=1e-6)


@pytest.mark.parametrize(
    ("predicted", "truth", "expected"),
    [
        (0, 0, {"dice": 1, "accuracy": 1, "precision": 1, "recall": 1, "specificity": 1, "BF score": 1}),
        (1, 0, {"dice": 0, "accuracy": 0, "precision": 0, "recall": 0, "specificity": 0, "BF score": 0}),
        (0, 1, {"dice": 0, "accuracy": 0, "precision": 0, "recall": 0, "specificity": 1, "BF score": 0}),
        (1, 1, {"dice": 1, "accuracy": 1, "precision": 1, "recall": 1, "specificity": 1, "BF score": 1}),
    ],
)
def test_empty_and_full(predicted, truth, expected):
    predicted, truth = (np.full((4, 5), value, np.uint8) for value in (predicted, truth))
    expected = {**expected, "boundary IoU": expected["dice"], "boundary IoU 0.5 %": expected["dice"]}
    assert {name: extra(name, predicted, truth) for name in EXTRAS} == expected


def test_dice_is_the_other_face_of_iou():
    for inter, predicted, truth in ((3, 5, 9), (0, 1, 1), (7, 7, 7)):
        o = Overlap(inter, predicted, truth)
        assert EXTRAS["dice"](None, None, o) == pytest.approx(2 * o.iou / (1 + o.iou))


# Outlines


def band_by_hand(mask, width):
    """Target pixels with background, or the outside, in the square of 2 width + 1 around them."""
    padded = np.pad(mask, width)
    out = np.zeros_like(mask)
    for y, x in itertools.product(*map(range, mask.shape)):
        out[y, x] = mask[y, x] and not padded[y : y + 2 * width + 1, x : x + 2 * width + 1].all()
    return out


@given(arrays(np.uint8, sizes, elements=bits), st.integers(1, 4))
def test_bands_by_hand(mask, width):
    assert (boundary_band(mask, width) == band_by_hand(mask, width)).all()


@given(pairs(), st.sampled_from([0.005, 0.02, 0.1, 0.3]))
def test_boundary_iou_by_hand(pair, share):
    predicted, truth = pair
    width = band_width(truth.shape, share)
    p, t = band_by_hand(predicted, width), band_by_hand(truth, width)
    expected = Overlap.of(p, t).iou
    assert boundary_iou(predicted, truth, share=share) == pytest.approx(expected)
    assert boundary_iou(truth, predicted, share=share) == pytest.approx(expected)


@given(pairs())
def test_a_band_that_reaches_the_middle_is_the_mask(pair):
    assert boundary_iou(*pair, share=1.0) == pytest.approx(Overlap.of(*pair).iou)


def test_boundary_iou_sees_what_iou_of_large_objects_hides():
    truth = np.zeros((400, 400), np.uint8)
    truth[50:350, 50:350] = 1
    shifted = np.roll(truth, 4, axis=1)
    assert Overlap.of(shifted, truth).iou > 0.97
    assert boundary_iou(shifted, truth) < 0.75
    assert boundary_iou(shifted, truth, share=0.005) < boundary_iou(shifted, truth)


@pytest.mark.parametrize(
    ("shape", "share", "width"), [((300, 400), 0.02, 10), ((300, 400), 0.005, 2), ((3, 3), 0.02, 1)]
)
def test_band_widths(shape, share, width):
    assert band_width(shape, share) == width


def bf_by_hand(predicted, truth, near):
    def outline(mask):
        padded = np.pad(mask, 1)
        cross = [padded[:-2, 1:-1], padded[2:, 1:-1], padded[1:-1, :-2], padded[1:-1, 2:]]
        return list(zip(*np.nonzero(mask & ~np.logical_and.reduce(cross).astype(np.uint8) & 1), strict=True))

    def share(some, others):
        return sum(any(math.dist(a, b) <= near for b in others) for a in some) / len(some)

    p, t = outline(predicted), outline(truth)
    if not p or not t:
        return float(not p and not t)
    precision, recall = share(p, t), share(t, p)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@given(pairs(), st.sampled_from([0.0075, 0.15, 0.3]))
def test_bf_score_by_hand(pair, share):
    near = share * math.hypot(*pair[0].shape)
    assert bf_score(*pair, share=share) == pytest.approx(bf_by_hand(*pair, near))


def test_bf_score_reaches_as_far_as_it_says():
    truth = np.zeros((30, 40), np.uint8)  # a diagonal of 50 pixels
    truth[10:20, 10:20] = 1
    shifted = np.roll(truth, 1, axis=1)
    assert bf_score(shifted, truth, share=0.02) == 1  # exactly one pixel away
    assert bf_score(shifted, truth, share=0.019) < 1


# Boxes


def components_by_hand(mask):
    """8-connected components as sets of pixels, in the order of their first pixels."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    out = []
    for start in sorted(left):
        if start not in left:
            continue
        part, todo = set(), [start]
        left.discard(start)
        while todo:
            y, x = todo.pop()
            part.add((y, x))
            for near in itertools.product((y - 1, y, y + 1), (x - 1, x, x + 1)):
                if near in left:
                    left.discard(near)
                    todo.append(near)
        out.append(part)
    return out


@given(arrays(np.uint8, st.tuples(st.integers(1, 12), st.integers(1, 12)), elements=bits))
def test_the_largest_component_by_hand(mask):
    expected = np.zeros_like(mask)
    for y, x in max(components_by_hand(mask), key=len, default=()):  # max takes the first of equals
        expected[y, x] = 1
    assert (largest_component(mask) == expected).all()
    rows, columns = np.nonzero(expected)
    if len(rows):
        box = np.zeros_like(mask)
        box[rows.min() : rows.max() + 1, columns.min() : columns.max() + 1] = 1
        assert (box_mask(mask, largest=True) == box).all()


def test_of_equal_components_the_first_row_by_row():
    mask = np.zeros((6, 6), np.uint8)
    mask[1, 4:6] = 1
    mask[2:4, 0] = 1
    assert mask_box(largest_component(mask)) == (4, 1, 6, 2)


def test_the_tightest_rectangle():
    mask = np.zeros((6, 9))
    assert mask_box(mask) is None
    assert not box_mask(mask).any()
    mask[2, 3] = mask[4, 7] = 0.5
    assert mask_box(mask) == (3, 2, 8, 5)
    assert box_mask(mask).sum() == 15
