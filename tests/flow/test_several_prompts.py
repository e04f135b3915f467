"""Several prompts in one call: each is answered as it would be alone, the scene is read and encoded once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from rasterio.transform import from_origin
from scipy import ndimage

from flow_engines import BoxFilterEngine
from terraprompt.errors import EngineError, PromptError
from terraprompt.flow.session import Session, segment
from terraprompt.prompt import Prompt
from terraprompt.raster import Scene, open_scene

TEXTS = ("the bright", "the three largest bright patches", "the bright patches in the north")


class WordEngine(BoxFilterEngine):
    """Bright where the text says bright, dark where it says dark."""

    def predict(self, embeddings: Any, prompts: Any) -> Any:
        from dataclasses import replace

        answers = super().predict(embeddings, prompts)
        return [
            replace(answer, logits=-answer.logits) if "dark" in (prompt.text or "") else answer
            for answer, prompt in zip(answers, prompts, strict=True)
        ]


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    noise = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=(300, 260)), 9)
    grey = np.clip(128 + 50 * noise / noise.std(), 1, 255).astype(np.uint8)
    grey[:40, :40] = 0
    path = tmp_path / "s.tif"
    profile = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5.4e6, 0.5, 0.5), "nodata": 0}
    with rasterio.open(path, "w", driver="GTiff", width=260, height=300, count=1, dtype="uint8", **profile) as out:
        out.write(grey, 1)
    return path


@pytest.mark.parametrize(
    "prompts",
    [
        TEXTS,
        ["the dark", "the bright"],
        ["the bright", "the bright"],
        ["the bright", Prompt(points=((100.0, 200.0),)), "the dark", Prompt(boxes=((20, 50, 90, 120),))],
        [Prompt("the bright"), {"type": "Point", "coordinates": (15.0001, 48.7518)}],
        ("the largest dark patch",),
    ],
)
def test_each_is_answered_as_it_would_be_alone(scene: Path, prompts: Any) -> None:
    together = segment(scene, prompts, engine=WordEngine())
    assert len(together) == len(prompts)
    for result, prompt in zip(together, prompts, strict=True):
        with segment(scene, prompt, engine=WordEngine()) as alone:
            np.testing.assert_array_equal(result.mask(), alone.mask())
            np.testing.assert_array_equal(result.probability(), alone.probability())
            assert result.objects == alone.objects
            assert result.remarks == alone.remarks
            assert result.provenance["instruction"] == alone.provenance["instruction"]
            assert result.prompt == alone.prompt


def test_texts_share_one_reading_and_one_encoding(scene: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    reads, read = [], Scene.read

    def counted(self: Scene, *arguments: Any, **options: Any) -> Any:
        reads.append(arguments)
        return read(self, *arguments, **options)

    monkeypatch.setattr(Scene, "read", counted)
    alone, together = WordEngine(), WordEngine()
    segment(scene, TEXTS[0], engine=alone).close()
    once = len(reads)
    for result in segment(scene, [*TEXTS, "the dark"], engine=together):
        result.close()
    assert together.encoded == alone.encoded
    assert len(reads) == 2 * once
    assert len(together.asked) == 4 * len(alone.asked)


def test_a_session_takes_several_too(scene: Path) -> None:
    with open_scene(scene) as opened:
        session, seen = Session(WordEngine(), opened), []
        results = session.segment_all(
            ["the bright", Prompt(points=((100.0, 200.0),))], progress=lambda *p: seen.append(p)
        )
        assert all(result.objects for result in results)
        assert seen
        session.engine.encoded.clear()
        session.segment_all(["the bright", "the bright"])
        assert session.engine.encoded == []


@pytest.mark.parametrize(
    ("prompts", "said"),
    [
        ([], "There is no prompt"),
        (["the bright", ""], "The instruction is empty"),
        (["the bright", Prompt(points=((999.0, 5.0),))], "outside the scene"),
        (["the bright", 7], "A prompt is a sentence"),
        ([["the bright"]], "A prompt is a sentence"),
    ],
)
def test_one_that_does_not_fit_stops_all_before_anything_is_encoded(scene: Path, prompts: Any, said: str) -> None:
    engine = WordEngine()
    with pytest.raises(PromptError, match=said):
        segment(scene, prompts, engine=engine)
    assert engine.encoded == []


def test_a_failure_of_the_engine_leaves_no_work_files(scene: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    work.mkdir()

    def broken(logits: np.ndarray) -> np.ndarray:
        raise RuntimeError("broken")

    with pytest.raises(EngineError, match="broken"):
        segment(scene, TEXTS, engine=BoxFilterEngine(spoil=broken), workdir=work)
    assert list(work.iterdir()) == []
