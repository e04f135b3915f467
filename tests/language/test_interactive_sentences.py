"""Sentences of points and boxes: written as the released data have them, read in every form that occurs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from released_sentences import released
from terraprompt.errors import ConfigError, PromptError
from terraprompt.language.interactive import interactive_instruction, read_interactive, spatial_instruction

BOX = (0.295, 0.607, 0.529, 0.873)


def test_what_is_written_is_the_sentence_of_the_data():
    assert interactive_instruction(points=[(0.48, 0.377)]) == (
        "Please segment the region/target corresponding to the points [0.48,0.377]."
    )
    assert interactive_instruction(points=[(0, 0.5), (0.1234, 1)]) == (
        "Please segment the region/target corresponding to the points [0.0,0.5], [0.123,1.0]."
    )
    assert interactive_instruction(boxes=[(0.514, 0.168, 0.738, 0.367)]) == (
        "Please segment the region/target corresponding to the box x0,y0=[0.514,0.168], x1,y1=[0.738,0.367]."
    )


@given(
    st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=3),
    st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 1)),
    st.integers(2, 5),
)
def test_both_readers_read_what_is_written(points, box, decimals):
    sentence = interactive_instruction(points=points, decimals=decimals)
    rounded = [[round(x, decimals), round(y, decimals)] for x, y in points]
    assert released(sentence) == (rounded, [])
    assert read_interactive(sentence) == (tuple(map(tuple, rounded)), ())
    x0, x1, y0, y1 = *sorted(box[::2]), *sorted(box[1::2])
    sentence = interactive_instruction(boxes=[(x0, y0, x1, y1)], decimals=decimals)
    corners = [round(v, decimals) for v in (x0, y0, x1, y1)]
    assert released(sentence) == ([], [corners])
    if corners[0] < corners[2] and corners[1] < corners[3]:
        assert read_interactive(sentence) == ((), (tuple(corners),))


@pytest.mark.parametrize(
    "sentence",
    [
        "Please segment the region/target corresponding to the box x0,y0=[0.295,0.607], x1,y1=[0.529,0.873].",
        "Please segment the region/target corresponding the box x0,y0=[0.295,0.607], x1,y1=[0.529,0.873].",
        "Please segment the region/target correspondingthe box x0,y0=[0.295, 0.607], x1,y1=[0.529, 0.873].",
        "Please segment the target corresponding to the boox x0, y0 = [0.295 ,0.607], x1, y1 = [0.529 ,0.873]",
        "… the box x0,y0=(0.295,0.607), x1,y1=(0.529,0.873).",
        "… the box X0,Y0=[.295,.607];X1,Y1=[.529,.873].",
        "… the box x1,y1=[0.295,0.607], x2,y2=[0.529,0.873].".replace("x1,y1", "x0,y0", 1),
        "… the box xmin,ymin=[0.295,0.607], xmax,ymax=[0.529,0.873].",
        "… the box x_min=0.295, y_min=0.607, x_max=0.529, y_max=0.873.",
        "… the box [0.295,0.607,0.529,0.873].",
        "… the bounding box (0.295, 0.607), (0.529, 0.873).",
        "… the box {[0.295,0.607],[0.529,0.873]}",
        "… the box 0.295,0.607,0.529,0.873",
        "… the box x0,y0=[0.529,0.873], x1,y1=[0.295,0.607].",
        "… x0,y0=[2.95e-1,6.07e-1], x1,y1=[0.529,0.873]",
        "Point out the region in the box x0,y0=[0.295,0.607], x1,y1=[0.529,0.873].",
    ],
)
def test_every_form_of_a_box_is_read(sentence):
    points, boxes = read_interactive(sentence)
    assert points == ()
    assert boxes == (pytest.approx(BOX),)


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("Please segment the region/target corresponding to the points [0.85,0.068].", [(0.85, 0.068)]),
        ("Please segment the region/target corresponding to the ppoints [0.01,0.035].", [(0.01, 0.035)]),
        ("Please segment the region/target corresponding to thhe points [0.85, 0.068].", [(0.85, 0.068)]),
        ("Please segment the 2nd region corresponding the point[0.85,0.068]", [(0.85, 0.068)]),
        ("… the points {(0.250, 0.200), (0.3, 0.3)}.", [(0.25, 0.2), (0.3, 0.3)]),
        ("… the points [0.1,0.2],[0.3,0.4],[0.5,0.6].", [(0.1, 0.2), (0.3, 0.4), (0.5, 0.6)]),
        ("… the points [[0.1, 0.2], [0.3, 0.4]].", [(0.1, 0.2), (0.3, 0.4)]),
        ("… the points (x,y)=[0.1,0.2].", [(0.1, 0.2)]),
        ("… the point x=0.1, y=0.2", [(0.1, 0.2)]),
        ("… the pixels [0, 1] and [1.0, .5]", [(0.0, 1.0), (1.0, 0.5)]),
        ("… the points 0.1, 0.2", [(0.1, 0.2)]),
        ("… the points [1.004,-0.001].", [(1.0, 0.0)]),
    ],
)
def test_every_form_of_points_is_read(sentence, expected):
    assert read_interactive(sentence) == (tuple(expected), ())


def test_a_box_that_rounding_has_flattened_gets_the_width_of_its_last_decimal():
    ((x0, y0, x1, y1),) = read_interactive("the box x0,y0=[0.5,0.2], x1,y1=[0.5,0.4].")[1]
    assert (y0, y1) == (0.2, 0.4)
    assert (x0, x1) == pytest.approx((0.45, 0.55))
    ((x0, _, x1, _),) = read_interactive("the box x0,y0=[1.000,0.2], x1,y1=[1.000,0.4].")[1]
    assert (x0, x1) == pytest.approx((0.9995, 1.0))


@pytest.mark.parametrize(
    ("sentence", "said"),
    [
        ("Please segment the roof.", "without points or box"),
        ("Please segment the 2 roofs.", "without points or box"),
        ("… the points [0.5].", "do not make points"),
        ("… the points [0.5,0.2,0.1].", "do not make points"),
        ("… the box x0,y0=[0.1,0.2], x1,y1=[0.3].", "do not make boxes"),
        ("… the points [0.5,0.2], [0.1,0.3] and the box x0,y0=[0.1,0.2], x1,y1=[0.3,0.4].", "do not make boxes"),
        ("… the points [240,310].", "outside"),
        ("… the box x0,y0=[0.1,0.2], x1,y1=[1.3,0.4].", "outside"),
    ],
)
def test_what_cannot_be_read_is_refused(sentence, said):
    with pytest.raises(PromptError, match=said):
        read_interactive(sentence)


@pytest.mark.parametrize("arguments", [{}, {"points": [(1.2, 0)]}, {"points": [(0, 0)], "boxes": [(0, 0, 1, 1)]}])
def test_senseless_interaction_is_refused(arguments):
    with pytest.raises(ConfigError):
        interactive_instruction(**arguments)


def test_models_that_take_coordinates_as_data_get_the_sentence_without_them():
    rng = np.random.default_rng(0)
    assert spatial_instruction(rng, box=True, name="lake") == "Please segment the lake corresponding to the box."
    assert {spatial_instruction(rng, box=False) for _ in range(20)} == {
        "Please segment the region corresponding to the points.",
        "Please segment the target corresponding to the points.",
    }
