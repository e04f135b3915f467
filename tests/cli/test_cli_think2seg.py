"""``terraprompt segment --engine think2seg`` against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image

from endpoint_server import EndpointServer, Say, Status, endpoint_server
from oracle_endpoint import Oracle, targets
from terraprompt.engines import registry


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch, declare: Callable[..., None]) -> None:
    """The engine by its name, whatever the installed package says; no settings from outside."""
    for name in ("ENDPOINT", "REASONER_MODEL", "REASONER_LOCAL", "REASONER_KEY"):
        monkeypatch.delenv(f"TERRAPROMPT_{name}", raising=False)
    declare(registry.GROUP, think2seg="terraprompt.engines.think2seg:think2seg")


@pytest.fixture
def oracle(town: Any) -> Oracle:
    mask = town.truth.mask("building")
    return Oracle("0..1000", mask.shape, targets(mask, most=4))


@pytest.fixture
def server(oracle: Oracle) -> Iterator[EndpointServer]:
    with endpoint_server(oracle) as play:
        yield play


@pytest.fixture
def ask(run: Callable[..., Any], town: Any, server: EndpointServer) -> Callable[..., Any]:
    def call(*more: object, text: str = "where people live", url: str | None = None) -> Any:
        named = ("--endpoint", url or server.url, "--model", "qwen3-vl-test")
        return run("segment", town.path, text, "--engine", "think2seg", *named, *more)

    return call


def test_mask_polygons_picture_and_evidence(ask: Any, tmp_path: Path, town: Any, oracle: Oracle) -> None:
    done = ask("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg", "--picture", tmp_path / "m.png", "--json")
    assert done.code == 0, done.err
    assert done.json["status"] == "found"
    notes = done.json["notes"]
    assert notes["think"] == "I know 4 of them."
    assert (notes["units"], notes["calls"], len(notes["boxes"]), len(notes["points"])) == ("0..1000", 1, 4, 8)
    for box, target in zip(sorted(notes["boxes"]), sorted(t.box for t in oracle.targets), strict=True):
        assert box == pytest.approx(target, abs=1e-6)
    assert done.json["provenance"]["model"] == "qwen3-vl-test + nano"
    assert (tmp_path / "m.gpkg").exists()
    with rasterio.open(tmp_path / "m.tif") as mask:
        found = mask.read(1) == 1
        assert json.loads(mask.tags()["TERRAPROMPT_SETTINGS"])["reasoner"]["units"] == "0..1000"
    truth = town.truth.mask("building") == 1
    boxes = np.zeros_like(truth)
    for target in oracle.targets:
        x0, y0, x1, y1 = (int(v) for v in target.box)
        boxes[y0:y1, x0:x1] = True
    assert (found & truth & boxes).sum() / (found | (truth & boxes)).sum() > 0.5
    picture = np.asarray(Image.open(tmp_path / "m.png").convert("RGB"))
    scale = picture.shape[1] // truth.shape[1]
    x, y = oracle.targets[0].points[0]
    assert picture[int(y * scale), int(x * scale)].tolist() == [90, 220, 255], "a point that was proposed"


def test_no_target_is_said_in_words(ask: Any, oracle: Oracle, tmp_path: Path) -> None:
    oracle.targets = ()
    done = ask("-o", tmp_path / "m.tif", text="the lakes")
    assert done.code == 3
    assert "no target found (The reasoner sees no target: I know 0 of them.)" in done.said
    with rasterio.open(tmp_path / "m.tif") as mask:
        assert not mask.read(1).any()


def test_a_failure_is_an_error_that_leaves_no_file(ask: Any, server: EndpointServer, tmp_path: Path) -> None:
    server.play(Say("I would rather not."))
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg", "--picture", tmp_path / "m.png")
    done = ask(*outputs, "--json")
    assert done.code == 1
    assert "No mask was made. No usable answer in 3 tries" in done.said
    assert (done.json["status"], done.json["files"]) == ("failed", {})
    assert done.json["reason"] in done.said
    assert done.json["notes"]["replies"][0]["text"] == "I would rather not."
    quiet = ask(*outputs)
    assert (quiet.code, quiet.out) == (1, "")
    assert list(tmp_path.iterdir()) == []


def test_a_budget(ask: Any, server: EndpointServer, tmp_path: Path) -> None:
    done = ask("-o", tmp_path / "m.tif", "--tokens", 2000)
    assert done.code == 1
    assert "token budget is used up" in done.said
    assert server.asked == []
    kept = ("--cache", tmp_path / "replies", "--overwrite")
    assert ask("-o", tmp_path / "m.tif", "--tokens", 20000, *kept).code == 0
    assert ask("-o", tmp_path / "m.tif", "--tokens", 1, *kept).code == 0, "what is known costs nothing"
    assert len(server.about_scene) == 1


def test_options_reach_the_question(ask: Any, server: EndpointServer, oracle: Oracle, tmp_path: Path) -> None:
    oracle.units = "0..1"
    more = ("--units", "0..1", "--side", 500, "--max-tokens", 300, "--timeout", 9, "--segmenter", "nano")
    more += ("--no-schema",)
    assert ask("-o", tmp_path / "m.tif", *more).code == 0
    assert oracle.shown == [(500, 500)]
    assert server.asked[0].body["max_tokens"] == 300
    assert "response_format" not in server.asked[0].body
    assert "<think>" in server.asked[0].words


def test_the_environment_is_enough(
    run: Any, server: EndpointServer, town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERRAPROMPT_ENDPOINT", server.url)
    monkeypatch.setenv("TERRAPROMPT_REASONER_MODEL", "qwen3-vl-test")
    assert run("segment", town.path, "the houses", "-e", "think2seg", "-o", tmp_path / "m.tif").code == 0
    assert run("segment", town.path, "the houses", "-o", tmp_path / "n.tif").code == 0, "nano asks nobody"
    assert len(server.about_scene) == 1


def test_nobody_to_ask(run: Any, town: Any, tmp_path: Path) -> None:
    done = run("segment", town.path, "the houses", "-e", "think2seg", "-o", tmp_path / "m.tif")
    assert done.code == 1
    for way in ("--endpoint", "--local", "TERRAPROMPT_ENDPOINT", "--engine nano"):
        assert way in done.said
    described = run("models", "think2seg")
    assert described.code == 1
    assert "No reasoner is configured" in described.said


@pytest.mark.parametrize(
    "option", [("--endpoint", "http://x/v1"), ("--segmenter", "sam"), ("--units", "0..1"), ("--tokens", "5")]
)
def test_engines_that_ask_nobody_refuse(run: Any, town: Any, tmp_path: Path, option: tuple[str, str]) -> None:
    done = run("segment", town.path, "the houses", *option, "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "Unknown engine option" in done.said
    assert option[0].strip("-") in done.said
    done = run("segment", town.path, "the houses", "-e", "unigeoseg", *option, "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "does not take these options" in done.said


def test_an_endpoint_that_is_down_or_something_else(ask: Any, server: EndpointServer, tmp_path: Path) -> None:
    server.play(Status(404, "page not found"))
    done = ask("-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "status 404" in done.said
    assert "Check the address" in done.said
    done = ask("-o", tmp_path / "m.tif", url="http://me:secret@host/v1")
    assert done.code == 1
    assert "secret" not in done.err


def test_a_budget_in_the_middle_of_an_evaluation(
    run: Any, server: EndpointServer, oracle: Oracle, pack: Path, tmp_path: Path
) -> None:
    oracle.size, oracle.targets = (128, 128), ()
    named = ("--dataset", "pack", "--root", pack, "-e", "think2seg", "--endpoint", server.url, "-o", tmp_path / "out")
    named = (*named, "--model", "qwen3-vl-test", "--task", "referring", "--no-pictures")
    done = run("evaluate", *named, "--tokens", 3200)
    assert done.code == 1
    assert "token budget is used up" in done.said
    assert "go on with --resume" in done.said
    paid = len(server.about_scene)
    assert paid > 1
    done = run("evaluate", *named, "--tokens", 1_000_000, "--resume", "--json")
    assert done.code == 0, done.err
    questions = done.json["scores"]["overall"]["samples"]
    assert len(server.about_scene) == questions > paid, "nothing is asked twice"
    assert done.json["scores"]["overall"]["failed"] == 0
