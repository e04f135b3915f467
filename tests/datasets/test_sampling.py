"""Points and boxes drawn from masks."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from terraprompt.datasets import jitter_box, sample_points, tight_box
from terraprompt.errors import ConfigError, DatasetError

masks = hnp.arrays(np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=20), elements=st.integers(0, 1)).filter(
    lambda mask: mask.any()
)


@given(masks, st.integers(0, 2**32 - 1), st.one_of(st.none(), st.integers(1, 5)))
def test_points_are_distinct_and_inside(mask: np.ndarray, seed: int, k: int | None) -> None:
    points = sample_points(mask, np.random.default_rng(seed), k=k)
    assert len(points) == min(k if k is not None else 1, int(mask.sum())) or (k is None and mask.sum() >= 200)
    assert len(np.unique(points, axis=0)) == len(points)
    assert all(mask[int(y), int(x)] for x, y in points)


@given(masks)
def test_a_tight_box_holds_all_and_no_smaller_one_does(mask: np.ndarray) -> None:
    x0, y0, x1, y1 = (int(v) for v in tight_box(mask))
    assert mask[y0:y1, x0:x1].sum() == mask.sum()
    assert mask[y0].any()
    assert mask[y1 - 1].any()
    assert mask[:, x0].any()
    assert mask[:, x1 - 1].any()


def test_small_masks_get_one_point_and_large_ones_up_to_three() -> None:
    rng = np.random.default_rng(0)
    small, large = np.ones((14, 14)), np.ones((20, 10))
    assert {len(sample_points(small, rng)) for _ in range(50)} == {1}
    counts = np.bincount([len(sample_points(large, rng)) for _ in range(2000)], minlength=4)[1:] / 2000
    assert counts == pytest.approx([0.6, 0.2, 0.2], abs=0.04)


def test_points_prefer_the_interior() -> None:
    rng = np.random.default_rng(0)
    mask = np.zeros((60, 60), np.uint8)
    mask[10:50, 10:50] = 1
    points = np.concatenate([sample_points(mask, rng, k=1) for _ in range(300)])
    depth = np.minimum(
        np.minimum(points[:, 0] - 10, 50 - points[:, 0]), np.minimum(points[:, 1] - 10, 50 - points[:, 1])
    )
    assert depth.mean() > 9  # uniform points would have 6.7


def test_the_same_seed_gives_the_same_points() -> None:
    mask = np.ones((30, 30))
    first, second = (sample_points(mask, np.random.default_rng(7)) for _ in range(2))
    assert (first == second).all()


def test_an_empty_mask_has_neither_box_nor_points() -> None:
    with pytest.raises(DatasetError, match="empty"):
        tight_box(np.zeros((4, 4)))
    with pytest.raises(DatasetError, match="empty"):
        sample_points(np.zeros((4, 4)), np.random.default_rng(0))
    with pytest.raises(ConfigError, match="one point"):
        sample_points(np.ones((4, 4)), np.random.default_rng(0), k=0)


@settings(max_examples=200)
@given(
    st.tuples(st.integers(0, 90), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
    st.floats(0, 0.49),
    st.integers(0, 2**32 - 1),
)
def test_a_jittered_box_stays_near_and_inside(spot: tuple[int, int, int, int], amount: float, seed: int) -> None:
    x0, y0, w, h = spot
    box = (float(x0), float(y0), float(min(100, x0 + w)), float(min(70, y0 + h)))
    moved = jitter_box(box, np.random.default_rng(seed), width=100, height=70, amount=amount)
    assert 0 <= moved[0] < moved[2] <= 100
    assert 0 <= moved[1] < moved[3] <= 70
    reach = [amount * (box[2] - box[0]), amount * (box[3] - box[1])] * 2
    assert all(abs(a - b) <= r + 1e-9 for a, b, r in zip(moved, box, reach, strict=True))


@pytest.mark.parametrize(("box", "amount"), [((0, 0, 5, 5), 0.5), ((5, 0, 5, 5), 0.1)])
def test_a_senseless_jitter_is_refused(box: tuple[float, float, float, float], amount: float) -> None:
    with pytest.raises(ConfigError):
        jitter_box(box, np.random.default_rng(0), width=9, height=9, amount=amount)
