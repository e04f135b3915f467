"""``terraprompt reasoner`` against a real HTTP server."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Asked, EndpointServer, Raw, Say, Status, endpoint_server
from terraprompt.vlm.answer_parser import Instance
from terraprompt.vlm.conventions import Convention, Units, View

NAMED = {(220, 30, 30): "Red.", (30, 160, 60): "green", (30, 60, 220): "**Blue**", (240, 220, 40): "yellow"}
VIEW = View("square", side=840)


@pytest.fixture(autouse=True)
def bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "REASONER_MODEL", "REASONER_LOCAL", "REASONER_KEY"):
        monkeypatch.delenv(f"TERRAPROMPT_{name}", raising=False)


def listed(boxes: Any) -> str:
    items = [{"bbox_2d": list(box)} for box in boxes]
    return f"<think>there</think><answer>```json\n{json.dumps(items)}\n```</answer>"


def seeing(asked: Asked) -> Say | Status:
    """A model with eyes: names colours, boxes what is bright; knows no schemas."""
    if "response_format" in asked.body:
        return Status(400, "no schemas here")
    image = asked.image
    if "colour" in asked.words:
        return Say(NAMED[tuple(int(v) for v in image[0, 0])], usage=(50, 2))
    ys, xs = np.nonzero(image.min(2) > 170)
    return Say(listed([(int(xs.min()), int(ys.min()), int(xs.max()) + 1, int(ys.max()) + 1)]), usage=(900, 40))


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server(seeing) as play:
        yield play


# check


def test_check_of_a_good_endpoint(run: Callable[..., Any], server: EndpointServer) -> None:
    done = run("reasoner", "check", "--endpoint", server.url)
    assert done.code == 0, done.err
    for line in (
        "server    vLLM",
        "model     qwen2.5-vl-test",
        "pictures  seen",
        "schema    not offered, or off",
        "units     pixels",
        f"tokens    {4 * 52 + 940}",
    ):
        assert line in done.out
    assert re.search(r"question  ok, (9\d|100)% overlap read as pixels", done.out)
    assert "warning" not in done.out


def test_check_as_json_and_in_the_wrong_units(run: Callable[..., Any], server: EndpointServer) -> None:
    done = run("reasoner", "check", "--endpoint", server.url, "--model", "other", "--units", "0..1000", "--json")
    assert (done.code, done.json["listed"], done.json["declared"], done.json["usable"]) == (0, False, "0..1000", True)
    told = run("reasoner", "check", "--endpoint", server.url, "--units", "0..1000", "--side", "600")
    assert "the answer fits pixels better than 0..1000; calibrate" in told.out


def test_check_of_a_blind_model(run: Callable[..., Any], server: EndpointServer) -> None:
    server.script = lambda asked: Say("red" if "colour" in asked.words else "I see no picture.")
    done = run("reasoner", "check", "--endpoint", server.url)
    assert done.code == 1
    assert "not seen: red for green, red for blue, red for yellow" in done.out
    assert "answer    I see no picture." in done.out


@pytest.mark.parametrize(
    ("script", "words"),
    [
        ((Raw(b"<html>", "text/html"),), "does not answer like an OpenAI-compatible server"),
        ((Status(401, "who?"),), "status 401"),
    ],
)
def test_check_of_something_else(run: Callable[..., Any], server: EndpointServer, script: Any, words: str) -> None:
    server.play(*script)
    done = run("reasoner", "check", "--endpoint", server.url)
    assert (done.code, done.out) == (1, "")
    assert words in done.said


def test_without_a_reasoner(run: Callable[..., Any], tmp_path: Path) -> None:
    done = run("reasoner", "check")
    assert done.code == 1
    assert "No reasoner is configured." in done.said
    assert "--endpoint" in done.said


# calibrate


def write_pack(folder: Path, count: int = 6) -> Path:
    """Grey images of several sizes with two bright houses each; one image without, one with masks."""
    rng = np.random.default_rng(0)
    lines = []
    for i in range(count):
        width, height = (int(v) for v in rng.integers(200, 400, 2))
        image = np.full((height, width, 3), 60, np.uint8)
        boxes = []
        for x in (0.1, 0.6):
            x1, y1 = int(x * width), int(rng.uniform(0.1, 0.6) * height)
            boxes.append([x1, y1, x1 + int(0.2 * width), y1 + int(0.3 * height)])
            image[y1 : boxes[-1][3], x1 : boxes[-1][2]] = 255
        if i == count - 1:
            boxes = []
        Image.fromarray(image).save(folder / f"{i}.png")
        regions = [{"category": "building", "mask": None, "value": None, "box": box} for box in boxes]
        lines.append(
            {
                "id": f"made/{i}", "source": "made", "split": "val", "image": f"{i}.png", "width": width,
                "height": height, "gsd_m": None, "label_kind": "box", "labelled": ["building"], "regions": regions,
                "licence": "CC0", "group": str(i), "scale_variant": False,
            }
        )  # fmt: skip
    (folder / "annotations.jsonl").write_text("\n".join(map(json.dumps, lines)))
    return folder


def oracle(convention: Convention) -> Callable[[Asked], Say | Status]:
    """Answers from the picture, in the units of ``convention``, of the picture as it was sent."""

    def answer(asked: Asked) -> Say | Status:
        if "response_format" in asked.body:
            return Status(400, "no")
        image = asked.image
        size = (image.shape[0], image.shape[1])
        bright = image.min(2) > 150
        out = []
        for half in (slice(0, size[1] // 2), slice(size[1] // 2, None)):
            ys, xs = np.nonzero(bright[:, half])
            start = half.start
            out.append((xs.min() + start, ys.min(), xs.max() + 1 + start, ys.max() + 1))
        found = [Instance(tuple(float(v) for v in box)) for box in out]
        return Say(listed(v.box for v in convention.from_source(found, size)))

    return answer


@pytest.mark.parametrize("units", ["pixels", "0..1", "0..1000"])
def test_calibrate_finds_the_units(run: Callable[..., Any], server: EndpointServer, tmp_path: Path, units: str) -> None:
    server.script = oracle(Convention(Units(units), VIEW))
    data = write_pack(tmp_path)
    asked = ("reasoner", "calibrate", "--data", data, "--endpoint", server.url)
    done = run(*asked, "--json")
    assert done.code == 0, done.err
    assert (done.json["best"], done.json["declared"], done.json["answered"]) == (units, "pixels", 5)
    first = done.json["readings"][0]
    assert first["reading"] == units
    assert first["agreement"] > 0.9
    assert first["hits"] == 1
    assert first["pairs"] == 10
    assert "every building" in server.asked[-1].words
    told = run(*asked)
    assert f"The answers are in {units}." in told.out
    assert (f"Use --units {units}" in told.out) is (units != "pixels")


def test_calibrate_that_cannot_decide(run: Callable[..., Any], server: EndpointServer, tmp_path: Path) -> None:
    server.script = oracle(Convention(Units.THOUSAND, VIEW))
    asked = ("reasoner", "calibrate", "--data", write_pack(tmp_path), "--endpoint", server.url)
    done = run(*asked, "--side", "1000")
    assert done.code == 1
    assert "do not tell" in done.out


def test_calibrate_keeps_what_was_answered_when_the_budget_ends(
    run: Callable[..., Any], server: EndpointServer, tmp_path: Path
) -> None:
    server.script = oracle(Convention(Units.THOUSAND, VIEW))
    asked = ("reasoner", "calibrate", "--data", write_pack(tmp_path), "--endpoint", server.url, "-j", 1, "--json")
    asked += ("--cache", tmp_path / "cache", "--max-tokens", 100)
    done = run(*asked, "--tokens", 1700)
    assert done.code == 1
    assert "The token budget is used up." in done.said
    assert 0 < done.json["answered"] < 5
    before = len([a for a in server.asked if "response_format" not in a.body])
    again = run(*asked)
    assert again.code == 0, again.err
    assert again.json["answered"] == 5
    assert len([a for a in server.asked if "response_format" not in a.body]) == 5 > before


def test_calibrate_says_what_was_not_read(run: Callable[..., Any], server: EndpointServer, tmp_path: Path) -> None:
    server.script = lambda asked: Say("no idea")
    data = write_pack(tmp_path)
    done = run("reasoner", "calibrate", "--data", data, "--endpoint", server.url)
    assert done.code == 1
    assert "No question got an answer that can be read. Received: not_json" in done.said
    none = run("reasoner", "calibrate", "--data", data, "--split", "train", "--endpoint", server.url)
    assert "No image has boxes" in none.said
