"""A single-class U-Net on the same backbone: the dedicated model that an instruction-driven one is measured against."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.models.unigeoseg.config import VisionConfig
from terraprompt.models.unigeoseg.vision import build_vision

__all__ = ["UNet"]


class _Up(nn.Module):
    def __init__(self, inputs: int, skip: int, outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        for i in (inputs + skip, outputs):
            layers += [nn.Conv2d(i, outputs, 3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
        self.block = nn.Sequential(*layers)

    def forward(self, x: Tensor, skip: Tensor | None) -> Tensor:
        x = F.interpolate(x, scale_factor=2, mode="nearest")
        out: Tensor = self.block(x if skip is None else torch.cat([x, skip], 1))
        return out


class UNet(nn.Module):
    """EfficientNet-Lite encoder, five up-blocks with skips, full-resolution logits.

    Args:
        vision: the encoder.
        widths: channels of the up-blocks, from stride 16 to stride 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, vision: VisionConfig, widths: Sequence[int] = (160, 96, 64, 48, 32)) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(vision.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(vision.std).view(1, 3, 1, 1), persistent=False)
        self.vision = build_vision(vision)
        skips = [*reversed((16, *vision.channels[:3])), 0]
        inputs = [vision.channels[3], *widths[:-1]]
        self.ups = nn.ModuleList(_Up(i, s, o) for i, s, o in zip(inputs, skips, widths, strict=True))
        self.head = nn.Conv2d(widths[-1], 1, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """RGB on 0..255 (B, 3, H, W), sides multiples of 32 -> logits (B, H, W)."""
        *skips, x = self.vision((images.float() - self.mean) / self.std)
        for up, skip in zip(self.ups, [*skips[::-1], None], strict=True):
            x = up(x, skip)
        out: Tensor = self.head(x)[:, 0]
        return out
