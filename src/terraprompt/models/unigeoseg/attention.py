"""Attention and position parts shared by the decoders."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["MultiHeadAttention", "shared_rows", "sine_position"]


class MultiHeadAttention(nn.Module):
    """Multi-head attention with a fused input projection, through SDPA (no attention matrix is materialised)."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.in_proj = nn.Linear(width, 3 * width)
        self.out_proj = nn.Linear(width, width)
        nn.init.xavier_uniform_(self.in_proj.weight)
        nn.init.zeros_(self.in_proj.bias)

    def forward(
        self, query: Tensor, key: Tensor, value: Tensor, *, attend: Tensor | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Attend from ``query`` (M, Q, C) to ``key`` and ``value`` (B, K, C).

        Args:
            query: float (M, Q, C).
            key: float (B, K, C).
            value: float (B, K, C).
            attend: bool, broadcastable to (M, heads, Q, K); True where attention is allowed.
            rows: int64 (M,), which row of ``key`` each query looks at; None if M = B in order. Rows that several
                queries look at are projected once.
        """
        weights, biases = self.in_proj.weight.chunk(3), self.in_proj.bias.chunk(3)
        q, k, v = (
            F.linear(x, w, b).view(*x.shape[:2], self.heads, -1).transpose(1, 2)
            for x, w, b in zip((query, key, value), weights, biases, strict=True)
        )
        if rows is not None:
            k, v = shared_rows(k, rows), shared_rows(v, rows)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=attend)
        mixed: Tensor = self.out_proj(out.transpose(1, 2).flatten(2))
        return mixed


def shared_rows(x: Tensor, rows: Tensor) -> Tensor:
    """``x[rows]``, without a copy where there is but one row."""
    return x.expand(len(rows), *x.shape[1:]) if len(x) == 1 else x[rows]


def sine_position(height: int, width: int, channels: int, device: torch.device | None = None) -> Tensor:
    """Sine position code of a grid, (height * width, channels) float32, row-major.

    Half of the channels code y, half x; coordinates normalised to 2 pi, temperature 1e4 (Mask2Former).
    """
    half = channels // 2
    frequency = 1e4 ** (2 * torch.div(torch.arange(half, device=device), 2, rounding_mode="floor") / half)

    def code(n: int) -> Tensor:
        position = torch.arange(1, n + 1, dtype=torch.float32, device=device) / (n + 1e-6) * (2 * math.pi)
        phase = position[:, None] / frequency
        return torch.stack([phase[:, 0::2].sin(), phase[:, 1::2].cos()], dim=2).flatten(1)

    y, x = code(height), code(width)
    grid = torch.cat([y[:, None].expand(-1, width, -1), x[None].expand(height, -1, -1)], dim=2)
    return grid.flatten(0, 1)
