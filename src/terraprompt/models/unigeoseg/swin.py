"""Swin Transformer: windows that shift, four levels (Liu et al. 2021), as Mask2Former reads it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["Swin"]


def _into_windows(x: Tensor, window: int) -> Tensor:
    """(B, H, W, C) -> (B * windows, window * window, C); H and W are multiples of ``window``."""
    batch, height, width, channels = x.shape
    x = x.view(batch, height // window, window, width // window, window, channels)
    return x.transpose(2, 3).reshape(-1, window * window, channels)


def _out_of_windows(x: Tensor, window: int, size: tuple[int, int]) -> Tensor:
    """Inverse of :func:`_into_windows`."""
    height, width = size
    x = x.view(-1, height // window, width // window, window, window, x.shape[-1])
    return x.transpose(2, 3).reshape(-1, height, width, x.shape[-1])


def _shift_mask(size: tuple[int, int], window: int, device: torch.device) -> Tensor:
    """Which tokens of a shifted window are neighbours in the picture, bool (windows, 1, N, N)."""
    region = torch.zeros(1, *size, 1, device=device)
    cuts = (slice(0, -window), slice(-window, -(window // 2)), slice(-(window // 2), None))
    for i, rows in enumerate(cuts):
        for j, columns in enumerate(cuts):
            region[:, rows, columns] = 3 * i + j
    label = _into_windows(region, window)[..., 0]
    return (label[:, None] == label[:, :, None])[:, None]


def _relative_index(window: int) -> Tensor:
    """Row of the bias table for each pair of tokens in a window, int64 (N, N)."""
    place = torch.arange(window, device="cpu")
    y, x = torch.meshgrid(place, place, indexing="ij")
    y, x = y.flatten(), x.flatten()
    span = 2 * window - 1
    return (y[:, None] - y[None] + window - 1) * span + (x[:, None] - x[None] + window - 1)


class WindowAttention(nn.Module):
    """Attention within windows with a learned bias for each relative position."""

    index: Tensor

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads = heads
        self.bias_table = nn.Parameter(torch.randn((2 * window - 1) ** 2, heads) * 0.02)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.register_buffer("index", _relative_index(window), persistent=False)

    def forward(self, x: Tensor, together: Tensor | None) -> Tensor:
        """``x`` (B * windows, N, C); ``together`` bool (windows, 1, N, N), None = all."""
        windows, count, _ = x.shape
        q, k, v = self.qkv(x).view(windows, count, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        bias = self.bias_table[self.index].permute(2, 0, 1)[None].to(q.dtype)
        if together is not None:
            bias = torch.where(together, bias, float("-inf"))
            if windows > len(together):
                bias = bias.repeat(windows // len(together), 1, 1, 1)
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=bias)
        mixed: Tensor = self.proj(out.transpose(1, 2).flatten(2))
        return mixed


class SwinBlock(nn.Module):
    """Pre-norm window attention and MLP; every second block looks through shifted windows."""

    def __init__(self, width: int, heads: int, window: int, *, shifted: bool) -> None:
        super().__init__()
        self.window, self.shift = window, window // 2 if shifted else 0
        self.norm1 = nn.LayerNorm(width)
        self.attn = WindowAttention(width, heads, window)
        self.norm2 = nn.LayerNorm(width)
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, width)

    def forward(self, x: Tensor, together: Tensor) -> Tensor:
        """``x`` (B, H, W, C) of any size; ``together`` of the padded size, for shifted blocks."""
        height, width = x.shape[1:3]
        # what is padded takes part as zeros, as in the published weights' training
        y = F.pad(self.norm1(x), (0, 0, 0, -width % self.window, 0, -height % self.window))
        size = (y.shape[1], y.shape[2])
        if self.shift:
            y = y.roll((-self.shift, -self.shift), (1, 2))
        y = self.attn(_into_windows(y, self.window), together if self.shift else None)
        y = _out_of_windows(y, self.window, size)
        if self.shift:
            y = y.roll((self.shift, self.shift), (1, 2))
        x = x + y[:, :height, :width]
        out: Tensor = x + self.fc2(F.gelu(self.fc1(self.norm2(x))))
        return out


class PatchMerging(nn.Module):
    """Four neighbours become one token of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(4 * width)
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2))
        x = torch.cat([x[:, i::2, j::2] for j in (0, 1) for i in (0, 1)], -1)
        out: Tensor = self.reduction(self.norm(x))
        return out


class SwinStage(nn.Module):
    """Blocks of one level, then the step to the next."""

    def __init__(self, width: int, depth: int, heads: int, window: int, *, last: bool) -> None:
        super().__init__()
        self.window = window
        self.blocks = nn.ModuleList(SwinBlock(width, heads, window, shifted=i % 2 == 1) for i in range(depth))
        self.merge = None if last else PatchMerging(width)

    def forward(self, x: Tensor) -> Tensor:
        height, width = (n + -n % self.window for n in x.shape[1:3])
        together = _shift_mask((height, width), self.window, x.device)
        for block in self.blocks:
            x = block(x, together)
        return x


class Swin(nn.Module):
    """Patches of 4, four levels, a LayerNorm on each output. Deterministic: no stochastic depth.

    Args:
        channels: of the four levels, each twice the one before.
        depths: blocks a level.
        heads: a level.
        window: side in tokens.
    """

    def __init__(self, channels: Sequence[int], depths: Sequence[int], heads: Sequence[int], window: int) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, channels[0], 4, 4)
        self.patch_norm = nn.LayerNorm(channels[0])
        self.stages = nn.ModuleList(
            SwinStage(c, d, h, window, last=c == channels[-1]) for c, d, h in zip(channels, depths, heads, strict=True)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(c) for c in channels)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised (B, 3, H, W), H and W multiples of 4 -> [res2, res3, res4, res5] at strides 4, 8, 16, 32."""
        x = self.patch_norm(self.patch(x).permute(0, 2, 3, 1))
        out = []
        for stage, norm in zip(self.stages, self.norms, strict=True):
            x = stage(x)
            out.append(norm(x).permute(0, 3, 1, 2).contiguous())
            merge = stage.merge
            if isinstance(merge, PatchMerging):
                x = merge(x)
        return out
