"""A square at known pixels comes back at exactly these pixels, and a point's label and the presence count."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from endpoint_server import Say, endpoint_server
from flow_engines import PointedEngine
from geoseg_parts import BrightMap, BrightSegmenter, item, listed
from released import released_state, tiny_model, write_released, write_tokenizer
from terraprompt.engines.causal import unigeoseg
from terraprompt.engines.convert import convert
from terraprompt.engines.geoseg import GeoSegEngine
from terraprompt.engines.routes import RouteRules, Routes
from terraprompt.engines.think2seg import Think2SegEngine
from terraprompt.engines.unigeoseg import UniGeoSegEngine, nano
from terraprompt.flow.session import Session
from terraprompt.flow.settings import SegmentSettings
from terraprompt.models.unigeoseg import preset
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect
from terraprompt.vlm.wording import PHRASE_TEMPLATE

#: x0, y0, x1, y1 in an image of 128 x 128.
SQUARE = (48, 32, 80, 64)


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Any]:
    root = tmp_path_factory.mktemp("weights")

    def load(name: str) -> Any:
        if name == "toy":
            return PointedEngine()
        if name == "nano":
            return nano()
        write_released(root / "src", released_state(tiny_model()))
        write_tokenizer(root / "src")
        target = root / "dst"
        return unigeoseg(weights=convert(root / "src", target, base=preset("tiny"), overwrite=True).folder)

    return load


def square_picture(scale: int, *, size: tuple[int, int] = (128, 128)) -> np.ndarray:
    image = np.full((size[0] * scale, size[1] * scale, 3), 30, np.uint8)
    x0, y0, x1, y1 = (v * scale for v in SQUARE)
    image[y0:y1, x0:x1] = 230
    return image


@pytest.mark.parametrize(
    ("name", "scale"), [("toy", 1), ("toy", 2), ("nano", 1), ("nano", 2), ("unigeoseg", 1), ("unigeoseg", 2)]
)
def test_a_square_drawn_at_known_pixels_is_answered_there(
    loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch, name: str, scale: int
) -> None:
    """The networks' last step is replaced by a known square at their stride of 4; the way to the image is real."""
    engine = loaded(name)
    image = square_picture(scale)
    if name != "toy":
        side = 32 if name == "unigeoseg" else 32 * scale  # unigeoseg sees every image at 128 pixels, nano as it is
        x0, y0, x1, y1 = (v * side // 128 for v in SQUARE)
        logits = torch.full((1, side, side), -8.0)
        logits[:, y0:y1, x0:x1] = 8.0
        drawn = SimpleNamespace(logits=[logits], presence=None)
        monkeypatch.setattr(engine.model, "predict_masks", lambda *args, **options: drawn)
    box = tuple(float(v * scale) for v in SQUARE)
    (answer,) = engine.predict(engine.encode([image]), [Prompt(boxes=(box,))])
    found, expected = answer.logits > 0, image[..., 0] > 128
    if name != "toy":  # bilinear interpolation rounds the four corners; every edge is exact
        left, top, right, bottom = (v * scale for v in SQUARE)
        for x in (left, right - 2 * scale):
            for y in (top, bottom - 2 * scale):
                found[y : y + 2 * scale, x : x + 2 * scale] = expected[y : y + 2 * scale, x : x + 2 * scale]
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("scale", [1, 2])
@pytest.mark.parametrize("name", ["think2seg", "geoseg"])
def test_a_square_that_a_language_model_points_at_is_answered_there(tmp_path: Path, name: str, scale: int) -> None:
    """The model is shown 64 x 64 pixels and answers in these; the segmenter marks what is bright under a point."""
    image = square_picture(scale)
    Image.fromarray(image).save(tmp_path / "square.png")
    box = [v // 2 for v in SQUARE]
    pointed = {"bbox_2d": box, "positive_points": [[32, 24], [30, 22]]}
    said = f"<think>there</think><answer>{listed(pointed)}</answer>" if name == "think2seg" else listed(item(box))
    convention = Convention(Units.PIXELS, View("square", side=64))
    with endpoint_server([Say(said)]) as server, open_scene(tmp_path / "square.png") as scene:
        template = {"template": PHRASE_TEMPLATE} if name == "geoseg" else {}
        reasoner = connect(server.url, "m", convention=convention, structured="off", **template)
        drawing = BrightSegmenter()
        engine: Any = (
            Think2SegEngine(reasoner, drawing)
            if name == "think2seg"
            else GeoSegEngine(reasoner, Routes(drawing, drawing, BrightMap(), RouteRules()))
        )
        found = Session(engine, scene).predict_mask("the bright square", SegmentSettings(min_pixels=1))
    np.testing.assert_array_equal(found.mask, image[..., 0] > 128)


def test_nano_reads_negative_points_as_negative(loaded: Callable[[str], Any]) -> None:
    engine: UniGeoSegEngine = loaded("nano")
    (embedding,) = engine.encode([square_picture(2)])
    positive, spot = (130.0, 96.0), (104.0, 72.0)
    alone, negative, both = (
        a.logits
        for a in engine.predict(
            [embedding] * 3,
            [
                Prompt(points=(positive,)),
                Prompt(points=(positive, spot), labels=(1, 0)),
                Prompt(points=(positive, spot)),
            ],
        )
    )
    x, y = int(spot[0]), int(spot[1])
    around = (slice(y - 4, y + 5), slice(x - 4, x + 5))
    assert negative[around].mean() < alone[around].mean()
    assert negative[around].mean() < both[around].mean()


def test_nano_gives_presence_as_probability(loaded: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch) -> None:
    engine: UniGeoSegEngine = loaded("nano")
    predict_masks, heard = engine.model.predict_masks, []

    def listen(*args: Any, **options: Any) -> Any:
        heard.append(predict_masks(*args, **options))
        return heard[-1]

    monkeypatch.setattr(engine.model, "predict_masks", listen)
    embeddings = engine.encode([square_picture(2)])
    for text in ("the building", "the lake"):
        (answer,) = engine.predict(embeddings, [Prompt(text)])
        logit = float(heard[-1].presence)
        assert answer.presence == pytest.approx(1 / (1 + np.exp(-logit)), abs=1e-6)
