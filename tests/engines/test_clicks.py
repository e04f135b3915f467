"""Clicks away from the recorded maps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.engines.clicks import clicks
from terraprompt.errors import ConfigError, PromptError


def _peak(row: int, column: int, shape: tuple[int, int] = (32, 32)) -> np.ndarray:
    y, x = np.mgrid[: shape[0], : shape[1]]
    return np.exp(-((y - row) ** 2 + (x - column) ** 2) / 18).astype(np.float32)


def test_clicks_sit_on_the_peak() -> None:
    found = clicks(_peak(8, 24), (512, 512))
    assert len(found.inside) >= 1
    assert np.abs(found.inside - [24.5 * 16, 8.5 * 16]).max() < 48
    assert found.labels.tolist() == [1] * len(found.inside) + [0] * len(found.inside)
    outside = found.points[len(found.inside) :]
    assert np.linalg.norm(outside[:, None] - found.inside[None], axis=-1).min() > 100


def test_official_points_are_the_indices_of_the_same_pixels() -> None:
    ours, theirs = (clicks(_peak(5, 9), (37, 120), mode=mode) for mode in ("calibrated", "official"))
    np.testing.assert_array_equal(np.floor(ours.points), theirs.points)


@given(
    st.integers(1, 12),
    st.integers(1, 12),
    st.integers(1, 700),
    st.integers(1, 700),
    st.floats(0, 1),
    st.integers(0, 99),
)
def test_points_lie_in_the_image(rows: int, columns: int, height: int, width: int, threshold: float, seed: int) -> None:
    similarity = np.random.default_rng(seed).normal(size=(rows, columns)).astype(np.float32)
    found = clicks(similarity, (height, width), threshold=threshold)
    assert ((found.points > 0) & (found.points < [width, height])).all()
    assert len(found.points) == len(found.labels) == 2 * len(found.inside)
    cells = max(1, rows // 2) * max(1, columns // 2)
    assert (1 if cells > 1 else 0) <= len(found.inside) <= cells // 2


def test_scale_and_offset_of_the_map_do_not_matter() -> None:
    similarity = np.random.default_rng(0).integers(0, 1000, (8, 8)).astype(np.float32)
    first, second = clicks(similarity, (64, 64)), clicks(similarity * 4 - 2048, (64, 64))
    np.testing.assert_array_equal(first.points, second.points)


def test_image_one_pixel_wide() -> None:
    found = clicks(_peak(8, 24), (100, 1))
    assert (found.points[:, 0] < 1).all()
    assert np.abs(found.inside[:, 1] - 8.5 / 32 * 100).max() < 10


def test_crop_of_a_two_pixel_object() -> None:
    """The 16-pixel crop around it: one cell a pixel, so that the clicks fall on the object."""
    similarity = np.zeros((32, 32), np.float32)
    similarity[14:16, 14:18] = 1
    found = clicks(similarity, (16, 16))
    assert sorted(map(tuple, np.floor(found.inside).tolist())) == [(7, 7), (8, 7)]


def test_factor_one_keeps_the_map() -> None:
    similarity = np.arange(12, dtype=np.float32).reshape(3, 4)
    found = clicks(similarity, (30, 40), threshold=0.95, factor=1)
    assert found.inside.tolist() == [[35, 25]]
    assert found.points[1].tolist() == [5, 5]


def test_bad_input() -> None:
    good = _peak(3, 3, (8, 8))
    for wrong in (good[0], good[:0], np.full((4, 4), np.nan, np.float32)):
        with pytest.raises(PromptError, match="finite"):
            clicks(wrong, (64, 64))
    for options in ({"threshold": 1.1}, {"threshold": -0.1}, {"factor": 0}, {"mode": "strict"}):
        with pytest.raises(ConfigError, match="out of range"):
            clicks(good, (64, 64), **options)
    with pytest.raises(ConfigError, match="out of range"):
        clicks(good, (0, 64))
