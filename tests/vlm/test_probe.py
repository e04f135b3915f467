"""Axis order, normalisation and shrinking told apart by a picture of the scene's own size and another one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Asked, EndpointServer, Say, endpoint_server
from terraprompt.vlm.answer_parser import Instance
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
