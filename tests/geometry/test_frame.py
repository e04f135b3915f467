"""The map between an image and the grid a model sees, both ways."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError
from terraprompt.geometry.frame import Frame

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "letterbox_geometry.json").read_text())

side = st.integers(1, 3000)
place = st.floats(-5000, 5000)
length = st.floats(0.5, 5000)


@st.composite
def frames(draw):
    source, grid = (draw(side), draw(side)), (draw(side), draw(side))
    kind = draw(st.sampled_from(["letterbox", "stretch", "crop"]))
    if kind == "letterbox":
        return Frame.letterbox(source, draw(st.sampled_from([64, 512, 1024])))
    if kind == "stretch":
        return Frame.stretch(source, grid)
    return Frame.crop(source, (draw(place), draw(place), draw(length), draw(length)), grid)


@pytest.mark.parametrize("row", GOLDEN, ids=lambda row: "x".join(map(str, row["image_hw"])))
def test_the_letterbox_is_that_of_the_official_code(row):
    frame = Frame.letterbox(tuple(row["image_hw"]), 512)
    assert frame.content == tuple(row["content_hw"]) == tuple(row["mask_content_hw"])
    assert frame.pad[::-1] == tuple(row["content_top_left"]) == tuple(row["mask_content_top_left"])
    assert frame.grid == (512, 512)


@given(frames(), st.lists(st.tuples(place, place), min_size=1, max_size=4))
def test_points_come_back(frame, xy):
    there = frame.points(xy)
    assert there.shape == (len(xy), 2)
    np.testing.assert_allclose(frame.points_back(there), xy, atol=1e-6, rtol=1e-9)
    np.testing.assert_allclose(frame.points(frame.points_back(xy)), xy, atol=1e-6, rtol=1e-9)


@given(frames(), st.tuples(place, place, length, length))
def test_boxes_come_back_and_go_like_their_corners(frame, at):
    box = np.array([at[0], at[1], at[0] + at[2], at[1] + at[3]])
    there = frame.boxes(box)
    np.testing.assert_array_equal(there, np.concatenate([frame.points(box[:2]), frame.points(box[2:])]))
    assert (there[:2] < there[2:]).all()
    np.testing.assert_allclose(frame.boxes_back(there), box, atol=1e-6, rtol=1e-9)


@given(frames())
def test_the_corners_of_the_window_are_those_of_the_content(frame):
    left, top, width, height = frame.window
    x, y = frame.pad
    np.testing.assert_allclose(
        frame.boxes([left, top, left + width, top + height]),
        [x, y, x + frame.content[1], y + frame.content[0]],
        rtol=1e-9,
        atol=1e-6,
    )
    assert 0 <= x <= frame.grid[1] - frame.content[1]
    assert 0 <= y <= frame.grid[0] - frame.content[0]


@given(st.tuples(side, side), st.sampled_from([32, 512]))
def test_a_letterbox_is_centred_and_keeps_the_shape(source, size):
    frame = Frame.letterbox(source, size)
    assert max(frame.content) == size
    margins = size - frame.content[1] - frame.pad[0], size - frame.content[0] - frame.pad[1]
    assert all(0 <= after - before <= 1 for after, before in zip(margins, frame.pad, strict=True))
    exact = size / max(source)
    assert all(
        c == max(1, math.floor(c)) and abs(c - s * exact) <= 1 for c, s in zip(frame.content, source, strict=True)
    )


def test_a_pixel_centre_is_at_one_half():
    frame = Frame.stretch((10, 20), (20, 80))
    np.testing.assert_array_equal(frame.points([0.5, 0.5]), [2, 1])
    np.testing.assert_array_equal(frame.points_back([79.5, 19.5]), [19.875, 9.75])
    assert frame.scale == (4, 2)


def test_arrays_of_any_shape():
    frame = Frame.crop((100, 100), (10, 20, 30, 40), (80, 60))
    xy = np.arange(24).reshape(2, 3, 4)
    assert frame.boxes(xy).shape == (2, 3, 4)
    assert frame.points(xy.reshape(2, 6, 2)).shape == (2, 6, 2)
    assert frame.points(np.empty((0, 2))).shape == (0, 2)
    np.testing.assert_array_equal(frame.boxes([10, 20, 40, 60]), [0, 0, 60, 80])
    np.testing.assert_array_equal(frame.boxes_back([0, 0, 60, 80]), [10, 20, 40, 60])


def test_content_without_padding():
    frame = Frame.letterbox((400, 600), 512)
    grid = np.arange(3 * 512 * 512).reshape(3, 512, 512)
    content = frame.crop_content(grid)
    assert content.shape == (3, 341, 512)
    np.testing.assert_array_equal(content, grid[:, 85:426])


@pytest.mark.parametrize(
    "make",
    [
        lambda: Frame.letterbox((0, 5), 64),
        lambda: Frame.letterbox((5, 5), 0),
        lambda: Frame.stretch((5, -1), (4, 4)),
        lambda: Frame.stretch((5, 5), (4, 0)),
        lambda: Frame.crop((5, 5), (0, 0, 0, 4), (4, 4)),
        lambda: Frame.crop((5, 5), (0, 0, 4, -1), (4, 4)),
        lambda: Frame.crop((5, 5), (0, 0, math.nan, 4), (4, 4)),
        lambda: Frame.crop((5, 5), (math.inf, 0, 4, 4), (4, 4)),
        lambda: Frame.crop((5, 5), (0, 0, 4, 4), (0, 4)),
    ],
)
def test_nothing_cannot_be_mapped(make):
    with pytest.raises(ConfigError):
        make()
