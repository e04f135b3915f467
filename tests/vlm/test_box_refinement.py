"""Refinement of boxes away from the recorded cases."""

from __future__ import annotations

import math

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from terraprompt.errors import ConfigError, PromptError
from terraprompt.geometry.boxes import Box
from terraprompt.vlm.box_refinement import Mode, refine

sides = st.integers(1, 900)
coordinates = st.floats(-300, 1200, allow_nan=False)
boxes = st.tuples(coordinates, coordinates, coordinates, coordinates)
MODES: list[Mode] = ["official", "calibrated"]


def test_formula() -> None:
    refined = refine((100, 200, 200, 240), (1000, 1000), alpha=0.25, beta=0.05)
    assert refined.plain == (100, 200, 200, 240)
    assert refined.expanded == (75, 190, 205, 242)
    assert refined.crop == (75, 190, 205, 242)
    assert refine((100.0, 200.0, 200.0, 240.0), (1000, 1000), alpha=0, beta=0).expanded == (100, 200, 200, 240)


def test_a_planted_shift_is_undone_at_the_border_too() -> None:
    """25 % right and down; the box hangs out of the image, so it must be corrected before it is clamped."""
    true = (700.0, 500.0, 800.0, 600.0)
    shifted = (725.0, 525.0, 825.0, 625.0)
    assert refine(shifted, (600, 800), alpha=0.25, beta=-0.25).expanded == true
    assert refine((801.0, 601.0, 901.0, 701.0), (600, 800)).expanded == (781, 581, 800, 600)  # outside as answered


@given(boxes, sides, sides, st.floats(-0.4, 1.0), st.floats(-0.4, 1.0), st.sampled_from(MODES))
def test_everything_lies_inside_and_the_crop_is_large_enough(
    box: Box, height: int, width: int, alpha: float, beta: float, mode: Mode
) -> None:
    try:
        refined = refine(box, (height, width), alpha=alpha, beta=beta, mode=mode)
    except PromptError:
        assert mode == "calibrated"
        return
    for x1, y1, x2, y2 in (refined.plain, refined.expanded, refined.crop):
        assert 0 <= x1 <= x2 <= width
        assert 0 <= y1 <= y2 <= height
    x1, y1, x2, y2 = refined.crop
    assert all(isinstance(value, int) for value in refined.crop)
    assert x2 > x1
    assert y2 > y1
    if mode == "calibrated":
        assert x2 - x1 >= min(16, width)
        assert y2 - y1 >= min(16, height)
        assert x1 <= math.floor(refined.expanded[0])
        assert x2 >= math.ceil(refined.expanded[2])
        assert y1 <= math.floor(refined.expanded[1])
        assert y2 >= math.ceil(refined.expanded[3])


@given(boxes, sides, sides)
def test_order_of_corners_does_not_matter(box: Box, height: int, width: int) -> None:
    x1, y1, x2, y2 = box
    try:
        refined = refine(box, (height, width))
    except PromptError:
        assume(False)
    assert refine((x2, y2, x1, y1), (height, width)) == refined


@pytest.mark.parametrize("box", [(900, 10, 950, 20), (-80, 10, -40, 20), (10, 700, 20, 720), (10, -90, 20, -50)])
def test_box_outside_the_image(box: Box) -> None:
    with pytest.raises(PromptError, match=r"outside the image.*convention"):
        refine(box, (600, 800))
    x1, y1, x2, y2 = refine(box, (600, 800), mode="official").plain  # the release clamps it to a line at the border
    assert min(x2 - x1, y2 - y1) == 1


def test_of_a_thin_box_the_release_keeps_the_middle() -> None:
    """Either side under 16: both are re-centred to 16."""
    size = (400, 500)
    assert refine((100, 200, 300, 206), size, mode="official").crop == (182, 194, 198, 210)
    assert refine((100, 50, 104, 350), size, mode="official").crop == (94, 182, 110, 198)
    assert refine((100, 100, 120, 118), size, mode="official").crop == (96, 97, 122, 119), (
        "wide enough: the expanded box"
    )
    x1, y1, x2, y2 = refine((100, 200, 300, 206), size).crop
    assert (x2 - x1, y2 - y1) == (260, 16), "ours widens the short side alone"


@pytest.mark.parametrize("mode", MODES)
def test_object_of_two_pixels(mode: Mode) -> None:
    refined = refine((200, 100, 202, 101), (400, 500), mode=mode)
    x1, y1, x2, y2 = refined.crop
    assert (x2 - x1, y2 - y1) == (16, 16)
    assert x1 <= 200
    assert x2 >= 202
    assert y1 <= 100
    assert y2 >= 101
    corner = refine((498, 399, 500, 400), (400, 500), mode=mode).crop
    expected = {"official": (491, 391, 500, 400), "calibrated": (484, 384, 500, 400)}
    assert corner == expected[mode]


@pytest.mark.parametrize("mode", MODES)
def test_image_one_pixel_wide(mode: Mode) -> None:
    refined = refine((0, 20, 1, 60), (100, 1), mode=mode)
    assert refined.crop == {"official": (0, 30, 1, 46), "calibrated": (0, 12, 1, 64)}[mode]
    assert refine((0, 0, 1, 1), (1, 1), mode=mode).crop == (0, 0, 1, 1)


def test_bad_input() -> None:
    box = (1.0, 2.0, 3.0, 4.0)
    with pytest.raises(PromptError, match="four finite"):
        refine((1.0, 2.0, 3.0, math.nan), (10, 10))
    with pytest.raises(ConfigError, match="1 x 1"):
        refine(box, (0, 10))
    with pytest.raises(ConfigError, match="inside out"):
        refine(box, (10, 10), alpha=-0.5, beta=-0.5)
    with pytest.raises(ConfigError, match="shortest side"):
        refine(box, (10, 10), min_side=0)
    with pytest.raises(ConfigError, match="mode"):
        refine(box, (10, 10), mode="strict")  # type: ignore[arg-type]
