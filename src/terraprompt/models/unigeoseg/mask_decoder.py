"""The masked-attention mask decoder (Mask2Former), for one query."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.models.unigeoseg.attention import MultiHeadAttention, shared_rows, sine_position
from terraprompt.models.unigeoseg.config import MaskDecoderConfig
from terraprompt.models.unigeoseg.pixel_decoder import PixelFeatures

__all__ = ["Drawing", "MaskDecoder"]


class Drawing(NamedTuple):
    """What the mask decoder returns.

    Attributes:
        logits: one (M, h, w) per prediction, after the start and after every layer; the last one is the answer.
        query: (M, C) the normalised final query.
    """

    logits: list[Tensor]
    query: Tensor


class MaskDecoderLayer(nn.Module):
    """Masked cross-attention, self-attention, feed-forward; post-norm."""

    def __init__(self, width: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.cross_attn = MultiHeadAttention(width, config.heads)
        self.cross_norm = nn.LayerNorm(width)
        self.self_attn = MultiHeadAttention(width, config.heads)
        self.self_norm = nn.LayerNorm(width)
        self.linear1 = nn.Linear(width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, width)
        self.ffn_norm = nn.LayerNorm(width)

    def forward(
        self, query: Tensor, memory: Tensor, position: Tensor, attend: Tensor, image: Tensor | None = None
    ) -> Tensor:
        looked = self.cross_attn(query, memory + position, memory, attend=attend, rows=image)
        query = self.cross_norm(query + looked)
        query = self.self_norm(query + self.self_attn(query, query, query))
        out: Tensor = self.ffn_norm(query + self.linear2(F.relu(self.linear1(query))))
        return out


class MaskDecoder(nn.Module):
    """One query per instruction becomes one mask (UniGeoSeg spec 9)."""

    def __init__(self, width: int, config: MaskDecoderConfig) -> None:
        super().__init__()
        self.width = width
        self.level_embed = nn.Embedding(3, width)
        self.layers = nn.ModuleList(MaskDecoderLayer(width, config) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.mask_embed = nn.Sequential(
            nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width)
        )

    def forward(self, query: Tensor, pixels: PixelFeatures, image: Tensor | None = None) -> Drawing:
        """Draw.

        Args:
            query: (M, C), one per instruction.
            pixels: of B images.
            image: int64 (M,), which image each instruction is about; None if M = B in order.
        """
        memories, positions = [], []
        for level, scale in enumerate(pixels.scales):
            tokens = scale.flatten(2).transpose(1, 2) + self.level_embed.weight[level]
            memories.append(tokens)
            positions.append(sine_position(scale.shape[-2], scale.shape[-1], self.width, scale.device).to(scale.dtype))
        mask_features = pixels.mask if image is None else shared_rows(pixels.mask, image)
        state = query[:, None]
        logits = [self._predict(state, mask_features)]
        for i, layer in enumerate(self.layers):
            level = i % 3
            attend = self._attend(logits[-1], pixels.scales[level].shape[-2:])
            state = layer(state, memories[level], positions[level], attend, image)
            logits.append(self._predict(state, mask_features))
        return Drawing(logits, self.norm(state)[:, 0])

    def _predict(self, state: Tensor, mask_features: Tensor) -> Tensor:
        embedding = self.mask_embed(self.norm(state))[:, 0]
        if mask_features.stride(0) == 0:  # one image for all: one product
            return torch.einsum("mc,chw->mhw", embedding, mask_features[0])
        return torch.einsum("mc,mchw->mhw", embedding, mask_features)

    @staticmethod
    def _attend(logits: Tensor, size: tuple[int, int] | torch.Size) -> Tensor:
        """Where the last mask is at least 0.5; everywhere if that is nowhere. (M, 1, 1, h * w) bool."""
        small = F.interpolate(logits.detach()[:, None].float(), size=tuple(size), mode="bilinear", align_corners=False)
        attend = (small.sigmoid() >= 0.5).flatten(2)[:, :, None]
        return attend | ~attend.any(-1, keepdim=True)
