"""From the coarsest feature map to tokens that a language model reads."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.models.unigeoseg.config import ConnectorConfig

__all__ = ["MultiScaleConnector", "SparseConnector", "build_connector"]


class SparseConnector(nn.Module):
    """Two 3x3 convolutions with a LayerNorm over channels and place, then 1x1; no activation.

    The norms carry the grid, so a set of weights fits one image size.
    """

    def __init__(self, inputs: int, outputs: int, side: int, strides: tuple[int, int]) -> None:
        super().__init__()
        first = -(-side // strides[0])
        second = -(-first // strides[1])
        self.tokens = second**2
        self.proj1 = nn.Conv2d(inputs, outputs, 3, strides[0], 1)
        self.norm1 = nn.LayerNorm([outputs, first, first])
        self.proj2 = nn.Conv2d(outputs, outputs, 3, strides[1], 1)
        self.norm2 = nn.LayerNorm([outputs, second, second])
        self.fc = nn.Conv2d(outputs, outputs, 1)

    def forward(self, res5: Tensor) -> Tensor:
        """(B, c, side, side) -> (B, tokens, D), row-major."""
        x = self.norm2(self.proj2(self.norm1(self.proj1(res5))))
        out: Tensor = self.fc(x).flatten(2).transpose(1, 2)
        return out


class MultiScaleConnector(nn.Module):
    """MSCC: two strides side by side, and learned tokens that belong to no place."""

    def __init__(self, inputs: int, outputs: int, side: int, global_tokens: int) -> None:
        super().__init__()
        half = outputs // 2
        self.tokens = (-(-side // 2)) ** 2 + global_tokens
        self.branch1 = nn.Conv2d(inputs, half, 3, 2, 1)
        self.norm1 = nn.GroupNorm(1, half)
        self.branch2 = nn.Conv2d(inputs, half, 5, 4, 2)
        self.norm2 = nn.GroupNorm(1, half)
        self.global_tokens = nn.Parameter(torch.randn(global_tokens, outputs) * 0.02)
        self.fc = nn.Linear(outputs, outputs)

    def forward(self, res5: Tensor) -> Tensor:
        """(B, c, side, side) -> (B, tokens, D)."""
        fine, coarse = self.norm1(self.branch1(res5)), self.norm2(self.branch2(res5))
        coarse = F.interpolate(coarse, size=fine.shape[-2:], mode="bilinear", align_corners=False)
        placed = torch.cat([fine, coarse], 1).flatten(2).transpose(1, 2)
        everywhere = self.global_tokens.expand(len(placed), -1, -1)
        out: Tensor = self.fc(torch.cat([placed, everywhere], 1))
        return out


def build_connector(
    config: ConnectorConfig, inputs: int, outputs: int, side: int
) -> SparseConnector | MultiScaleConnector:
    """The connector of ``config`` for a res5 of ``side`` x ``side`` cells."""
    if config.kind == "mscc":
        return MultiScaleConnector(inputs, outputs, side, config.global_tokens)
    return SparseConnector(inputs, outputs, side, config.strides)
