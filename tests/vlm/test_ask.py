"""From an answer to instances on the image, or to a reason why there are none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from endpoint_server import EndpointServer, Raw, Say, Status, endpoint_server, forget_probes
from terraprompt.errors import BudgetError, ConfigError
from terraprompt.vlm.answer_parser import Instance, Verdict
from terraprompt.vlm.ask import AskLimits, Reading, ask
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, RawAnswer, Units, View
from terraprompt.vlm.endpoint import connect
from terraprompt.vlm.placement import place

IMAGE = np.zeros((200, 400, 3), np.uint8)
SIZE = (200, 400)
SQUARE = View("square", side=100)
PIXELS = Convention(Units.PIXELS, SQUARE)
THOUSAND = Convention(Units.THOUSAND, SQUARE)


def item(box: Any, *points: Any) -> dict[str, Any]:
    return {"bbox_2d": box, "positive_points": [list(p) for p in points]} if points else {"bbox_2d": box}


def wrapped(*items: Any, think: str = "so") -> str:
    return f"<think>{think}</think><answer>```json\n{json.dumps(items)}\n```</answer>"


GOOD = wrapped(item([10, 20, 30, 40], (15, 25), (25, 35)))


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


def answered(
    server: EndpointServer,
    *script: Any,
    convention: Convention | None = PIXELS,
    declared: Convention | None = None,
    **options: Any,
) -> Reading[Instance]:
    server.play(*(Say(part) if isinstance(part, str) else part for part in script))
    link = {"retries": 1, "backoff": 0.001, "timeout": 0.5}
    asker = connect(
        server.url,
        "m",
        convention=declared or convention,
        server=link,
        structured="off",
        budget=options.pop("budget", None),
    )
    forget_probes()
    limits = AskLimits(**{name: options.pop(name) for name in ("tries", "limit") if name in options})
    return ask(asker, IMAGE, "the tanks", limits, **options)


def test_found_is_in_pixels_of_the_image(server: EndpointServer) -> None:
    got = answered(server, GOOD)
    assert (got.status, got.reason, got.notes, got.reasoning) == ("found", "", (), "so")
    assert got.targets == (Instance((40, 40, 120, 80), ((60, 50), (100, 70))),)
    assert got.verdicts == (Verdict.OK,)
    assert got.answered == RawAnswer((Instance((10, 20, 30, 40), ((15, 25), (25, 35))),), (100, 100))
    assert len(server.asked) == len(got.replies) == 1


def test_no_target_is_an_answer(server: EndpointServer) -> None:
    got = answered(server, wrapped())
    assert (got.status, got.reason, got.targets, got.verdicts) == ("no_target", "", (), (Verdict.NO_TARGET,))


def test_a_bad_answer_is_complained_about_and_asked_again(server: EndpointServer) -> None:
    got = answered(server, "no idea", wrapped(item(["left", 2, 3, 4])), GOOD)
    assert got.status == "found"
    assert got.verdicts == (Verdict.NOT_JSON, Verdict.BAD_BOX, Verdict.OK)
    assert "'left'" in server.asked[2].body["messages"][2]["content"]
    assert "left" in server.asked[2].body["messages"][1]["content"]


@pytest.mark.parametrize(
    ("script", "reason", "asked"),
    [
        (("I am sorry.",), r"3 tries; the last one \(not_json\)", 3),
        (("",), r"\(empty\): The answer is empty", 3),
        ((GOOD, "x"), "", 1),
        ((Say(GOOD[:-30], finish="length"),), r"cut off.*fewer words", 3),
        ((Say(message={"content": None, "refusal": "I will not."}),), r"refused \(refusal\): 'I will not\.'", 1),
        ((Say("", finish="content_filter"),), r"refused \(content_filter\)", 1),
        ((Status(500, "oops"),), r"no answer in 2 attempts.*oops", 2),
        ((Status(401, "who are you"),), r"status 401.*who are you", 1),
        ((Raw(b"<html>", "text/html"),), r"does not answer like", 1),
        ((Raw(b'{"choi'),), r"not whole JSON", 2),
        ((Say(GOOD, after=1.0),), r"no reply within 0\.5 s", 2),
        ((wrapped(item([500, 500, 600, 3000])),), r"None of the answered", 3),
        ((wrapped(item([10, 10, 10, 10])),), r"None of the answered", 3),
        (("[" * 50_000,), r"\(not_json\)", 3),
    ],
    ids=range(14),
)
def test_every_failure_has_its_reason(server: EndpointServer, script: tuple[Any, ...], reason: str, asked: int) -> None:
    got = answered(server, *script)
    assert len(server.asked) == asked
    if reason:
        assert got.status == "failed"
        assert got.targets == ()
        assert re.search(reason, got.reason)
    else:
        assert got.status == "found"


def test_a_cut_answer_is_not_taken_for_a_whole_one(server: EndpointServer) -> None:
    got = answered(server, Say(wrapped(), finish="length"), GOOD)
    assert got.status == "found"
    assert "fewer words" in server.asked[1].body["messages"][2]["content"]


def test_a_budget_stops_the_asking(server: EndpointServer) -> None:
    with pytest.raises(BudgetError):
        answered(server, GOOD, budget=Budget(tokens=100))
    assert server.asked == []
    with pytest.raises(BudgetError):  # in the middle, before the second try
        answered(server, Say("x", usage=(1000, 500)), budget=Budget(tokens=2700))
    assert len(server.asked) == 1


def test_bad_settings(server: EndpointServer) -> None:
    for bad in ({"tries": 0}, {"limit": 0}):
        with pytest.raises(ConfigError):
            answered(server, GOOD, **bad)
    for image in (np.zeros(3, np.uint8), np.zeros((4, 4, 3), np.float32)):
        with pytest.raises(ConfigError, match="uint8"):
            ask(connect(server.url, "m"), image, "x")  # type: ignore[arg-type]


# Placement


def test_inverted_clipped_dropped_and_doubled() -> None:
    placed = place(
        [
            Instance((30, 40, 10, 20), ((15, 25), (90, 90))),
            Instance((10, 20, 30, 41)),
            Instance((90, 90, 101, 101)),
            Instance((50, 50, 50, 60)),
            Instance(None, ((70, 70), (120, 70)), (1, 0)),
            Instance(None, ((120, 70), (70, 70)), (1, 0)),
        ],
        PIXELS,
        SIZE,
    )
    assert placed.fault == ""
    assert placed.instances == (
        Instance((40, 40, 120, 82)),
        Instance((360, 180, 400, 200)),
        Instance(None, ((280, 140),), (1,)),
    )
    assert placed.notes == (
        "1 instance had corners the wrong way round; sorted.",
        "2 instances outside the image or without area; dropped.",
        "1 instance reached over the edge of the image; clipped.",
        "2 points outside the image or their box; dropped.",
        "1 instance overlapped a larger one; dropped.",
    )


def test_negative_points_may_lie_beside_the_box() -> None:
    (kept,) = place([Instance((10, 10, 20, 20), ((15, 15), (50, 50)), (1, 0))], PIXELS, SIZE).instances
    assert kept.labels == (1, 0)


def test_a_hundred_thousand_boxes_are_capped(server: EndpointServer) -> None:
    many = [item([i % 90, i % 80, i % 90 + 5, i % 80 + 5]) for i in range(100_000)]
    got = answered(server, wrapped(*many), limit=50)
    assert got.status == "found"
    assert 1 <= len(got.targets) <= 50
    assert got.notes[0] == "100000 instances were answered; the first 50 are kept."
    assert got.answered is not None
    assert len(got.answered.instances) == 50


@pytest.mark.parametrize(
    ("convention", "box", "likely"),
    [
        (PIXELS, (500, 500, 900, 900), "0..1000"),
        (PIXELS, (0.1, 0.1, 0.4, 0.4), "0..1"),
        (THOUSAND, (0.1, 0.1, 0.4, 0.4), "0..1"),
        (Convention(Units.UNIT, SQUARE), (50, 50, 90, 90), "pixels"),
        (Convention(Units.UNIT, SQUARE), (50, 50, 300, 900), "0..1000"),
        (Convention(Units.THOUSAND, View("square", side=1500)), (1100, 1100, 1400, 1300), "pixels"),
    ],
)
def test_the_wrong_convention_is_said(convention: Convention, box: Any, likely: str) -> None:
    placed = place([Instance(box)], convention, SIZE)
    assert placed.instances == ()
    assert f"do not fit {convention.units.value}" in placed.fault
    assert f"look like {likely}." in placed.fault


def test_one_stray_among_many_is_dropped_not_believed() -> None:
    good = [Instance((x, y, x + 4, y + 4)) for x in range(0, 60, 5) for y in range(0, 60, 5)]
    placed = place([*good, Instance((900, 900, 950, 950))], PIXELS, SIZE)
    assert len(placed.instances) == len(good)
    assert placed.notes == ("1 instance outside the image or without area; dropped.",)


def test_a_wrong_convention_ends_as_a_failure_that_names_the_right_one(server: EndpointServer) -> None:
    got = answered(server, wrapped(item([500, 500, 900, 900])))
    assert got.status == "failed"
    assert "look like 0..1000" in got.reason
    assert "0..1000" in server.asked[1].body["messages"][2]["content"]


def test_units_that_are_not_known_are_asked_for_or_refused(server: EndpointServer) -> None:
    auto, drawn = Convention(Units.AUTO, SQUARE), wrapped(item([300, 200, 650, 533]))
    got = answered(server, drawn, wrapped(item([500, 500, 900, 900])), convention=None, declared=auto)
    assert got.status == "found"
    assert got.targets == (Instance((200, 100, 360, 180)),)
    assert got.convention.units is Units.THOUSAND
    got = answered(server, wrapped(item([500, 500, 900, 900])), convention=None, declared=auto)
    assert (got.status, got.replies) == ("failed", ())
    assert "The coordinate convention is not known" in got.reason
    assert len(server.asked) == 1, "the scene is not asked about"
    got = answered(server, Status(500, "oops"), convention=None, declared=auto)
    assert "oops" in got.reason


def test_nothing_to_place() -> None:
    assert place([], PIXELS, SIZE).fault == "No instance was answered."


numbers = st.one_of(st.floats(-1e6, 1e6), st.floats(-10, 110), st.floats(-1e9, 1e9))
instances = st.lists(
    st.builds(
        lambda box, points: Instance(box, tuple(points)) if box or points else Instance((0, 0, 1, 1)),
        st.none() | st.tuples(numbers, numbers, numbers, numbers),
        st.lists(st.tuples(numbers, numbers), max_size=3),
    ),
    max_size=6,
)


@given(instances, st.sampled_from(list(Units)))
def test_whatever_is_answered_lies_inside_or_is_refused(found: list[Instance], units: Units) -> None:
    placed = place(found, Convention(units, SQUARE), SIZE)
    assert bool(placed.fault) is not bool(placed.instances)
    for instance in placed.instances:
        if instance.box is not None:
            x1, y1, x2, y2 = instance.box
            assert 0 <= x1 < x2 <= 400
            assert 0 <= y1 < y2 <= 200
        else:
            assert 1 in instance.labels
        assert all(0 <= x <= 400 and 0 <= y <= 200 for x, y in instance.points)
