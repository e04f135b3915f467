"""A text, a real HTTP server that plays the model, and ``nano`` that draws: the same masks in every convention."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import rasterio

from endpoint_server import endpoint_server
from oracle_endpoint import Oracle, Target, targets
from terraprompt.datasets.pack import find_pack, read_pack
from terraprompt.engines.think2seg import Think2SegEngine
from terraprompt.evaluation.metrics import Overlap, summarise
from terraprompt.flow.session import segment
from terraprompt.outputs import Status
from terraprompt.prompt import Prompt
from terraprompt.segmenters import PromptableSegmenter, load_segmenter
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.endpoint import connect
from terraprompt_synthetic import render

log = logging.getLogger(__name__)  # numbers: pytest --log-cli-level=INFO

FIT = View("fit", side=1280)
#: Units, view, and with how many decimals models write them.
CONVENTIONS = {
    "pixels as sent": (Units.PIXELS, FIT, 0),
    "pixels of the square of 840": (Units.PIXELS, View("square", side=840), 0),
    "0..1": (Units.UNIT, View("square", side=672), 3),
    "0..1000": (Units.THOUSAND, View("square", side=896), 0),
}


@dataclass(frozen=True)
class Case:
    """An image, what is asked, and what is true."""

    path: Path
    text: str
    mask: np.ndarray
    targets: list[Target]


@pytest.fixture(scope="module")
def nano() -> PromptableSegmenter:
    return load_segmenter("nano")


def giou(cases: list[Case], units: Units, view: View, digits: int | None, nano: PromptableSegmenter) -> float:
    """Through the whole flow."""
    oracle = Oracle(units.value, digits=digits)
    overlaps = []
    with endpoint_server(oracle) as server:
        asker = connect(server.url, "oracle", convention=Convention(units, view), structured="off")
        engine = Think2SegEngine(asker, nano)
        for case in cases:
            oracle.size, oracle.targets = case.mask.shape, case.targets
            with segment(case.path, case.text, engine=engine) as result:
                assert result.status is Status.FOUND
                assert result.notes["units"] == units.value
                overlaps.append(Overlap.of(result.mask() == 1, case.mask))
        expected = {view.size(case.mask.shape) for case in cases}
        assert set(oracle.shown) == expected, "it saw what the convention says"
        assert len(server.asked) == len(cases)
    return summarise(overlaps).giou


def compare(cases: list[Case], nano: PromptableSegmenter) -> dict[str, float]:
    """gIoU of every convention; exact numbers agree to 1e-3, and what integers cost is no more than that."""
    exact = {name: giou(cases, units, view, None, nano) for name, (units, view, _) in CONVENTIONS.items()}
    written = {
        f"{name}, rounded": giou(cases, *CONVENTIONS[name], nano) for name in ("pixels of the square of 840", "0..1000")
    }
    log.info("gIoU: %s", {name: round(value, 6) for name, value in (exact | written).items()})
    assert max(exact.values()) - min(exact.values()) <= 1e-3, exact
    assert max(abs(v - exact["pixels as sent"]) for v in written.values()) <= 5e-3, written
    return exact


def test_conventions_agree_on_a_rendered_town(nano: PromptableSegmenter, tmp_path: Path) -> None:
    town = render(3, width=300, height=240, gsd_m=0.3, style="suburb")
    mask = town.mask("building")
    case = Case(town.write(tmp_path / "town.tif"), "where people live", mask, targets(mask, most=6))
    found = compare([case], nano)
    assert found["0..1"] > 0.5, found


@pytest.mark.data
def test_conventions_agree_on_real_pictures(nano: PromptableSegmenter) -> None:
    root = find_pack()
    if root is None:
        pytest.skip("no imagery pack: set TERRAPROMPT_DATA or put it at ../shared/data")
    cases = []
    for source, category in (
        ("fair_oam", "building"),
        ("arctic_lakes", "lake"),
        ("gsi_solar", "solar_panel"),
        ("amazon_forest", "forest"),
    ):
        record = next(r for r in read_pack(root, "val", sources=[source]) if category in r.present)
        mask = record.load_mask(category)
        cases.append(Case(record.image, f"every {category}", mask, targets(mask, most=4)))
    found = compare(cases, nano)
    assert found["0..1"] > 0.4, found


def test_a_wrong_convention_is_seen_in_the_mask(nano: PromptableSegmenter, tmp_path: Path) -> None:
    """What the agreement above is worth: read in the wrong units, the same answers miss."""
    town = render(3, width=300, height=240, gsd_m=0.3, style="suburb")
    mask = town.mask("building")
    path = town.write(tmp_path / "town.tif")
    oracle = Oracle("pixels", mask.shape, targets(mask, most=12))
    with endpoint_server(oracle) as server:
        asker = connect(
            server.url, "m", convention=Convention(Units.THOUSAND, View("square", side=840)), structured="off"
        )
        with segment(path, "the buildings", engine=Think2SegEngine(asker, nano)) as result:
            assert Overlap.of(result.mask() == 1, mask).iou < 0.3


def test_a_large_scene_is_shown_small_and_drawn_at_native_resolution(nano: PromptableSegmenter, tmp_path: Path) -> None:
    """One town in the corner of a scene of 3000 x 2000 pixels: the mask is what its own boxes give there."""
    town = render(3, width=300, height=240, gsd_m=0.3, style="suburb")
    picture = np.full((2000, 3000, 3), 110, np.uint8)
    picture[1500:1740, 2500:2800] = town.rgb
    truth = np.zeros((2000, 3000), np.uint8)
    truth[1500:1740, 2500:2800] = town.mask("building")
    path = tmp_path / "large.tif"
    with rasterio.open(path, "w", driver="GTiff", width=3000, height=2000, count=3, dtype="uint8", tiled=True) as out:
        out.write(np.moveaxis(picture, -1, 0))
    given = targets(truth, most=4)
    oracle = Oracle("pixels", truth.shape, given)
    with endpoint_server(oracle) as server:
        asker = connect(
            server.url, "m", convention=Convention(Units.PIXELS, View("square", side=840)), structured="off"
        )
        engine = Think2SegEngine(asker, nano)
        with segment(path, "the buildings", engine=engine, stretch="none") as result:
            pointed = result.mask() == 1
            assert result.notes["overview"] == {"width": 840, "height": 840}
    assert oracle.shown == [(840, 840)]
    union = np.zeros(truth.shape, bool)
    for target in given:
        prompt = Prompt(points=target.points, boxes=(target.box,))
        with segment(path, prompt, engine=nano.engine, stretch="none") as result:
            union |= result.mask() == 1
    assert union.any()
    assert Overlap.of(pointed, union).iou > 0.98
