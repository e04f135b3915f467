"""Fusion away from the recorded masks: routes that disagree, and several targets."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from terraprompt.engines.fusion import fuse
from terraprompt.errors import ConfigError, PromptError

SIZE = (20, 30)


def _block(top: int, left: int, bottom: int, right: int) -> NDArray[np.bool_]:
    mask = np.zeros(SIZE, bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = _block(2, 2, 10, 10), _block(2, 15, 10, 25)


def test_routes_that_agree() -> None:
    fused = fuse(LEFT, _block(4, 4, 12, 12), size=SIZE)
    assert (fused.rule, fused.agreement) == ("intersection", 36 / 64)
    np.testing.assert_array_equal(fused.mask, _block(4, 4, 10, 10))


@pytest.mark.parametrize(
    ("points_score", "text_score", "rule", "expected"),
    [
        (0.9, 0.4, "points_scored_higher", LEFT),
        (0.3, 0.4, "text_scored_higher", RIGHT),
        (0.4, 0.4, "union", LEFT | RIGHT),
        (None, 0.9, "union", LEFT | RIGHT),
        (0.9, None, "union", LEFT | RIGHT),
        (None, None, "union", LEFT | RIGHT),
    ],
)
def test_disjoint_routes(
    points_score: float | None, text_score: float | None, rule: str, expected: NDArray[np.bool_]
) -> None:
    scores = {"points_score": points_score, "text_score": text_score}
    fused = fuse(LEFT, RIGHT, size=SIZE, **scores)
    assert (fused.rule, fused.agreement) == (rule, 0.0)
    np.testing.assert_array_equal(fused.mask, expected)
    official = fuse(LEFT, RIGHT, size=SIZE, mode="official", **scores)
    assert official.rule == "intersection"
    assert official.mask is not None
    assert not official.mask.any()
    assert fuse(LEFT, RIGHT, size=SIZE, disagreement=0, **scores).rule == rule


def test_threshold_of_disagreement() -> None:
    touching = _block(2, 9, 10, 19)  # shares one column of eight
    assert fuse(LEFT, touching, size=SIZE).rule == "intersection"
    assert fuse(LEFT, touching, size=SIZE, disagreement=0.2).rule == "union"
    assert fuse(LEFT, touching, size=SIZE, disagreement=0).agreement == 8 / 64


def test_empty_routes() -> None:
    empty = np.zeros(SIZE, bool)
    for nothing in (None, empty):
        by_text = fuse(nothing, RIGHT, size=SIZE, points_score=0.9, text_score=0.1)
        assert (by_text.rule, by_text.agreement) == ("text", None)
        np.testing.assert_array_equal(by_text.mask, RIGHT)
        assert fuse(LEFT, nothing, size=SIZE).rule == "points"
        assert (fuse(nothing, nothing, size=SIZE).mask, fuse(nothing, nothing, size=SIZE).rule) == (None, "empty")


def test_object_of_two_pixels_and_image_of_one_column() -> None:
    small = _block(5, 5, 6, 7)
    np.testing.assert_array_equal(fuse(small, LEFT, size=SIZE).mask, small)
    column = np.ones((20, 1), np.uint8)
    fused = fuse(column, column[:5] * 255, size=(20, 1))
    assert fused.mask is not None
    assert fused.mask.shape == (20, 1)
    assert fused.mask.all()


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 40), st.integers(1, 40), st.integers(0, 9))
def test_routes_of_any_size(height: int, width: int, rows: int, columns: int, seed: int) -> None:
    route = np.random.default_rng(seed).random((height, width)) < 0.5
    fused = fuse(route, None, size=(rows, columns))
    if fused.mask is not None:
        assert fused.mask.shape == (rows, columns)
    if rows % height == 0 and columns % width == 0 and route.any():
        np.testing.assert_array_equal(fused.mask, route.repeat(rows // height, 0).repeat(columns // width, 1))


def test_bad_input() -> None:
    with pytest.raises(PromptError, match=r"\(h, w\)"):
        fuse(np.ones((2, 2, 2)), None, size=SIZE)
    with pytest.raises(PromptError, match="finite"):
        fuse(LEFT, RIGHT, size=SIZE, points_score=float("nan"))
    for options in ({"disagreement": 1.5}, {"mode": "strict"}):
        with pytest.raises(ConfigError, match="out of range"):
            fuse(LEFT, RIGHT, size=SIZE, **options)
