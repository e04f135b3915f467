"""The engine geoseg from ``segment``, ``evaluate`` and ``reasoner calibrate``, against a real HTTP server."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Asked, EndpointServer, Say, endpoint_server
from geoseg_parts import item, listed
from oracle_endpoint import targets
from terraprompt.engines import registry
from terraprompt.vlm.box_calibration import BoxCalibration

SHIFT = 0.25
#: Colours of the sheet of evidence.
ANSWERED, CORRECTED, CLICK = (255, 120, 90), (90, 220, 255), (255, 235, 80)


@pytest.fixture(autouse=True)
def _installed(monkeypatch: pytest.MonkeyPatch, declare: Callable[..., None]) -> None:
    """The engine by its name, whatever the installed package says; no settings from outside."""
    for name in ("ENDPOINT", "REASONER_MODEL", "REASONER_LOCAL", "REASONER_KEY"):
        monkeypatch.delenv(f"TERRAPROMPT_{name}", raising=False)
    declare(registry.GROUP, geoseg="terraprompt.engines.geoseg:geoseg")


class Model:
    """Answers in 0..1000 with the boxes of a scene, moved right and down by a share of their sides."""

    def __init__(self, truth: np.ndarray, *, shift: float = 0.0, most: int = 2) -> None:
        self.size, self.shift = truth.shape, shift
        self.boxes = [target.box for target in targets(truth, most=most)]

    def __call__(self, asked: Asked) -> Say:
        return Say("<think>I look.</think>" + listed(*[item(self.told(box), "building") for box in self.boxes]))

    def told(self, box: tuple[float, float, float, float]) -> list[float]:
        x0, y0, x1, y1 = box
        across, down = self.shift * (x1 - x0), self.shift * (y1 - y0)
        height, width = self.size
        edges = ((x0 + across) / width, (y0 + down) / height, (x1 + across) / width, (y1 + down) / height)
        return [1000 * edge for edge in edges]


@pytest.fixture
def model(town: Any) -> Model:
    return Model(town.truth.mask("building"))


@pytest.fixture
def server(model: Model) -> Iterator[EndpointServer]:
    with endpoint_server(model) as play:
        yield play


@pytest.fixture
def ask(run: Callable[..., Any], town: Any, server: EndpointServer) -> Callable[..., Any]:
    def call(*more: object) -> Any:
        named = ("--endpoint", server.url, "--model", "qwen3-vl-test")
        return run("segment", town.path, "where people live", "--engine", "geoseg", *named, *more)

    return call


def test_mask_evidence_and_cost(ask: Any, tmp_path: Path, model: Model) -> None:
    done = ask("-o", tmp_path / "m.tif", "--evidence", tmp_path / "e.png", "--picture", tmp_path / "p.png", "--json")
    assert done.code == 0, done.err
    notes = done.json["notes"]
    assert notes["cost"]["calls"] == 1 + len(notes["targets"]) * 4 == 9
    assert notes["cost"]["seconds"] > 0
    assert notes["units"] == "0..1000"
    assert done.json["files"]["evidence"] == str(tmp_path / "e.png")
    for target, box in zip(notes["grounded"], model.boxes, strict=True):
        assert target["box"] == pytest.approx(box, abs=1e-6)
    sheet = np.asarray(Image.open(tmp_path / "e.png").convert("RGB"))
    assert sheet.shape[1] > 5 * 232, "box, similarity, two routes, result"
    assert sheet.shape[0] > 2 * 232, "two targets"


@pytest.mark.parametrize(("options", "routes", "calls"), [(("--routes", "A"), "A", 4), (("--routes", "B"), "B", 2)])
def test_one_route(ask: Any, tmp_path: Path, options: tuple[str, ...], routes: str, calls: int) -> None:
    done = ask(*options, "-o", tmp_path / "m.tif", "--json")
    assert done.code == 0, done.err
    assert ["".join(target["routes"]) for target in done.json["notes"]["targets"]] == [routes] * 2
    assert done.json["notes"]["cost"]["calls"] == 1 + 2 * calls


def test_limits(ask: Any, tmp_path: Path) -> None:
    few = ask("--max-calls", 8, "-o", tmp_path / "m.tif")
    assert few.code == 1
    assert "2 targets may take 9 calls of models, 1 of them to the reasoner, where 8 are allowed" in few.said
    short = ask("--max-seconds", 0.001, "-o", tmp_path / "m.tif")
    assert short.code == 1
    assert "more than 0.001 seconds before anything was drawn" in short.said
    assert not (tmp_path / "m.tif").exists()
    assert ask("--max-calls", 9, "--max-seconds", 300, "-o", tmp_path / "m.tif").code == 0


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--routes", "BA"), "Routes: A (clicks), B (text), AB (both)."),
        (("--mode", "best"), "Modes: official, calibrated."),
        (("--calibration", "nowhere.json"), "terraprompt reasoner calibrate --data DATA -o FILE"),
        (("--mode", "official", "--set", "alpha=0.1"), "fixed constants"),
        (("--similarity", "./nowhere"), "no such folder of weights"),
    ],
)
def test_options_that_make_no_sense(ask: Any, tmp_path: Path, options: tuple[str, ...], said: str) -> None:
    done = ask(*options, "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert said in done.said


def test_without_a_reasoner_it_says_what_it_needs(run: Any, town: Any, tmp_path: Path) -> None:
    done = run("segment", town.path, "the houses", "-e", "geoseg", "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "No reasoner is configured" in done.said
    assert "--engine nano" in done.said


def test_calibrate_then_segment(
    run: Any, ask: Any, server: EndpointServer, model: Model, pack: Path, town: Any, tmp_path: Path
) -> None:
    """A shift of a quarter is measured on labelled boxes and taken back."""
    write_boxes(pack, town)
    model.shift, model.boxes = SHIFT, BOXES
    made = ("--data", pack, "--split", "train", "--model", "qwen3-vl-test", "-o", tmp_path / "c.json", "--endpoint")
    done = run("reasoner", "calibrate", *made, server.url, "--json")
    assert done.code == 0, done.err
    told = done.json["correction"]
    assert (told["units"], told["advised"]["name"], told["count"]) == ("0..1000", "fitted", 4 * len(BOXES))
    assert (told["alpha"], told["beta"]) == pytest.approx((SHIFT, -SHIFT), abs=0.011)
    assert told["iou_fitted"] > 0.97 > told["iou_fixed"] > told["iou_plain"]
    again = run("reasoner", "calibrate", *made, server.url)
    assert again.code == 1, "nothing is overwritten"
    text = run("reasoner", "calibrate", *made, server.url, "--overwrite").out
    assert "Advised: fitted, alpha 0.2" in text
    assert BoxCalibration.load(tmp_path / "c.json").alpha == told["alpha"]

    model.boxes = BOXES[:2]
    for options, near in (
        (("--calibration", tmp_path / "c.json"), True),
        (("--calibration", tmp_path / "c.json", "--no-refine"), False),
        ((), False),
    ):
        found = ask(*options, "-o", tmp_path / "m.tif", "--evidence", tmp_path / "e.png", "--overwrite", "--json")
        assert found.code in (0, 3), found.err
        sheet = np.asarray(Image.open(tmp_path / "e.png").convert("RGB"))
        drawn = {colour for colour in (ANSWERED, CORRECTED, CLICK) if (sheet == colour).all(axis=2).any()}
        assert drawn >= ({ANSWERED, CORRECTED, CLICK} if near else {CORRECTED})
        for target, box in zip(found.json["notes"]["grounded"], BOXES, strict=False):
            assert bool(np.abs(np.subtract(target["refined"]["box"], box)).max() < 1.5) is near
    other = ("--model", "another", "--calibration", tmp_path / "c.json", "--units", "pixels", "-o", tmp_path / "n.tif")
    refused = run("segment", town.path, "x", "-e", "geoseg", "--endpoint", server.url, *other)
    assert "calibration is of another reasoner" in refused.said


def test_ablations_are_a_grid_of_evaluations(
    run: Any, server: EndpointServer, model: Model, pack: Path, town: Any, tmp_path: Path
) -> None:
    truth = town.truth.mask("building")[:128, :128]
    model.size, model.boxes = truth.shape, [target.box for target in targets(truth, most=3)]
    common = (
        "--dataset",
        "pack",
        "--root",
        pack,
        "--engine",
        "geoseg",
        "--endpoint",
        server.url,
        "--task",
        "referring",
    )
    common = (*common, "--model", "qwen3-vl-test", "--cache", tmp_path / "replies", "--limit", 2, "--no-pictures")
    scores = {}
    for name, options in {"A": ("--routes", "A"), "B": ("--routes", "B"), "unrefined": ("--no-refine",)}.items():
        done = run("evaluate", *common, "-o", tmp_path / name, *options, "--json")
        assert done.code == 0, done.err
        scores[name] = done.json["scores"]["overall"]
        assert scores[name]["failed"] == 0
    assert len(server.about_scene) == 2, "what was answered is known to the other evaluations"
    compared = run("evaluate", "compare", tmp_path / "A", tmp_path / "B", "--json")
    assert compared.code == 0, compared.err


#: In pixels of the town.
BOXES = [(float(x), float(y), float(x + 18 + x % 7), float(y + 16 + y % 5)) for y in (5, 60) for x in (6, 40, 75, 120)]


def write_boxes(pack: Path, town: Any) -> None:
    """Four more images, of the train split, with boxes."""
    height, width = town.truth.rgb.shape[:2]
    first = (pack / "annotations.jsonl").read_text()
    regions = [{"category": "building", "mask": None, "value": None, "box": box} for box in BOXES]
    lines = [first.strip()]
    for name in "bcde":
        Image.fromarray(town.truth.rgb).save(pack / "src" / f"{name}.png")
        record = json.loads(first) | {
            "id": f"src/{name}", "image": f"src/{name}.png", "width": width, "height": height, "split": "train",
            "label_kind": "box", "labelled": ["building"], "regions": regions, "group": name,
        }  # fmt: skip
        lines.append(json.dumps(record))
    (pack / "annotations.jsonl").write_text("\n".join(lines) + "\n")
