"""Replies of servers in use, through ``segment`` and ``reasoner check``, against a real HTTP server."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from endpoint_server import Asked, Behaviour, EndpointServer, Say, Status, endpoint_server

ANSWER = '```json\n[{"bbox_2d": [246, 254, 672, 805], "label": "building"}]\n```'
DRAWN = '```json\n[{"bbox_2d": [300, 200, 650, 533]}]\n```'
BOX = [110.2, 65.0, 301.1, 206.1]


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    image = np.full((3, 256, 448), 90, np.uint8)
    image[:, 65:206, 110:301] = 220
    path = tmp_path / "scene.tif"
    kind = {"driver": "GTiff", "width": 448, "height": 256, "count": 3, "dtype": "uint8", "crs": "EPSG:32637"}
    with rasterio.open(path, "w", transform=from_origin(5e5, 9e6, 0.3, 0.3), **kind) as out:
        out.write(image)
    return path


def cloud(*refused: str, answer: str = ANSWER, drawn: str = DRAWN) -> Callable[[Asked], Behaviour]:
    def reply(asked: Asked) -> Behaviour:
        for field in refused:
            if field in asked.body:
                return Status(400, f"Unsupported parameter: {field} is not supported with this model.")
        return Say(drawn if "white rectangle" in asked.words else answer)

    return reply


def segment(run: Callable[..., Any], scene: Path, server: EndpointServer, model: str, engine: str = "think2seg") -> Any:
    named = ("--endpoint", server.url, "--model", model, "-e", engine, "--segmenter", "nano")
    return run("segment", scene, "the building", *named, "-o", scene.with_name("m.tif"), "--json")


@pytest.mark.parametrize("engine", ["think2seg", "geoseg"])
@pytest.mark.parametrize(
    ("model", "text"),
    [
        ("internvl3-8b", "<ref>the building</ref><box>[[246, 254, 672, 805]]</box>"),
        ("glm-4.5v", "<think>one</think>It is at <|begin_of_box|>[[246,254,672,805]]<|end_of_box|>."),
        ("qwen2-vl-7b", "<|object_ref_start|>roof<|object_ref_end|><|box_start|>(246,254),(672,805)<|box_end|>"),
    ],
)
def test_native_tokens(
    run: Callable[..., Any], scene: Path, server: EndpointServer, engine: str, model: str, text: str
) -> None:
    server.play(Say(text))
    done = segment(run, scene, server, model, engine)
    assert done.json["status"] != "failed", done.err
    boxes = done.json["notes"]["grounded" if engine == "geoseg" else "boxes"]
    assert (boxes[0]["box"] if engine == "geoseg" else boxes[0]) == pytest.approx(BOX, abs=2)
    assert len(server.about_scene) == 1


@pytest.mark.parametrize("refused", [("max_tokens",), ("temperature",), ("max_tokens", "temperature")])
def test_refused_parameters(
    run: Callable[..., Any], scene: Path, server: EndpointServer, refused: tuple[str, ...]
) -> None:
    server.script = cloud(*refused)
    done = segment(run, scene, server, "gpt-5")
    assert done.code == 0, done.err
    assert done.json["notes"]["boxes"] == [pytest.approx(BOX, abs=2)]
    assert done.json["notes"]["units"] == "0..1000"


def test_an_axis_order_of_its_own(run: Callable[..., Any], scene: Path, server: EndpointServer) -> None:
    server.script = cloud(
        answer='[{"box_2d": [254, 246, 805, 672], "label": "building"}]', drawn='[{"box_2d": [200, 300, 533, 650]}]'
    )
    done = segment(run, scene, server, "gemini-2.5-pro")
    assert done.json["notes"]["boxes"] == [pytest.approx(BOX, abs=2)]
    assert "y first" in done.json["notes"]["units_from"]


def test_check_tells_accepted_from_followed(run: Callable[..., Any], server: EndpointServer) -> None:
    server.script = cloud()
    done = run("reasoner", "check", "--endpoint", server.url)
    assert "schema    accepted, but not followed" in done.out


def test_check_takes_the_options_of_segment(run: Callable[..., Any], server: EndpointServer) -> None:
    server.script = cloud()
    named = ("--endpoint", server.url, "--segmenter", "nano", "--no-schema", "--max-calls", 4)
    run("reasoner", "check", *named, "--set", "token_field=max_completion_tokens", "--set", "temperature=null")
    assert all("max_completion_tokens" in asked.body for asked in server.asked)
    assert not any({"temperature", "max_tokens", "response_format"} & asked.body.keys() for asked in server.asked)
    assert run("reasoner", "check", *named, "--set", "tempo=3").code != 0
