"""The pages on extending: their code is installed as a stranger would, run and checked."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from extend_pages import environment, install_page
from flow_engines import BoxFilterEngine
from terraprompt.testing import check_engine

RUN_ENGINE = """
import numpy as np, rasterio
from terraprompt import load_engine, segment
from terraprompt.testing import check_engine
check_engine(load_engine("brightness", level=100))
grey = np.full((3, 120, 150), 20, np.uint8)
grey[:, 30:60, 40:80] = 220
with rasterio.open("a.tif", "w", driver="GTiff", width=150, height=120, count=3, dtype="uint8") as out:
    out.write(grey)
result = segment("a.tif", "bright", engine="brightness", stretch="none")
assert ((result.mask() == 1) == (grey[0] > 128)).all()
assert result.remarks == ("The words are not read: what is bright is found.",), result.remarks
"""

RUN_SEGMENTER = """
import numpy as np
from terraprompt import Prompt
from terraprompt.errors import PromptError
from terraprompt.segmenters import PromptableSegmenter, load_segmenter, segmenter_names
assert "alike" in segmenter_names()
segmenter = load_segmenter("alike")
assert isinstance(segmenter, PromptableSegmenter)
image = np.full((50, 70, 3), 20, np.uint8)
image[10:20, 30:40] = image[30:40, 30:40] = (200, 40, 40)
(embedding,) = segmenter.embed([image])
red = image[..., 0] == 200
click, box = segmenter.predict(
    embedding, [Prompt(points=((35, 15), (60, 5)), labels=(1, 0)), Prompt(boxes=((25.0, 5.0, 45.0, 25.0),))]
)
assert ((click.logits > 0) == red).all()
red[25:] = False
assert ((box.logits > 0) == red).all()
try:
    segmenter.predict(embedding, [Prompt("red")])
except PromptError as error:
    assert "does not read text" in str(error)
else:
    raise AssertionError("took a text")
"""

RUN_FORMAT = """
import csv, json
from pathlib import Path
import numpy as np
from rasterio import Affine
from terraprompt.errors import OutputError
from terraprompt.outputs import MaskWriter, check_target, save_stac

mask = np.zeros((40, 60), bool)
mask[4:14, 10:30] = True
with MaskWriter.create(Path.cwd(), 60, 40, crs="EPSG:32631", transform=Affine(2, 0, 500000, 0, -2, 5500000)) as writer:
    writer.write_band(0, np.where(mask, 4, -4).astype(np.float32), np.ones_like(mask))
    result = writer.finish({"instruction": "a roof"}, simplify=0)
check_target("roofs.csv", kind="vector")
result.save_vector("roofs.csv")
(row,) = csv.DictReader(open("roofs.csv"))
assert {k: float(v) for k, v in row.items() if k != "score"} == {
    "id": 1, "x": 500040, "y": 5499982, "area_m2": 800
}, row
save_stac(result, "item.json", {"vector": "roofs.csv"})
assert json.loads(Path("item.json").read_text())["assets"]["vector"]["type"] == "text/csv"
try:
    result.save_vector("roofs.csv")
except OutputError as error:
    assert "already there" in str(error)
else:
    raise AssertionError("replaced without being allowed to")
try:
    check_target("roofs.csv", kind="mask")
except OutputError as error:
    assert "Use .tif, .tiff, .png." in str(error), error
else:
    raise AssertionError("a vector format taken for a mask")
"""


@pytest.mark.parametrize(
    ("page", "script"), [("engine.md", RUN_ENGINE), ("segmenter.md", RUN_SEGMENTER), ("format.md", RUN_FORMAT)]
)
def test_the_code_of_the_page_works_when_installed(tmp_path, page, script):
    install_page(tmp_path, page)
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=tmp_path, env=environment(tmp_path), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


class Wrong(BoxFilterEngine):
    """Breaks one rule."""

    def __init__(self, rule: str) -> None:
        super().__init__()
        self.rule, self.calls = rule, 0

    def encode(self, images):
        if self.rule == "changed its image" and images:
            images[0][0, 0] ^= 1
        return super().encode(images)[: 1 if self.rule == "embeddings for 2" else None]

    def predict(self, embeddings, prompts):
        answers = super().predict(embeddings, prompts)
        change = {
            "NaN": lambda x: np.full_like(x, np.nan),
            "float64": lambda x: x.astype(np.float64),
            "the image is": lambda x: x[:, :-1],
        }.get(self.rule, lambda x: x)
        answers = [replace(a, logits=change(a.logits)) for a in answers]
        if self.rule == "keep state":
            answers = [replace(a, logits=a.logits + i) for i, a in enumerate(answers)]
        if self.rule == "presence":
            answers = [replace(a, presence=2.5) for a in answers]
        return answers

    def unpack(self, size, arrays):
        if self.rule == "pack and unpack":
            arrays = {name: 255 - value for name, value in arrays.items()}
        return super().unpack(size, arrays)


def test_an_engine_that_keeps_the_rules_passes():
    check_engine(BoxFilterEngine())


@pytest.mark.parametrize(
    "rule",
    [
        "changed its image", "embeddings for 2", "NaN", "float64", "the image is", "keep state", "presence",
        "pack and unpack",
    ],
)  # fmt: skip
def test_a_broken_rule_is_named(rule):
    with pytest.raises(AssertionError, match=rule):
        check_engine(Wrong(rule))


def test_what_is_no_engine_is_told():
    with pytest.raises(AssertionError, match="int lacks name, info"):
        check_engine(3)
