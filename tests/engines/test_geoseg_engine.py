"""GeoSeg with a real HTTP server as its reasoner: targets, routes, fusion, limits, evidence, and the release's flow."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from PIL import Image

from endpoint_server import Asked, EndpointServer, Say, Status, endpoint_server
from geoseg_parts import BrightMap, BrightSegmenter, MapOf, item, listed, official, scene_of
from terraprompt.engines import registry
from terraprompt.engines.base import Engine, Proposer, TileSpec
from terraprompt.engines.geoseg import GeoSegEngine, geoseg
from terraprompt.engines.routes import RouteRules, Routes
from terraprompt.errors import BudgetError, ConfigError, EngineError, LimitError, ReasonerError
from terraprompt.flow.session import segment
from terraprompt.outputs import Status as Ended
from terraprompt.prompt import Prompt
from terraprompt.vlm.ask import AskLimits
from terraprompt.vlm.base import Reply
from terraprompt.vlm.bias import BiasFit
from terraprompt.vlm.box_calibration import BoxCalibration
from terraprompt.vlm.box_refinement import Correction
from terraprompt.vlm.budget import Budget
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect
from terraprompt.vlm.probe import PROBE_TEXT
from terraprompt.vlm.wording import OFFICIAL_TEMPLATE, PHRASE_TEMPLATE

ROOFS = ((20, 30, 50, 60), (100, 20, 140, 50))
AS_IT_IS = View("fit", side=4096)
NOWHERE = "http://localhost:1/v1"
PIXELS = Convention(Units.PIXELS, AS_IT_IS)
#: Windows of the scene's own pixels, so that masks can be compared to the pixel.
TILE = TileSpec(size=96, overlap=0, multiple=1, batch=2, shared=True)
CASES: dict[str, list[dict[str, Any]]] = json.loads(
    (Path(__file__).parents[1] / "golden" / "geoseg" / "cases.json").read_text()
)


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "REASONER_MODEL", "REASONER_KEY", "REASONER_LOCAL"):
        monkeypatch.delenv(f"TERRAPROMPT_{name}", raising=False)


@pytest.fixture
def server() -> Iterator[EndpointServer]:
    with endpoint_server() as play:
        yield play


@pytest.fixture
def roofs(tmp_path: Path) -> Path:
    Image.fromarray(scene_of(80, 160, *ROOFS)).save(tmp_path / "roofs.png")
    return tmp_path / "roofs.png"


Make = Callable[..., GeoSegEngine]


@pytest.fixture
def make(server: EndpointServer) -> Make:
    def build(
        *script: Any,
        convention: Convention = PIXELS,
        segmenter: Any = None,
        reading: Any = None,
        similarity: Any = None,
        budget: Budget | None = None,
        rules: RouteRules | None = None,
        **options: Any,
    ) -> GeoSegEngine:
        if script:
            server.play(*(Say(part) if isinstance(part, str) else part for part in script))
        rules = rules or RouteRules()
        link = {"retries": 1, "backoff": 0.001}
        asker = connect(
            server.url, "m", convention=convention, server=link, structured="off", budget=budget,
            template=OFFICIAL_TEMPLATE if rules.mode == "official" else PHRASE_TEMPLATE,
        )  # fmt: skip
        drawing = segmenter or BrightSegmenter()
        routes = Routes(drawing, reading or drawing, similarity or BrightMap(), rules)
        return GeoSegEngine(asker, routes, **{"tile": TILE, **options})

    return build


def bounds(result: Any) -> list[tuple[int, int, int, int]]:
    return sorted(o.bbox for o in result.objects)


# Targets


def test_it_is_an_engine_that_points(make: Make) -> None:
    engine = make()
    assert isinstance(engine, Engine)
    assert isinstance(engine, Proposer)
    assert engine.overview((5000, 300)) == (4096, 246)


def test_two_targets_drawn_at_native_resolution_with_all_the_evidence(
    make: Make, server: EndpointServer, roofs: Path
) -> None:
    said = "<think>Both are bright.</think>" + listed(item((18, 28, 52, 62)), item((98, 18, 142, 52)))
    engine = make(said)
    with segment(roofs, "where does rain run off?", engine=engine) as result:
        assert result.status is Ended.FOUND
        assert bounds(result) == sorted(ROOFS)
        notes = dict(result.notes)
    assert json.loads(json.dumps(notes, allow_nan=False)) == notes
    assert notes["think"] == "Both are bright."
    assert [part["phrase"] for part in notes["targets"]] == ["bright roof"] * 2
    first, second = notes["targets"]
    assert (first["boxes"], second["boxes"]) == ([[18, 28, 52, 62]], [[98, 18, 142, 52]])
    assert first["fusion"]["rule"] == "intersection"
    assert first["fusion"]["agreement"] == 1
    assert {name: route["pixels"] for name, route in second["routes"].items()} == {"A": 1200, "B": 1200}
    assert all(98 <= x <= 142 and 18 <= y <= 52 for x, y, _ in second["points"]), "in pixels of the scene"
    assert len(notes["points"]) == len(first["points"]) + len(second["points"]) > 0
    assert notes["grounded"][0]["box"] == [18, 28, 52, 62]
    # a question, two windows, and for each target its map, its clicks, its crop and its text
    assert notes["cost"]["calls"] == 1 + 2 + 2 * 4
    assert notes["cost"]["seconds"] > 0
    assert "where does rain run off?" in server.asked[0].words
    assert "pixels of this image, which is 160 wide and 80 high" in server.asked[0].words
    assert len(json.dumps(notes)) < 20_000


def test_evidence_is_moved_from_the_overview_to_the_scene(make: Make, roofs: Path) -> None:
    half = Convention(Units.PIXELS, View("fit", side=80))
    with segment(roofs, "x", engine=make(listed(item((9, 14, 26, 31))), convention=half)) as result:
        assert bounds(result) == [ROOFS[0]]
        assert result.notes["grounded"][0]["box"] == [18, 28, 52, 62]
        assert result.notes["grounded"][0]["answered"] == [9, 14, 26, 31], "the reasoner's own numbers stay"
        assert result.notes["targets"][0]["crop"] == [18, 28, 52, 62]


def test_no_target_is_told_and_official_cannot_be_told(make: Make, roofs: Path) -> None:
    with segment(roofs, "the lake", engine=make("<think>Only roofs.</think>[]")) as result:
        assert result.status is Ended.NO_TARGET
        assert result.reason == "The reasoner sees no target: Only roofs."
    with segment(roofs, "the lake", engine=make("[]", rules=RouteRules("official"))) as result:
        assert result.status is Ended.FAILED
        assert "3 tries" in str(result.reason)


def test_a_text_route_that_sees_nothing_means_no_target(make: Make, roofs: Path) -> None:
    said = listed(item((18, 28, 52, 62)), item((98, 18, 142, 52)))
    doubting = BrightSegmenter(presence=0.1)
    with segment(roofs, "x", engine=make(said, segmenter=doubting)) as result:
        assert result.status is Ended.NO_TARGET
        assert result.reason == "2 targets proposed, nothing drawn above the threshold."
        assert [part["presence"] for part in result.notes["targets"]] == [0.1, 0.1]
    trusting = make(said, segmenter=doubting, rules=RouteRules(presence=False))
    with segment(roofs, "x", engine=trusting) as result:
        assert bounds(result) == sorted(ROOFS)
    released = make(official((18, 28, 52, 62)), segmenter=doubting, rules=RouteRules("official"))
    with segment(roofs, "x", engine=released) as result:
        assert bounds(result) == [ROOFS[0]]


def nothing(image: np.ndarray, prompt: Prompt) -> np.ndarray:
    return np.zeros(image.shape[:2], bool)


def test_an_empty_route_leaves_the_other(make: Make, roofs: Path) -> None:
    said = listed(item((18, 28, 52, 62)))
    with segment(roofs, "x", engine=make(said, segmenter=BrightSegmenter(text=nothing))) as result:
        assert (bounds(result), result.notes["targets"][0]["fusion"]["rule"]) == ([ROOFS[0]], "points")
    flat = MapOf(lambda image: np.ones(image.shape[:2]))
    drawing = BrightSegmenter()
    with segment(roofs, "x", engine=make(said, segmenter=drawing, similarity=flat)) as result:
        assert (bounds(result), result.notes["targets"][0]["fusion"]["rule"]) == ([ROOFS[0]], "text")
        assert result.notes["targets"][0]["points"] == []
    assert all(prompt.text is not None for _, prompt in drawing.asked), "no click, no question"
    empty = make(said, segmenter=BrightSegmenter(text=nothing, points=nothing))
    with segment(roofs, "x", engine=empty) as result:
        assert result.status is Ended.NO_TARGET
        assert result.notes["targets"][0]["fusion"]["rule"] == "empty"


def left(image: np.ndarray, prompt: Prompt) -> np.ndarray:
    return np.arange(image.shape[1])[None] < np.full((image.shape[0], 1), 35)


def right(image: np.ndarray, prompt: Prompt) -> np.ndarray:
    return ~left(image, prompt)


@pytest.mark.parametrize(
    ("rules", "scores", "rule", "found"),
    [
        (RouteRules("official"), (0.9, 0.8), "intersection", None),
        (RouteRules(context=9), (0.9, 0.8), "points_scored_higher", (18, 35)),
        (RouteRules(context=9), (0.7, 0.8), "text_scored_higher", (35, 52)),
        (RouteRules(context=9, fusion="official"), (0.8, 0.9), "intersection", None),
    ],
)
def test_disjoint_routes(
    make: Make, roofs: Path, rules: RouteRules, scores: tuple[float, float], rule: str, found: tuple[int, int] | None
) -> None:
    drawing = BrightSegmenter(points=left, text=right, points_score=scores[0], text_score=scores[1])
    if rules.mode == "official":  # its text route sees the crop alone
        drawing.text = lambda image, prompt: np.arange(image.shape[1])[None] >= np.full((image.shape[0], 1), 35 - 18)
    said = official((18, 28, 52, 62)) if rules.mode == "official" else listed(item((18, 28, 52, 62)))
    options = {"correction": Correction("official")} if rules.mode == "official" else {}
    tile = replace(TILE, size=160)
    with segment(roofs, "x", engine=make(said, segmenter=drawing, rules=rules, tile=tile, **options)) as result:
        assert result.notes["targets"][0]["fusion"]["rule"] == rule
        assert [(o.bbox[0], o.bbox[2]) for o in result.objects] == ([] if found is None else [found])


def test_a_box_outside_the_image(make: Make, server: EndpointServer, roofs: Path) -> None:
    outside = item((-40, -40, -10, -10))
    with segment(roofs, "x", engine=make(listed(outside, item((18, 28, 52, 62))))) as result:
        assert bounds(result) == [ROOFS[0]]
        assert result.notes["mended"] == ["A box outside the image was dropped."]
    with segment(roofs, "x", engine=make(listed(item((-90, 10, -10, 60))))) as result:
        assert result.status is Ended.FAILED
        assert "None of the answered boxes lies in the image" in str(result.reason)
    assert len(server.asked) == 3
    assert "None of the answered boxes" in server.asked[1].body["messages"][2]["content"], "the reasoner is told"
    # shifted out by a known bias, the box comes back
    with segment(roofs, "x", engine=make(listed(item((140, 60, 174, 94))), correction=BACK)) as result:
        assert result.notes["grounded"][0]["refined"]["box"] == [72, 0, 106, 26]
    assert len(server.asked) == 1
    line = make(official((300, 10, 390, 60)), rules=RouteRules("official"))
    with segment(roofs, "x", engine=line) as result:
        assert result.notes["grounded"][0]["box"] == [159, 10, 160, 60], "the release's line at the border"


#: Of boxes that are answered two sides too far right and down.
BACK = Correction("calibrated", 2.0, -2.0)


@pytest.mark.parametrize("side", [1, 2])
def test_an_object_of_two_pixels(make: Make, tmp_path: Path, side: int) -> None:
    box = (30, 40, 30 + side, 42)
    Image.fromarray(scene_of(64, 64, box)).save(tmp_path / "small.png")
    # the flow drops what has fewer than 4 pixels unless it is told not to
    with segment(tmp_path / "small.png", "x", engine=make(listed(item(box))), min_pixels=1) as result:
        assert bounds(result) == [box]
        assert result.notes["targets"][0]["fusion"]["rule"] == "intersection", "both routes see it"
        assert result.notes["targets"][0]["crop"][2] - result.notes["targets"][0]["crop"][0] == 16
        assert all(box[0] <= x < box[2] and box[1] <= y < box[3] for x, y, _ in result.notes["points"])


def test_an_image_of_one_column(make: Make, tmp_path: Path) -> None:
    Image.fromarray(scene_of(40, 1, (0, 10, 1, 20))).save(tmp_path / "thin.png")
    enlarging = TileSpec(size=64, overlap=0, multiple=1, focus=64)
    for said, options in (
        (listed(item((0, 8, 1, 24))), {}),
        (official((0, 8, 1, 24)), {"rules": RouteRules("official")}),
        (listed(item((0, 8, 1, 24))), {"tile": enlarging}),
    ):
        with segment(tmp_path / "thin.png", "x", engine=make(said, **options)) as result:
            assert result.status is Ended.FOUND
            assert bounds(result) == [(0, 10, 1, 20)]


# Grounding


def test_an_answer_is_asked_for_again(make: Make, server: EndpointServer) -> None:
    image = scene_of(80, 160, *ROOFS)
    good = listed(item((18, 28, 52, 62)))
    got = make("I see two roofs.", Say(good, finish="length"), good).propose(image, "x")
    assert got.status == "found"
    assert got.prompts == (Prompt("bright roof", boxes=((18, 28, 52, 62),)),)
    assert got.notes["verdicts"] == ["unreadable", "cut off", "found"]
    assert (got.notes["calls"], got.notes["tokens_in"]) == (3, 300)
    assert "No target in the answer" in server.asked[1].body["messages"][2]["content"]


@pytest.mark.parametrize(
    ("script", "said", "asked"),
    [
        (("no",), "3 tries.*unreadable", 3),
        ((Say(message={"content": None, "refusal": "I will not."}),), "refused.*I will not", 1),
        ((Status(500, "oops"),), "2 attempts.*oops", 2),
        ((listed(item((1, 1, 1, 9))),), "without area", 3),
        ((listed(item((1, 1, 5, 9), "\x00 \x1b")),), "without area or phrase", 3),
        ((listed(*[item((300 + i, 200, 900, 900)) for i in range(3)]),), "look like 0..1000", 3),
    ],
)
def test_what_cannot_be_used_fails_with_a_reason(
    make: Make, server: EndpointServer, script: tuple[Any, ...], said: str, asked: int
) -> None:
    got = make(*script).propose(scene_of(80, 160), "x")
    assert got.status == "failed"
    assert re.search(said, got.reason, re.DOTALL)
    assert len(server.asked) == asked


def test_phrases_are_a_strangers_words(make: Make) -> None:
    got = make(listed(item((1, 2, 30, 40), "grey\x1b[31m\n roof " + "x" * 5000))).propose(scene_of(80, 160), "x")
    phrase = str(got.prompts[0].text)
    assert phrase.startswith("grey [31m roof xxx")
    assert len(phrase) == 120


def test_doubles_go_unless_they_are_called_otherwise(make: Make) -> None:
    many = [item((10, 10, 40, 40)), item((11, 10, 40, 40)), item((10, 10, 40, 40), "solar panel")]
    got = make(listed(*many)).propose(scene_of(80, 160), "x")
    assert [p.text for p in got.prompts] == ["bright roof", "solar panel"]
    assert "1 targets overlapped" in got.notes["mended"][-1]
    crowd = make(listed(*[item((i, 10, i + 1, 12)) for i in range(100)]), limits=AskLimits(limit=7)).propose(
        scene_of(80, 160), "x"
    )
    assert len(crowd.prompts) == 7
    assert "the first 7 are kept" in crowd.notes["mended"][0]


def test_units_are_asked_for_with_a_picture_whose_answer_is_known(make: Make, server: EndpointServer) -> None:
    def model(asked: Asked) -> Say:
        if PROBE_TEXT in asked.words:
            ys, xs = np.nonzero(asked.image[..., 0] > 200)
            height, width = asked.image.shape[:2]
            box = [xs.min() / width, ys.min() / height, (xs.max() + 1) / width, (ys.max() + 1) / height]
            return Say(listed(item([round(1000 * v) for v in box])))
        return Say(listed(item((125, 375, 325, 750))))

    engine = make(convention=Convention(Units.AUTO, AS_IT_IS))
    server.script = model
    first, second = (engine.propose(scene_of(80, 160), text) for text in "ab")
    assert first.prompts == second.prompts == (Prompt("bright roof", boxes=((20, 30, 52, 60),)),)
    assert "probe" in first.notes["units_from"]
    assert len(server.asked) == 4, "the probe, two pictures, is asked once"


# Refinement


def calibration(**parts: Any) -> BoxCalibration:
    fit = BiasFit(0.25, -0.25, 20, 0.4, 0.5, 0.9, 0.9)
    made = BoxCalibration(
        "m", "endpoint", AS_IT_IS, Convention(Units.THOUSAND, AS_IT_IS), 0.25, -0.25, "fitted", fit, 9
    )
    return replace(made, **parts)


def test_a_calibration_gives_units_and_correction(make: Make) -> None:
    """The true box (20, 30, 50, 60), shifted by a quarter of its sides and told in thousandths."""
    shifted = [round(v) for v in (27.5 / 0.16, 37.5 / 0.08, 57.5 / 0.16, 67.5 / 0.08)]
    got = make(listed(item(shifted)), calibration=calibration()).propose(scene_of(80, 160), "x")
    assert got.prompts[0].boxes[0] == pytest.approx((20, 30, 50, 60), abs=0.2)
    assert got.notes["units"] == "0..1000"
    assert got.notes["correction"] == {"mode": "calibrated", "alpha": 0.25, "beta": -0.25}
    plain = make(listed(item(shifted)), calibration=calibration(), correction=Correction())
    assert plain.propose(scene_of(80, 160), "x").prompts[0].boxes[0] == pytest.approx((27.5, 37.5, 57.5, 67.5), abs=0.2)


def test_a_measured_convention_is_believed(make: Make, server: EndpointServer) -> None:
    """What looks like pixels beyond the image is what the measured bias explains."""
    own = calibration(convention=PIXELS, alpha=1.0, beta=-1.0)
    got = make(listed(item((150, 60, 190, 90))), calibration=own).propose(scene_of(80, 160), "x")
    assert got.prompts[0].boxes == ((110, 30, 150, 60),)
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("parts", "said"),
    [
        ({"model": "other"}, "of another reasoner.*endpoint other.*endpoint m"),
        ({"kind": "local"}, "of another reasoner"),
        ({"shown": View("square", side=840)}, "another size"),
    ],
)
def test_the_calibration_of_another_is_refused(make: Make, parts: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        make(calibration=calibration(**parts))


def test_official_takes_none(make: Make) -> None:
    with pytest.raises(ConfigError, match="takes no calibration"):
        make(calibration=calibration(), rules=RouteRules("official"))
    with pytest.raises(ConfigError, match="another mode"):
        make(correction=Correction(), rules=RouteRules("official"))


# The release


@pytest.mark.parametrize("case", CASES["boxes"], ids=lambda case: case["response"][:30])
def test_official_sends_the_boxes_and_crops_that_the_release_sent(make: Make, case: dict[str, Any]) -> None:
    width, height = case["image_wh"]
    drawing, source = BrightSegmenter(), BrightMap()
    engine = make(
        case["response"], segmenter=drawing, similarity=source, rules=RouteRules("official"), limits=AskLimits(tries=1)
    )
    image = np.random.default_rng(0).integers(0, 255, (height, width, 3), np.uint8)
    [embedding] = engine.encode([image])
    if case["bbox"] is None:
        with pytest.raises(ReasonerError, match="No usable answer in 1 tries"):
            engine.predict([embedding], [Prompt("the roof")])
        return
    [answer] = engine.predict([embedding], [Prompt("the roof")])
    x0, y0, x1, y1 = case["crop_used"]
    assert source.seen == [((y1 - y0, x1 - x0), case["prompt"])]
    assert drawing.embedded == [(height, width), (y1 - y0, x1 - x0)]
    (by_text, text), *clicked = drawing.asked
    assert (by_text, text) == ((y1 - y0, x1 - x0), Prompt(case["prompt"]))
    assert {size for size, _ in clicked} == {(height, width)}
    assert {(len(prompt.points), prompt.boxes) for _, prompt in clicked} == {(1, ())}, "a point a prompt, no box"
    assert answer.notes["grounded"][0]["refined"]["box"] == case["expanded_bbox"]
    assert answer.notes["grounded"][0]["box"] == case["bbox"]
    assert answer.presence is None
    bare = make(case["response"], segmenter=drawing, correction=Correction("official"), rules=RouteRules("official"))
    assert bare.propose(image, "x").notes["grounded"][0]["refined"]["box"] == case["bbox"], "as without refinement"


SIX = (
    "Qwen/Qwen3-VL-32B-Instruct", "Qwen/Qwen2.5-VL-7B-Instruct", "OpenGVLab/InternVL3-8B", "llava-hf/llava-1.5-7b-hf",
    "zai-org/GLM-4.5V", "somebody/unheard-of-9b",
)  # fmt: skip


@pytest.mark.parametrize("model", SIX)
@pytest.mark.parametrize(("size", "box"), [((600, 800), (420, 300, 520, 360)), ((1500, 900), (40, 1200, 240, 1206))])
def test_official_is_asked_and_read_in_pixels_whatever_the_family(
    server: EndpointServer, model: str, size: tuple[int, int], box: tuple[int, int, int, int]
) -> None:
    """A server that answers in pixels of the picture that it is told of: box, crop and points are where the release
    puts them, for families whose own habit is thousandths, fractions or a square."""
    height, width = size

    server.play(Say(official(box)))
    engine = geoseg(endpoint=server.url, model=model, mode="official", segmenter="nano", server={"retries": 0})
    drawing, source = BrightSegmenter(), BrightMap()
    engine.routes = Routes(drawing, drawing, source, RouteRules("official"))
    engine.segmenter = drawing
    image = scene_of(height, width, box)
    [embedding] = engine.encode([image])
    [answer] = engine.predict([embedding], [Prompt("the roof")])
    asked = server.asked[-1]
    told = re.search(r"(\d+) pixels wide and (\d+) pixels high", asked.words)
    assert told is not None
    assert (int(told[2]), int(told[1])) == asked.image.shape[:2] == size, "the picture as it is, and its size"
    assert "thousandths" not in asked.words
    assert "fractions" not in asked.words
    x1, y1, x2, y2 = box
    w, h = x2 - x1, y2 - y1
    expanded = [x1 - int(0.2 * w), y1 - int(0.2 * h), x2 + int(0.1 * w), y2 + int(0.1 * h)]
    grounded = answer.notes["grounded"][0]
    assert grounded["box"] == list(box)
    assert grounded["refined"]["box"] == expanded
    crop = list(expanded)
    if min(expanded[2] - expanded[0], expanded[3] - expanded[1]) < 16:  # a thin box: both sides
        cx, cy = (expanded[0] + expanded[2]) // 2, (expanded[1] + expanded[3]) // 2
        crop = [cx - 8, cy - 8, cx + 8, cy + 8]
    assert answer.notes["targets"][0]["crop"] == crop
    assert source.seen == [((crop[3] - crop[1], crop[2] - crop[0]), "bright roof")]
    clicked = [prompt for _, prompt in drawing.asked if prompt.points]
    assert clicked
    assert all(len(prompt.points) == 1 and not prompt.boxes for prompt in clicked)
    for prompt in clicked:
        [(x, y)] = prompt.points
        assert x1 <= x < x2
        assert y1 <= y < y2
        assert crop[0] <= x < crop[2]


def test_masks_of_single_points_are_joined(make: Make) -> None:
    """OR: two bright spots in one box, each under points of its own."""
    image = scene_of(80, 160, (20, 20, 40, 60), (60, 20, 80, 60))
    engine = make(official((16, 16, 84, 64)), rules=RouteRules("official", "A"))
    [embedding] = engine.encode([image])
    [answer] = engine.predict([embedding], [Prompt("roofs")])
    assert (answer.logits > 0)[30, 30]
    assert (answer.logits > 0)[30, 70]
    assert not (answer.logits > 0)[30, 50]


def test_the_papers_setup_by_one_word(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[Any] = []

    def segmenter(name: Any, *_: Any, **__: Any) -> BrightSegmenter:
        loaded.append(name)
        return BrightSegmenter()

    def surgery(source: str, **options: Any) -> Any:
        loaded.append((source, len(options["templates"])))
        return SimpleNamespace(layers=6, templates=options["templates"])

    monkeypatch.setattr("terraprompt.engines.geoseg.load_mask_segmenter", segmenter)
    monkeypatch.setattr("terraprompt.engines.geoseg.ClipSurgery", SimpleNamespace(load=surgery))
    engine = geoseg(setup="paper", endpoint=NOWHERE)
    assert loaded == ["sam3", ("openai/clip-vit-base-patch16", 85)]
    assert engine.reasoner.info.model == "Qwen/Qwen3-VL-32B-Instruct"
    assert engine.routes.rules.mode == engine.correction.mode == "official"
    assert geoseg(setup="paper", endpoint=NOWHERE, model="mine").reasoner.info.model == "mine"
    for options, said in (
        ({"setup": "mine"}, "Unknown set-up"),
        ({"mode": "official", "units": "0..1"}, "asks for pixels"),
    ):
        with pytest.raises(ConfigError, match=said):
            geoseg(endpoint=NOWHERE, model="m", **options)


@pytest.mark.parametrize("case", [c for c in CASES["points"] if c["t"] == 0.8], ids=lambda case: case["name"])
def test_official_clicks_where_the_release_clicked(make: Make, case: dict[str, Any]) -> None:
    height, width = case["image_hw"]
    side = round(len(case["similarity"]) ** 0.5)
    known = MapOf(lambda image: np.array(case["similarity"], np.float32).reshape(side, side))
    drawing = BrightSegmenter()
    engine = make(
        official((0, 0, width, height)), segmenter=drawing, similarity=known, rules=RouteRules("official", "A")
    )
    [embedding] = engine.encode([np.zeros((height, width, 3), np.uint8)])
    engine.predict([embedding], [Prompt("x")])
    inside = [point for point, label in zip(case["points"], case["labels"], strict=True) if label == 1]
    assert [[list(point) for point in prompt.points] for _, prompt in drawing.asked] == [[point] for point in inside]


@pytest.mark.parametrize("case", CASES["fusion"], ids=lambda case: case["name"])
def test_official_fuses_as_the_release_fused(make: Make, case: dict[str, Any]) -> None:
    height, width = case["image_hw"]
    masks = [None if case[k] is None else np.array(case[k], bool) for k in ("mask_points", "mask_text")]
    if any(mask is not None and mask.shape != (height, width) for mask in masks):
        pytest.skip("our segmenters answer at the image's size")
    by_points, by_text = (np.zeros((height, width), bool) if mask is None else mask for mask in masks)
    drawing = BrightSegmenter(points=lambda image, prompt: by_points, text=lambda image, prompt: by_text)
    ramp = MapOf(lambda image: np.arange(height * width).reshape(height, width))
    engine = make(official((0, 0, width, height)), segmenter=drawing, similarity=ramp, rules=RouteRules("official"))
    [embedding] = engine.encode([np.zeros((height, width, 3), np.uint8)])
    [answer] = engine.predict([embedding], [Prompt("x")])
    wanted = np.zeros((height, width), bool) if case["fused"] is None else np.array(case["fused"], bool)
    np.testing.assert_array_equal(answer.logits > 0, wanted)


# Routes


@pytest.mark.parametrize(("routes", "calls"), [("A", 3), ("B", 2), ("AB", 5)])
def test_routes_alone(make: Make, roofs: Path, routes: Any, calls: int) -> None:
    drawing = BrightSegmenter()
    engine = make(listed(item((18, 28, 52, 62))), segmenter=drawing, rules=RouteRules(routes=routes))
    assert engine.routes.most_calls == calls
    with segment(roofs, "x", engine=engine) as result:
        assert bounds(result) == [ROOFS[0]]
        target = result.notes["targets"][0]
    assert "".join(target["routes"]) == routes
    assert ("similarity" in target) is ("A" in routes)
    assert target["calls"] == calls
    kinds = {"B" if prompt.text else "A" for _, prompt in drawing.asked}
    assert kinds == set(routes)


def test_the_text_route_sees_surroundings_and_draws_in_the_box(make: Make, roofs: Path) -> None:
    said = listed(item((18, 28, 38, 62)))
    drawing = BrightSegmenter()
    with segment(roofs, "x", engine=make(said, segmenter=drawing, rules=RouteRules(routes="B"))) as result:
        assert bounds(result) == [(20, 30, 38, 60)]
        assert result.notes["targets"][0]["routes"]["B"]["crop"] == [8, 11, 48, 79]
    bare = RouteRules(routes="B", context=0)
    with segment(roofs, "x", engine=make(said, segmenter=BrightSegmenter(), rules=bare)) as result:
        assert result.notes["targets"][0]["routes"]["B"]["crop"] == [18, 28, 38, 62]


def test_a_text_with_a_box_needs_no_reasoner(make: Make, server: EndpointServer) -> None:
    engine = make(Status(500, "down"))
    image = scene_of(80, 96, ROOFS[0])
    [embedding] = engine.encode([image])
    prompts = [
        Prompt("the roof", boxes=((18, 28, 52, 62),)),
        Prompt(boxes=((18, 28, 52, 62),), points=((30, 40),)),
        Prompt("the roof", points=((30, 40),)),
    ]
    both, box, point = engine.predict([embedding] * 3, prompts)
    assert server.asked == []
    assert both.notes["fusion"]["rule"] == "intersection"
    assert "fusion" not in box.notes
    for answer in (both, box, point):
        np.testing.assert_array_equal(answer.logits > 0, image[..., 0] > 120)
    with pytest.raises(EngineError, match="one target a prompt"):
        engine.predict([embedding], [Prompt("x", boxes=((1, 1, 5, 5), (7, 7, 9, 9)))])
    with pytest.raises(EngineError, match="needs an embedding"):
        engine.predict([embedding], [])


def test_a_text_on_one_image_is_the_union_of_its_targets(make: Make) -> None:
    image = scene_of(80, 160, *ROOFS)
    engine = make(listed(item((18, 28, 52, 62)), item((98, 18, 142, 52))))
    [embedding] = engine.encode([image])
    [answer] = engine.predict([embedding], [Prompt("the roofs")])
    np.testing.assert_array_equal(answer.logits > 0, image[..., 0] > 120)
    assert len(answer.notes["targets"]) == 2
    assert answer.notes["calls"] == 1 + 1 + 2 * 4
    [none] = make("[]").predict([embedding], [Prompt("the lakes")])
    assert none.presence == 0
    assert (none.logits < 0).all()


@pytest.mark.parametrize(
    ("drawing", "reading", "source", "routes", "said"),
    [
        (BrightSegmenter(reads=("points",)), BrightSegmenter(), BrightMap(), "A", "Route A needs"),
        (BrightSegmenter(), BrightSegmenter(), None, "AB", "Route A needs"),
        (BrightSegmenter(), BrightSegmenter(reads=("points", "boxes")), BrightMap(), "B", "Route B needs"),
        (BrightSegmenter(), None, BrightMap(), "AB", "Route B needs"),
    ],
)
def test_a_route_needs_its_parts(drawing: Any, reading: Any, source: Any, routes: Any, said: str) -> None:
    with pytest.raises(EngineError, match=said):
        Routes(drawing, reading, source, RouteRules(routes=routes))


@pytest.mark.parametrize(
    "options",
    [{"mode": "other"}, {"routes": "BA"}, {"similar": 2}, {"most": 0}, {"context": -1}, {"disagreement": 2},
     {"mode": "official", "most": 3}, {"fusion": "or"}],
)  # fmt: skip
def test_rules_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RouteRules(**options)


# Limits


def test_too_many_calls_fail_before_anything_is_drawn(make: Make, roofs: Path) -> None:
    drawing = BrightSegmenter()
    said = listed(item((18, 28, 52, 62)), item((98, 18, 142, 52)))
    with segment(roofs, "x", engine=make(said, segmenter=drawing, max_calls=10)) as result:
        assert result.status is Ended.FAILED
        assert "2 targets may take 11 calls of models, 1 of them to the reasoner, where 10" in str(result.reason)
        assert result.notes["calls"] == 1
    assert drawing.asked == []
    with segment(roofs, "x", engine=make(said, max_calls=11)) as result:
        assert result.notes["cost"]["calls"] == 11


def test_questions_are_calls_too(make: Make, server: EndpointServer) -> None:
    got = make("hm", max_calls=2).propose(scene_of(80, 160), "x")
    assert got.status == "failed"
    assert len(server.asked) == 2


class Clock:
    """``time.monotonic`` that stands still until something takes time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr("time.monotonic", lambda: self.now)

    def advance(self, seconds: float) -> None:
        self.now += seconds

    def slow_down(self, engine: GeoSegEngine, seconds: float) -> GeoSegEngine:
        """The engine, whose reasoner takes so many seconds for a reply."""
        reason = engine.reasoner.reason

        def slow(*args: Any, **options: Any) -> Reply:
            reply = reason(*args, **options)
            self.advance(seconds)
            return reply

        engine.reasoner.reason = slow  # type: ignore[method-assign]
        return engine


