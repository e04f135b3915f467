"""Predictions in memory are those of the files; settings are checked, recorded; remarks reach every output."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin

from flow_engines import BoxFilterEngine, PointedEngine
from terraprompt.engines.base import Answer, Proposals
from terraprompt.errors import ConfigError
from terraprompt.flow.session import Session, segment
from terraprompt.flow.settings import SegmentSettings
from terraprompt.outputs import Status, stac_item
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene

LEFT_OUT = "2 points left out: only one is read."


class Remarking(PointedEngine):
    """Says with every answer what it left out."""

    def predict(self, embeddings: Any, prompts: Any) -> list[Answer]:
        return [
            replace(a, remarks=(LEFT_OUT,), notes={"points_left_out": 2}) for a in super().predict(embeddings, prompts)
        ]


class Proposing(PointedEngine):
    """Proposes what it was given."""

    def __init__(self, proposals: Proposals) -> None:
        super().__init__()
        self.proposals = proposals

    def overview(self, size: tuple[int, int]) -> tuple[int, int]:
        return size

    def propose(self, image: np.ndarray, instruction: str) -> Proposals:
        return self.proposals


@pytest.fixture
def specks(tmp_path: Path) -> Path:
    """240 x 300 pixels of nodata corner, two squares, one with a hole of 2 pixels, and a speck of 3 pixels."""
    grey = np.full((240, 300), 20, np.uint8)
    grey[30:60, 40:80] = grey[150:200, 200:280] = 240
    grey[40, 50:52] = 20
    grey[100, 100:103] = 240
    grey[:10, :10] = 0
    path = tmp_path / "specks.tif"
    profile = {"crs": "EPSG:32633", "transform": from_origin(5e5, 54e5, 0.5, 0.5), "nodata": 0}
    with rasterio.open(path, "w", width=300, height=240, count=3, dtype="uint8", **profile) as out:
        out.write(np.stack([grey] * 3))
    return path


@pytest.mark.parametrize("prompt", ["the squares", "the largest square", Prompt(points=((50, 50), (220, 170)))])
@pytest.mark.parametrize(
    "settings",
    [
        SegmentSettings(),
        SegmentSettings(min_pixels=1),
        SegmentSettings(min_area_m2=400.0, fill_holes_m2=0.0),
        SegmentSettings(threshold=0.999, selector=None),
    ],
)
def test_a_mask_in_memory_is_that_of_the_files(specks, prompt, settings):
    engine = BoxFilterEngine(radius=0) if isinstance(prompt, str) else PointedEngine()
    with open_scene(specks) as scene:
        session = Session(engine, scene, stretch="none")
        with session.segment(prompt, settings=settings) as result:
            found = session.predict_mask(prompt, settings)
            np.testing.assert_array_equal(found.mask, result.mask() == 1)
            np.testing.assert_array_equal(found.valid, result.mask() != 255)
            assert (found.status, found.reason) == (result.status, result.reason)
            probability = 1 / (1 + np.exp(-found.logits[found.valid].astype(np.float64)))
            np.testing.assert_allclose(probability, result.probability()[found.valid], atol=2e-5)
            drop = {"created"}
            assert {k: v for k, v in found.provenance.items() if k not in drop} == {
                k: v for k, v in result.provenance.items() if k not in drop
            }


def test_the_models_mask_keeps_what_the_product_sieves(specks):
    with open_scene(specks) as scene:
        session = Session(BoxFilterEngine(radius=0), scene, stretch="none")
        model, product = (session.predict_mask("bright", SegmentSettings(min_pixels=n)).mask for n in (1, None))
    assert model[100, 100:103].all()
    assert not product[100, 100:103].any()
    assert not model[40, 50:52].any()
    assert product[40, 50:52].all()


@pytest.mark.parametrize(
    ("proposals", "reason"),
    [
        (Proposals("failed", reason="the reasoner is away"), "the reasoner is away"),
        (Proposals("no_target", reason="only sea"), "only sea"),
        (Proposals("found", (Prompt(boxes=((100, 10, 120, 20),)),)), "1 target proposed, nothing drawn"),
        (Proposals("found", (Prompt(points=((50, 50),)),), notes={"think": "a square"}), None),
    ],
)
def test_proposals_in_memory(specks, proposals, reason):
    proposals = replace(proposals, remarks=("Seen reduced.",))
    with open_scene(specks) as scene:
        session = Session(Proposing(proposals), scene, stretch="none")
        found, result = session.predict_mask("the roof"), session.segment("the roof")
    assert found.status is result.status
    assert found.reason == result.reason
    assert found.reason is None if reason is None else found.reason.startswith(reason)
    assert found.evidence.proposed.items() >= dict(proposals.notes).items()
    assert result.remarks == found.remarks == ("Seen reduced.",)
    assert (found.mask is None) is (found.status is Status.FAILED)


def test_remarks_reach_result_tags_and_stac(specks, tmp_path):
    prompt = Prompt(points=((50, 50), (52, 50), (54, 50)))
    result = segment(specks, prompt, engine=Remarking(), stretch="none")
    assert result.remarks == (LEFT_OUT,) == tuple(result.provenance["remarks"])
    assert result.select([result.objects[0].id]).remarks == (LEFT_OUT,)
    with rasterio.open(result.save_mask(tmp_path / "mask.tif")) as written:
        assert LEFT_OUT in written.tags()["TERRAPROMPT_REMARKS"]
    assert stac_item(result, {"mask": "mask.tif"})["properties"]["terraprompt:remarks"] == [LEFT_OUT]
    swept = segment(specks, "bright", engine=Remarking(), stretch="none")
    assert swept.remarks == (LEFT_OUT,)  # once, though every tile said so


def test_a_target_without_data_is_told(specks):
    prompt = Prompt(boxes=((2, 2, 6, 6), (40, 30, 80, 60)))
    with rasterio.open(specks, "r+") as file:
        grey = file.read()
        grey[:, :30, :30] = 0
        file.write(grey)
    result = segment(specks, prompt, engine=PointedEngine(16, 0), stretch="none")
    assert result.status is Status.FOUND
    assert result.remarks == ("Target 1 was left out: the scene has no data there.",)


def test_an_unknown_option_is_named_with_what_was_meant(specks):
    with pytest.raises(ConfigError, match="min_pixel") as caught:
        segment(specks, "bright", engine=BoxFilterEngine(), min_pixel=1)
    assert "min_pixels" in str(caught.value.hint)
    with open_scene(specks) as scene, pytest.raises(ConfigError, match="treshold"):
        Session(BoxFilterEngine(), scene).segment("bright", treshold=0.3)


@pytest.mark.parametrize(
    "options", [{"threshold": "high"}, {"refine": 3}, {"selector": "largest"}, {"min_pixels": -1}, {"simplify": "a"}]
)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ConfigError):
        SegmentSettings(**options)


@pytest.mark.parametrize(("given", "effective"), [({}, 4), ({"min_area_m2": 2.0}, 1), ({"min_pixels": 7}, 7)])
def test_provenance_records_the_effective_settings(specks, given, effective):
    made = segment(specks, "bright", engine=BoxFilterEngine(), **given).provenance["settings"]
    assert made["min_pixels"] == effective
    assert made["threshold"] == 0.5
    assert made["refine"] is True
    assert {"min_area_m2", "fill_holes_m2", "simplify"} <= made.keys()
