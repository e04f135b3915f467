"""The dedicated network of the bench."""

from __future__ import annotations

import torch
from unet import UNet

from terraprompt.models.unigeoseg.config import VisionConfig


@torch.no_grad()
def test_unet_answers_at_full_resolution() -> None:
    model = UNet(VisionConfig()).eval()
    out = model(torch.randint(0, 256, (2, 3, 64, 96), dtype=torch.uint8))
    assert out.shape == (2, 64, 96)
    assert out.isfinite().all()
    assert not any(name in ("mean", "std") for name in model.state_dict())