def test_a_query_that_takes_too_long_fails(
    make: Make, server: EndpointServer, roofs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock(monkeypatch)
    said = listed(item((18, 28, 52, 62)), item((98, 18, 142, 52)))
    late = clock.slow_down(make(said, max_seconds=0.2), 0.3).propose(scene_of(80, 160), "x")
    assert (late.status, late.reason) == ("failed", "The query took more than 0.2 seconds before anything was drawn.")
    unclear = clock.slow_down(make("hm", max_seconds=0.2), 0.3).propose(scene_of(80, 160), "x")
    assert "before an answer could be used" in unclear.reason
    assert len(server.asked) == 1
    slow = BrightSegmenter(before=lambda: clock.advance(0.6))
    engine = make(said, segmenter=slow, max_seconds=1.0, tile=replace(TILE, batch=1))
    with segment(roofs, "x", engine=engine) as result:
        assert result.status is Ended.FAILED
        assert "1 of 2 targets drawn" in str(result.reason)
        assert result.notes["grounded"], "what is known is kept"
    [embedding] = engine.encode([scene_of(80, 160, *ROOFS)])
    with pytest.raises(LimitError, match="1 of 2 targets drawn"):
        engine.predict([embedding], [Prompt("x")])


def test_a_spent_budget_is_no_failed_query(make: Make, roofs: Path) -> None:
    engine = make("x", budget=Budget(tokens=100))
    with pytest.raises(BudgetError):
        segment(roofs, "x", engine=engine)


@pytest.mark.parametrize("options", [{"max_calls": 0}, {"max_seconds": 0}])
def test_limits_are_positive(make: Make, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="limit on calls or seconds"):
        make(**options)


# From names, with nano for both routes


def test_nano_draws_both_routes(server: EndpointServer, tmp_path: Path) -> None:
    image = scene_of(96, 128, (40, 30, 70, 60))
    Image.fromarray(image).save(tmp_path / "one.png")
    thin = tmp_path / "thin.png"
    Image.fromarray(image[:, 50:51]).save(thin)
    server.play(Say(listed(item((300, 300, 560, 640), "building"))))
    engine = geoseg(endpoint=server.url, model="qwen3-vl")
    assert engine.routes.shares, "the text branch is asked once for both routes"
    with segment(tmp_path / "one.png", "the building", engine=engine) as result:
        assert result.status in (Ended.FOUND, Ended.NO_TARGET)
        target = result.notes["targets"][0]
        assert target["calls"] == engine.routes.most_calls == 4
        assert set(target["routes"]) == {"A", "B"}
        assert target["routes"]["B"]["presence"] is not None
        again = result.mask().copy()
    with segment(tmp_path / "one.png", "the building", engine=engine) as result:
        np.testing.assert_array_equal(result.mask(), again)
    with segment(thin, "the building", engine=engine) as result:
        assert result.status in (Ended.FOUND, Ended.NO_TARGET)
        assert result.mask().shape == (96, 1)
    said = json.dumps(engine.info.settings)
    assert '"kind": "text_branch"' in said
    assert '"units": "0..1000"' in said


@pytest.mark.parametrize(
    ("options", "kind", "match"),
    [
        ({}, ConfigError, "No reasoner is configured"),
        ({"mode": "best"}, ConfigError, "Unknown mode"),
        ({"mode": "official", "alpha": 0.1}, ConfigError, "fixed constants"),
        ({"refine": False, "beta": 0.1}, ConfigError, "no constants"),
        ({"calibration": "nowhere.json"}, ConfigError, "calibration cannot be read"),
        ({"endpoint": "http://localhost:1/v1", "model": "m", "segmenter": "geoseg"}, ConfigError, "cannot draw"),
        (
            {"endpoint": "http://localhost:1/v1", "model": "m", "text_segmenter": "think2seg"},
            ConfigError,
            "cannot draw",
        ),
        ({"tokens": 5, "budget": Budget(tokens=5)}, ConfigError, "twice"),
    ],
)
def test_bad_settings(options: dict[str, Any], kind: type[Exception], match: str) -> None:
    with pytest.raises(kind, match=match):
        geoseg(**options)


def test_by_name_from_the_registry(server: EndpointServer, declare: Callable[..., None]) -> None:
    declare(registry.GROUP, geoseg="terraprompt.engines.geoseg:geoseg")
    loaded = registry.load_engine("geoseg", endpoint=server.url, model="m", routes="B", refine=False)
    assert isinstance(loaded, GeoSegEngine)
    assert loaded.correction == Correction()
    with pytest.raises(EngineError, match="does not take these options"):
        registry.load_engine("geoseg", colour="blue")
