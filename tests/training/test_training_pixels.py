"""Training reads pixels as inference does: what it learns from is what a session shows its engine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.enums import ColorInterp

from flow_engines import BoxFilterEngine
from terraprompt.datasets.pack import read_pack
from terraprompt.datasets.sample import Sample
from terraprompt.engines.base import Embedding
from terraprompt.flow.session import Session
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Prompt, Task
from terraprompt.raster import open_scene
from terraprompt.training.labeled_image import from_record
from terraprompt.training.question_sets import Questions
from terraprompt.training.questions import QuestionSource
from terraprompt.training.sft_examples import pack_questions, sft_examples
from tiny_policy import CONVENTION

SIDE = 64


class Watching(BoxFilterEngine):
    """Keeps what it is shown."""

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        self.seen = [image.copy() for image in images]
        return super().encode(images)


def seen_by_an_engine(path: Path) -> np.ndarray:
    engine = Watching(size=SIDE, overlap=8)
    with open_scene(path) as scene, Session(engine, scene).segment(Prompt("the roof")):
        (image,) = engine.seen
    return image


@pytest.fixture(params=["bgr16", "rgb8"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """One labelled image: tagged B, G, R, 16 bits, with a gap of no data; or a plain RGB picture."""
    rng = np.random.default_rng(0)
    rgb = rng.integers(1, 256, (3, SIDE, SIDE)).astype(np.uint8)
    if request.param == "rgb8":
        name = "image.png"
        Image.fromarray(np.moveaxis(rgb, 0, -1)).save(tmp_path / name)
    else:
        name = "image.tif"
        deep = rgb[::-1].astype(np.uint16) * 37 + 200
        deep[:, :, :9] = 0
        profile = {"driver": "GTiff", "count": 3, "width": SIDE, "height": SIDE, "dtype": "uint16", "nodata": 0}
        with rasterio.open(tmp_path / name, "w", crs="EPSG:32633", **profile) as target:
            target.write(deep)
            target.colorinterp = (ColorInterp.blue, ColorInterp.green, ColorInterp.red)
    mask = np.zeros((SIDE, SIDE), np.uint8)
    mask[20:44, 20:44] = 1
    Image.fromarray(mask).save(tmp_path / "mask.png")
    record = {
        "id": "s/a", "source": "s", "split": "train", "image": name, "width": SIDE, "height": SIDE, "gsd_m": 1.0,
        "label_kind": "mask", "labelled": ["building"], "licence": "CC0", "group": "g", "scale_variant": False,
        "regions": [{"category": "building", "mask": "mask.png", "value": 1, "box": None}],
    }  # fmt: skip
    (tmp_path / "annotations.jsonl").write_text(json.dumps(record) + "\n")
    return tmp_path


def test_every_training_sees_what_a_session_shows_its_engine(pack: Path) -> None:
    (record,) = read_pack(pack)
    shown = seen_by_an_engine(record.image)
    plain = record.image.suffix == ".png"
    if plain:
        np.testing.assert_array_equal(shown, np.asarray(Image.open(record.image)), "byte for byte")
    else:
        assert not shown[:, :9].any()
        assert shown[:, 9:].std() > 40, "stretched"
    # nano and the causal members on labelled images, on questions, the reasoner's warm-up and GRPO
    np.testing.assert_array_equal(from_record(record).image, shown)
    sample = Sample("a", record.image, Task.REFERRING, ("the roof",), RunLengths.encode(record.load_mask("building")))
    crop = QuestionSource(Questions([sample]), SIDE, light=False).draw(Task.REFERRING, np.random.default_rng(0))
    np.testing.assert_array_equal(crop.image, shown)
    (asked, *_) = pack_questions([record])
    np.testing.assert_array_equal(asked.load_image(), shown)
    np.testing.assert_array_equal(sft_examples([asked], CONVENTION)[0].image, shown)
