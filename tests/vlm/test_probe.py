"""Axis order, normalisation and shrinking told apart by a picture of the scene's own size and another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Asked, EndpointServer, Say, endpoint_server
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.ask import ask
from terraprompt.vlm.conventions import family_convention
from terraprompt.vlm.endpoint import connect
from terraprompt.vlm.probe import Probe, probe

Write = Callable[[tuple[float, float, float, float], tuple[int, int]], list[float]]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


def grid(units: float, digits: int = 0) -> Write:
    return lambda box, size: [
        round(units * v / s, digits) for v, s in zip(box, (*size[::-1], *size[::-1]), strict=True)
    ]


def pixels(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[float]:
    return list(box)


def model(write: Write, *, y_first: bool = False, largest: int = 10**6) -> Callable[[Asked], Say]:
    """Boxes what is white in the picture that its server left of the one that came."""

    def answer(asked: Asked) -> Say:
        picture = Image.fromarray(asked.image)
        picture.thumbnail((largest, largest))
        image = np.asarray(picture)
        ys, xs = np.nonzero(image.min(2) > 170)
        box = write((float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0), image.shape[:2])
        box = [box[1], box[0], box[3], box[2]] if y_first else box
        return Say(f"```json\n{json.dumps([{'box_2d': box}])}\n```")

    return answer


SIZES = [(240, 320), (1600, 1200), (1024, 1024), (760, 1400)]
WRITERS: dict[str, tuple[Write, int]] = {
    "pixels": (pixels, 10**6),
    "shrunk to 1024": (pixels, 1024),
    "shrunk to 512": (pixels, 512),
    "0..1": (grid(1, 4), 10**6),
    "0..1 shrunk": (grid(1, 4), 768),
    "0..999": (grid(999), 10**6),
    "0..1000": (grid(1000), 1024),
    "0..100": (grid(100, 1), 10**6),
    "0..1024": (grid(1024), 10**6),
}


def asked(server: EndpointServer, size: tuple[int, int], how: str, y_first: bool) -> Probe:
    write, largest = WRITERS[how]
    server.script = model(write, y_first=y_first, largest=largest)
    return probe(connect(server.url, "some-model"), size)


@pytest.mark.parametrize("y_first", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("how", WRITERS)
def test_a_box_is_read_where_it_was_meant(
    server: EndpointServer, how: str, size: tuple[int, int], y_first: bool
) -> None:
    probed = asked(server, size, how, y_first)
    assert probed.convention is not None, probed.summary
    height, width = size
    truth = (0.55 * width, 0.1 * height, 0.9 * width, 0.25 * height)  # another place than the probe's
    shown = probed.convention.view.size(size)
    write, largest = WRITERS[how]
    left = min(1.0, largest / max(shown))
    by = (left * shown[1] / width, left * shown[0] / height)
    seen = (truth[0] * by[0], truth[1] * by[1], truth[2] * by[0], truth[3] * by[1])
    box = write(seen, (round(shown[0] * left), round(shown[1] * left)))
    box = [box[1], box[0], box[3], box[2]] if y_first else box
    [read] = probed.convention.to_source([Instance(tuple(box))], size)
    assert read.box == pytest.approx(truth, abs=0.015 * max(size))


@pytest.mark.parametrize("box", [[0, 0, 1000, 1000], [100, 700, 200, 900], [450, 450, 550, 550]])
def test_what_fits_nothing_tells_nothing(server: EndpointServer, box: list[float]) -> None:
    server.play(Say(json.dumps([{"bbox_2d": box}])))
    assert probe(connect(server.url, "some-model"), (600, 900)).convention is None


def test_several_boxes_tell_nothing(server: EndpointServer) -> None:
    server.play(Say(json.dumps([{"bbox_2d": [300, 200, 650, 533]}] * 2)))
    assert "not answered with one box" in probe(connect(server.url, "some-model"), (600, 900)).summary


# Conventions that only the model's name tells


def padded(box: tuple[float, float, float, float], size: tuple[int, int]) -> list[float]:
    """Thousandths of the picture with borders that make it square."""
    side = max(size)
    x, y = (side - size[1]) / 2, (side - size[0]) / 2
    return [round(1000 * (v + by) / side) for v, by in zip(box, (x, y, x, y), strict=True)]


SCENE = np.full((700, 1000, 3), 90, np.uint8)
SCENE[70:175, 550:900] = 250
TRUTH = (550, 70, 900, 175)


@pytest.mark.parametrize(
    ("name", "write", "y_first", "largest", "said"),
    [
        ("qwen3-vl-8b", grid(1000), False, 10**6, ""),
        ("qwen3-vl-8b", grid(999), False, 512, ""),
        ("qwen3-vl-8b", pixels, False, 640, "answered in pixels times 0.64"),
        ("qwen3-vl-8b", grid(1, 3), False, 10**6, "answered in 0..1"),
        ("qwen2.5-vl-7b", pixels, False, 10**6, ""),
        ("qwen2.5-vl-7b", pixels, False, 600, "By its name"),
        ("qwen2.5-vl-7b", grid(1000), False, 10**6, "answered in 0..1000"),
        ("internvl3-8b", grid(1000), True, 10**6, "answered in 0..1000, y first"),
        ("llava-1.6", grid(1, 3), False, 10**6, ""),
        ("llava-1.6", grid(100, 1), False, 10**6, "By its name"),
    ],
)
def test_a_name_is_checked_by_a_probe(
    server: EndpointServer, name: str, write: Write, y_first: bool, largest: int, said: str
) -> None:
    server.script = model(write, y_first=y_first, largest=largest)
    got = ask(connect(server.url, name), SCENE, "the roof")
    assert got.status == "found", got.reason
    assert got.targets[0].box == pytest.approx(TRUTH, abs=8)
    assert any(said in note for note in got.notes) if said else not any("By its name" in note for note in got.notes)


@pytest.mark.parametrize("name", ["qwen3-vl-8b", "glm-4.5v", "minicpm-v", "some-model"])
def test_coordinates_of_an_unknown_kind_are_refused(server: EndpointServer, name: str) -> None:
    server.script = model(padded)
    got = ask(connect(server.url, name), SCENE, "the roof")
    assert (got.status, got.targets) == ("failed", ())
    assert "--units" in got.reason


def test_a_model_that_looks_at_no_probe_is_believed_and_that_is_said(server: EndpointServer) -> None:
    server.play(Say('[{"bbox_2d": [550, 100, 900, 250]}]'))
    got = ask(connect(server.url, "qwen3-vl-8b"), SCENE, "the roof")
    assert got.targets[0].box == pytest.approx(TRUTH, abs=1)
    assert any("by the model's name alone" in note for note in got.notes)


def test_each_shown_size_is_probed_once(server: EndpointServer) -> None:
    server.script = model(grid(1000))
    for _ in range(3):
        ask(connect(server.url, "qwen3-vl-8b"), SCENE, "the roof")
    assert len(server.asked) - len(server.about_scene) == 2
    ask(connect(server.url, "qwen3-vl-8b"), SCENE[:, :800], "the roof")
    assert len(server.asked) - len(server.about_scene) == 4
    ask(connect(server.url, "qwen3-vl-8b", convention=family_convention("x").with_units("0..1000")), SCENE, "the roof")
    assert len(server.asked) - len(server.about_scene) == 4, "units that were named are believed"


def paligemma(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    x1, y1, x2, y2 = (int(1024 * v / s) for v, s in zip(box, (*size[::-1], *size[::-1]), strict=True))
    return f"<loc{y1:04}><loc{x1:04}><loc{y2:04}><loc{x2:04}> roof"


def florence(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    return "roof" + "".join(f"<loc_{int(1000 * v / s)}>" for v, s in zip(box, (*size[::-1], *size[::-1]), strict=True))


def molmo(box: tuple[float, float, float, float], size: tuple[int, int]) -> str:
    x, y = 50 * (box[0] + box[2]) / size[1], 50 * (box[1] + box[3]) / size[0]
    return f'<point x="{x:.1f}" y="{y:.1f}" alt="roof">roof</point>'


@pytest.mark.parametrize("write", [paligemma, florence, molmo])
@pytest.mark.parametrize("name", ["google/paligemma2", "qwen2.5-vl"])
def test_tokens_that_say_their_own_grid(server: EndpointServer, name: str, write: Callable[..., str]) -> None:
    def reply(asked: Asked) -> Say:
        ys, xs = np.nonzero(asked.image.min(2) > 170)
        box = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
        return Say(write(box, asked.image.shape[:2]))

    server.script = reply
    got = ask(connect(server.url, name), SCENE, "the roof")
    assert got.status == "found", got.reason
    assert any("tokens of the model's family" in note for note in got.notes)
    [target] = got.targets
    if write is molmo:
        assert target.points == (pytest.approx((725, 122.5), abs=2),)
    else:
        assert target.box == pytest.approx(TRUTH, abs=3)
