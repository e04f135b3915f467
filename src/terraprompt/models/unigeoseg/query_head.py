"""From the pooled language state to one mask query that has looked at the image (spec 7)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.models.unigeoseg.attention import shared_rows
from terraprompt.models.unigeoseg.config import QueryHeadConfig

__all__ = ["QueryHead", "Resampler"]


class Resampler(nn.Module):
    """One Perceiver-style block: a latent attends to image tokens and to itself."""

    def __init__(self, config: QueryHeadConfig) -> None:
        super().__init__()
        width, inner = config.width, config.heads * config.head_width
        self.heads = config.heads
        self.norm_image = nn.LayerNorm(width)
        self.norm_latent = nn.LayerNorm(width)
        self.to_q = nn.Linear(width, inner, bias=False)
        self.to_kv = nn.Linear(width, 2 * inner, bias=False)
        self.to_out = nn.Linear(inner, width, bias=False)
        self.feedforward = nn.Sequential(
            nn.LayerNorm(width),
            nn.Linear(width, width, bias=False),
            nn.GELU(),
            nn.Linear(width, width, bias=False),
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, latent: Tensor, image: Tensor) -> Tensor:
        """``latent`` (M, C), ``image`` (M, K, C) -> (M, C)."""
        normed = self.norm_latent(latent)[:, None]
        q = self.to_q(normed).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        kv = self.to_kv(torch.cat([self.norm_image(image), normed], 1)).unflatten(-1, (2, self.heads, -1))
        k, v = kv.permute(2, 0, 3, 1, 4)
        attended = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)[:, 0]
        latent = latent + self.to_out(attended)
        out: Tensor = self.norm(latent + self.feedforward(latent))
        return out


class QueryHead(nn.Module):
    """A direct projection beside a vision-refined one, joined to the decoder's query."""

    def __init__(self, language_width: int, vision_width: int, query_width: int, config: QueryHeadConfig) -> None:
        super().__init__()
        self.skip = nn.Linear(language_width, config.width)
        self.latent = nn.Linear(language_width, config.width)
        self.image = nn.Linear(vision_width, config.width)
        self.resampler = Resampler(config)
        self.join = nn.Linear(2 * config.width, query_width)

    def forward(self, pooled: Tensor, res5: Tensor, image: Tensor | None = None) -> Tensor:
        """``pooled`` (M, D), ``res5`` (B, c, h, w), ``image`` int64 (M,) -> query (M, C)."""
        tokens = self.image(res5.flatten(2).transpose(1, 2))
        if image is not None:
            tokens = shared_rows(tokens, image)
        refined = self.resampler(self.latent(pooled), tokens)
        out: Tensor = self.join(torch.cat([self.skip(pooled), refined], -1))
        return out
