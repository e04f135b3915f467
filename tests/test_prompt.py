"""What may be asked, and into which targets it falls apart."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.errors import PromptError, TerrapromptError
from terraprompt.prompt import Prompt, Task, infer_text_task

# One value, checked when it is made


def test_it_is_tidied_into_plain_tuples():
    prompt = Prompt(
        "  the \n rooftops ", points=np.array([[1, 2], [3, 4]]), labels=np.array([1, 0]), boxes=[[9, 8, 3, 4]]
    )
    assert prompt.text == "the rooftops"
    assert prompt.points == ((1.0, 2.0), (3.0, 4.0))
    assert prompt.labels == (1, 0)
    assert prompt.boxes == ((3.0, 4.0, 9.0, 8.0),)
    assert {type(v) for v in (*prompt.points[0], *prompt.boxes[0])} == {float}
    assert {type(v) for v in prompt.labels} == {int}


def test_it_can_be_a_key_and_cannot_change():
    asked = {Prompt("a", points=[(1, 2)], groups=[0]): 1}
    assert asked[Prompt("a", points=((1.0, 2.0),), labels=(1,), groups=(0,))] == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        next(iter(asked)).text = "b"


def test_points_are_positive_unless_said():
    assert Prompt(points=((1, 2), (3, 4))).labels == (1, 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({}, "The prompt is empty"),
        ({"text": ""}, "The instruction is empty"),
        ({"text": " \t\n\u00a0"}, "The instruction is empty"),
        ({"points": ((1, 2, 3),)}, "A point must hold 2 numbers"),
        ({"points": (3, 4)}, "A point must hold 2 numbers"),
        ({"points": (("a", "b"),)}, "A point must hold 2 numbers"),
        ({"points": ((10**400, 1),)}, "A point must hold 2 numbers"),
        ({"points": ((math.nan, 1),)}, "A point must be finite"),
        ({"points": ((1, -math.inf),)}, "A point must be finite"),
        ({"boxes": ((1, 2, 3),)}, "A box must hold 4 numbers"),
        ({"boxes": ((1, 2, 3, math.inf),)}, "A box must be finite"),
        ({"boxes": ((1, 2, math.nan, 4),)}, "A box must be finite"),
        ({"boxes": ((1, 2, 1, 4),)}, "A box has no area"),
        ({"boxes": ((1, 2, 3, 2),)}, "A box has no area"),
        ({"points": ((1, 2),), "labels": (1, 0)}, "Every point needs one label.*1 points, 2 labels"),
        ({"text": "a", "labels": (1,)}, "Every point needs one label.*0 points, 1 labels"),
        ({"points": ((1, 2),), "labels": (2,)}, "label is 1"),
        ({"points": ((1, 2),), "labels": (math.nan,)}, "label is 1"),
        ({"points": ((1, 2),), "labels": ("1",)}, "label is 1"),
        ({"points": ((1, 2), (3, 4)), "labels": (0, 0)}, "All points are negative"),
        ({"points": ((1, 2), (3, 4)), "groups": (0,)}, "Every point needs one group.*2 points, 1 groups"),
        ({"boxes": ((1, 2, 3, 4),), "groups": (0,)}, "Every point needs one group"),
        ({"text": "a", "task_override": "guessing"}, "Unknown task.*interactive, referring, reasoning"),
        ({"text": "a", "task_override": Task.INTERACTIVE}, "needs a point or a box"),
        ({"points": ((1, 2),), "task_override": Task.REFERRING}, "referring task needs a text"),
        ({"boxes": ((1, 2, 3, 4),), "task_override": "reasoning"}, "reasoning task needs a text"),
    ],
)
def test_what_makes_no_sense_is_refused(arguments, said):
    with pytest.raises(PromptError, match=said) as caught:
        Prompt(**arguments)
    assert isinstance(caught.value, TerrapromptError)
    assert isinstance(caught.value, ValueError)


def test_negative_points_may_go_with_a_box():
    assert Prompt(points=((1, 2),), labels=(0,), boxes=((0, 0, 9, 9),)).is_spatial


# Tasks


@pytest.mark.parametrize(
    "text",
    [
        "the buildings",
        "rooftops",
        "Please segment the storage tanks.",
        "Could you please mark the swimming pools",
        "the largest lake",
        "all cars in the upper left",
        "the road left of the river",
        "fields with young crops",
        "trees near the water",
        "highlight every airplane",
    ],
)
def test_a_name_is_referring(text):
    assert infer_text_task(text) is Task.REFERRING


@pytest.mark.parametrize(
    "text",
    [
        "where could a helicopter land?",
        "Which parts are at risk of flooding",
        "places that store fuel",
        "something suitable for playing tennis",
        "the structures people live in",
        "what turns sunlight into electricity",
        "If the river rises, which houses are in danger",
        "surfaces used by vehicles",
        "Can you find where ships are moored?",
    ],
)
def test_a_purpose_is_reasoning(text):
    assert infer_text_task(text) is Task.REASONING


def test_where_the_task_comes_from():
    assert Prompt("the lakes").task is Task.REFERRING
    assert Prompt("where does one swim?").task is Task.REASONING
    assert Prompt("where does one swim?", points=((1, 2),)).task is Task.INTERACTIVE
    assert Prompt(boxes=((0, 0, 1, 1),)).task is Task.INTERACTIVE
    assert Prompt("where does one swim?", task_override="referring").task is Task.REFERRING
    assert Prompt("the lake", points=((1, 2),), task_override=Task.REFERRING).task is Task.REFERRING


# Targets

A, B, C = (5.0, 5.0), (25.0, 25.0), (90.0, 90.0)
NEAR_A, FAR = (6.0, 6.0), (60.0, 60.0)
BOX_A, BOX_B = (0.0, 0.0, 10.0, 10.0), (20.0, 20.0, 30.0, 30.0)


def parts(prompt: Prompt) -> list[tuple]:
    """Each target as (boxes, {point: label})."""
    return [(p.boxes, dict(zip(p.points, p.labels, strict=True))) for p in prompt.objects()]


def test_a_text_is_one_target():
    prompt = Prompt("the lakes", crs="EPSG:4326")
    assert prompt.objects() == (prompt,)


def test_points_are_one_target_unless_grouped():
    prompt = Prompt(points=(A, B, C), labels=(1, 1, 0))
    assert parts(prompt) == [((), {A: 1, B: 1, C: 0})]
    grouped = dataclasses.replace(prompt, labels=(1, 1, 1), groups=(7, 3, 7))
    assert parts(grouped) == [((), {A: 1, C: 1}), ((), {B: 1})]


def test_each_box_is_a_target_with_the_points_inside():
    prompt = Prompt(points=(A, NEAR_A, B, C), labels=(1, 0, 1, 1), boxes=(BOX_A, BOX_B))
    assert parts(prompt) == [((BOX_A,), {A: 1, NEAR_A: 0}), ((BOX_B,), {B: 1}), ((), {C: 1})]


def test_a_point_in_two_boxes_refines_both():
    wide = (0.0, 0.0, 50.0, 50.0)
    assert parts(Prompt(points=(A,), boxes=(BOX_A, wide))) == [((BOX_A,), {A: 1}), ((wide,), {A: 1})]


def test_a_negative_point_outside_boxes_refines_every_target_without_groups():
    prompt = Prompt(points=(FAR, C), labels=(0, 1), boxes=(BOX_A, BOX_B))
    assert parts(prompt) == [((BOX_A,), {FAR: 0}), ((BOX_B,), {FAR: 0}), ((), {FAR: 0, C: 1})]


def test_a_negative_point_refines_its_group():
    assert parts(Prompt(points=(A, B, FAR), labels=(1, 1, 0), groups=(0, 1, 1))) == [((), {A: 1}), ((), {B: 1, FAR: 0})]
    # the target of its group is the box that holds the group's positive point
    held = Prompt(points=(A, FAR, C), labels=(1, 0, 1), groups=(0, 0, 1), boxes=(BOX_A, BOX_B))
    assert parts(held) == [((BOX_A,), {A: 1, FAR: 0}), ((BOX_B,), {}), ((), {C: 1})]


def test_a_negative_point_whose_group_has_no_target_refines_all():
    prompt = Prompt(points=(A, B, FAR), labels=(1, 1, 0), groups=(0, 1, 2))
    assert parts(prompt) == [((), {A: 1, FAR: 0}), ((), {B: 1, FAR: 0})]
    boxed = Prompt(points=(C, FAR), labels=(1, 0), groups=(0, 1), boxes=(BOX_A,))
    assert parts(boxed) == [((BOX_A,), {FAR: 0}), ((), {C: 1, FAR: 0})]


def test_text_crs_and_task_go_with_every_target():
    prompt = Prompt("the roof", points=(C,), boxes=(BOX_A,), crs="EPSG:3857", task_override="referring")
    assert [(p.text, p.crs, p.task) for p in prompt.objects()] == [("the roof", "EPSG:3857", Task.REFERRING)] * 2


coordinate = st.integers(0, 20).map(float)
box = st.tuples(coordinate, coordinate, coordinate, coordinate).filter(lambda b: b[0] != b[2] and b[1] != b[3])
spot = st.tuples(coordinate, coordinate, st.integers(0, 1), st.integers(0, 2))


@given(st.lists(spot, max_size=8), st.lists(box, max_size=3), st.booleans())
def test_no_point_and_no_box_is_lost(spots, boxes, grouped):
    points, labels = tuple(s[:2] for s in spots), tuple(s[2] for s in spots)
    if not boxes and not any(labels):
        return
    prompt = Prompt(None, points, labels, tuple(boxes), groups=tuple(s[3] for s in spots) if grouped else ())
    targets = prompt.objects()
    assert [b for t in targets for b in t.boxes] == list(prompt.boxes)
    assert {(p, v) for t in targets for p, v in zip(t.points, t.labels, strict=True)} == {
        (p, v) for p, v in zip(prompt.points, prompt.labels, strict=True)
    }
    for target in targets:
        assert len(target.boxes) + bool(sum(target.labels)) > 0
        assert target.objects() == (target,)  # each is one target, also when it is asked again


def test_provenance_tells_prompts_apart():
    assert Prompt("the lakes").describe() == "the lakes"
    assert Prompt(points=((1, 2.5),)).describe() == "points 1,2.5,1 (pixel)"
    full = Prompt(
        "a roof", points=((1, 2), (3, 4)), labels=(1, 0), boxes=((11.123456789, 48, 12, 49),), crs="EPSG:4326"
    )
    assert full.describe() == "a roof points 1,2,1 3,4,0 boxes 11.12345679,48,12,49 (EPSG:4326)"
    assert Prompt(points=((1, 2), (3, 4)), groups=(0, 1)).describe() == "points 1,2,1,0 3,4,1,1 (pixel)"
