"""Tile plans cover every pixel and stay inside."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.raster import Tile, plan

SIZES = st.integers(1, 300)


@settings(deadline=None, max_examples=60)
@given(width=SIZES, height=SIZES, size=st.integers(1, 90), share=st.floats(0, 0.99))
def test_every_pixel_is_covered_and_no_tile_reaches_outside(width, height, size, share):
    tiles = plan(width, height, size, int(size * share))
    seen = np.zeros((height, width), bool)
    for tile in tiles.tiles:
        assert (tile.width, tile.height) == (min(size, width), min(size, height))
        assert 0 <= tile.left < tile.right <= width
        assert 0 <= tile.top < tile.bottom <= height
        seen[tile.top : tile.bottom, tile.left : tile.right] = True
    assert seen.all()
    assert len(tiles) == len(set(tiles.tiles))
    assert list(tiles.tiles) == sorted(tiles.tiles, key=lambda tile: (tile.top, tile.left))
    for starts in (tiles.xs, tiles.ys):
        assert all(b - a <= size - tiles.overlap for a, b in pairwise(starts))


def test_the_last_tile_is_shifted_inwards():
    tiles = plan(1000, 300, 512, 128)
    assert tiles.xs == (0, 384, 488)
    assert tiles.ys == (0,)
    assert tiles.row(0)[-1] == Tile(488, 0, 512, 300)


def test_exact_fit_and_one_pixel():
    assert plan(512, 512, 512, 128).xs == (0,)
    assert plan(896, 512, 512, 128).xs == (0, 384)
    assert plan(1, 1, 512, 128).tiles == (Tile(0, 0, 1, 1),)


@pytest.mark.parametrize("arguments", [(0, 5, 8, 2), (5, 5, 0, 0), (5, 5, 8, 8), (5, 5, 8, -1)])
def test_impossible_plans(arguments):
    with pytest.raises(ConfigError):
        plan(*arguments)


@settings(deadline=None)
@given(
    left=SIZES,
    top=SIZES,
    width=SIZES,
    height=SIZES,
    grid=st.tuples(SIZES, SIZES),
    at=st.tuples(st.floats(0, 600), st.floats(0, 600)),
)
def test_tile_frames_are_invertible(left, top, width, height, grid, at):
    frame = Tile(left, top, width, height, grid).frame
    np.testing.assert_allclose(frame.points_back(frame.points(at)), at, atol=1e-6)
    np.testing.assert_allclose(frame.points([left, top]), (0, 0), atol=1e-9)
    np.testing.assert_allclose(frame.points([left + width, top + height]), grid[::-1])
