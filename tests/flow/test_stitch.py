"""Tiles blended to one answer."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from terraprompt.errors import ConfigError
from terraprompt.flow.stitch import ABSENT, Stitcher, axis_weights
from terraprompt.raster import plan


def stitched(tiles, answer, valid=None, margin=None):
    """Logits and valid of the whole, from ``answer(tile)``."""
    valid = np.ones((tiles.height, tiles.width), bool) if valid is None else valid
    stitcher, logits, good, at = Stitcher(tiles, margin=margin), [], [], 0
    for row in range(tiles.rows):
        for tile in tiles.row(row):
            stitcher.add(tile, answer(tile))
        rows = stitcher.end_row(valid[tiles.ys[row] : tiles.ys[row] + tiles.tile_height])
        assert rows.top == at
        at += len(rows.logits)
        logits.append(rows.logits)
        good.append(rows.valid)
    assert at == tiles.height
    return np.concatenate(logits), np.concatenate(good)


@settings(deadline=None, max_examples=60)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    radius=st.integers(0, 9),
    odd=st.integers(0, 1),
    room=st.integers(1, 60),
    seed=st.integers(0, 99),
)
def test_a_local_model_answers_the_same_tiled_or_whole(width, height, radius, odd, room, seed):
    image = np.random.default_rng(seed).normal(0, 10, (height, width)).astype(np.float32)
    overlap = 2 * radius + odd
    tiles = plan(width, height, overlap + room, overlap)

    def local(part):
        return ndimage.uniform_filter(part, 2 * radius + 1, mode="constant")

    got, _ = stitched(tiles, lambda t: local(image[t.top : t.bottom, t.left : t.right]))
    np.testing.assert_allclose(got, local(image), atol=1e-5)


@given(
    length=st.integers(1, 400),
    size=st.integers(1, 120),
    share=st.floats(0, 0.99),
    margin_share=st.floats(0, 1),
)
def test_weights_add_up_to_one_and_are_zero_at_inner_edges(length, size, share, margin_share):
    tiles = plan(length, 1, size, int(size * share))
    margin = int(tiles.overlap // 2 * margin_share)
    weights = axis_weights(tiles.xs, tiles.tile_width, length, margin)
    total = np.zeros(length)
    for start, weight in zip(tiles.xs, weights, strict=True):
        total[start : start + tiles.tile_width] += weight
        if start > 0:
            assert (weight[:margin] == 0).all()
        if start + tiles.tile_width < length:
            assert (weight[tiles.tile_width - margin :] == 0).all()
    np.testing.assert_allclose(total, 1, atol=1e-6)
    assert weights[0][0] == 1 or len(tiles.xs) > 1
    assert weights[0][0] > 0
    assert weights[-1][-1] > 0


def test_a_smaller_margin_fades():
    tiles = plan(100, 1, 60, 20)
    first, second = axis_weights(tiles.xs, 60, 100, 2)
    inner = first[42:58]
    assert (np.diff(inner) < 0).all()
    np.testing.assert_allclose(inner + second[2:18], 1, atol=1e-6)


def test_no_ring_at_the_border_and_nodata_is_carried():
    tiles = plan(150, 130, 64, 32)
    valid = np.ones((130, 150), bool)
    valid[:20, :70] = False
    ones, good = stitched(tiles, lambda t: np.full((t.height, t.width), 3.0, np.float32), valid)
    np.testing.assert_array_equal(good, valid)
    np.testing.assert_allclose(ones[valid], 3, atol=1e-5)
    assert (ones[~valid] == ABSENT).all()


def test_garbage_at_inner_edges_has_no_weight():
    tiles = plan(150, 130, 64, 32)

    def dirty(tile):
        logits = np.full((64, 64), 1.0, np.float32)
        for axis, start, length in ((0, tile.top, 130), (1, tile.left, 150)):
            edge = np.moveaxis(logits, axis, 0)
            if start > 0:
                edge[:16] = np.inf
            if start + 64 < length:
                edge[-16:] = -np.inf
        return logits

    np.testing.assert_allclose(stitched(tiles, dirty)[0], 1, atol=1e-6)


def test_too_wide_a_margin():
    with pytest.raises(ConfigError, match="half the overlap"):
        Stitcher(plan(100, 100, 50, 20), margin=11)
