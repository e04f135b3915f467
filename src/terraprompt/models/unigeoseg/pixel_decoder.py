"""The deformable multi-scale pixel decoder (Deformable DETR's encoder and Mask2Former's FPN), in plain PyTorch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.models.unigeoseg.attention import sine_position
from terraprompt.models.unigeoseg.config import PixelDecoderConfig

__all__ = ["DeformableAttention", "PixelDecoder", "PixelFeatures"]


class PixelFeatures(NamedTuple):
    """What the mask decoder looks at.

    Attributes:
        mask: (B, C, H/4, W/4) per-pixel embeddings.
        scales: (B, C, h, w) at strides 32, 16, 8, the order in which the decoder's layers cycle.
    """

    mask: Tensor
    scales: tuple[Tensor, Tensor, Tensor]


class DeformableAttention(nn.Module):
    """Multi-scale deformable attention (Deformable DETR, Eq. 3): a few learned sampling points a level and head."""

    def __init__(self, width: int, levels: int, heads: int, points: int) -> None:
        super().__init__()
        self.levels, self.heads, self.points = levels, heads, points
        self.sampling_offsets = nn.Linear(width, heads * levels * points * 2)
        self.attention_weights = nn.Linear(width, heads * levels * points)
        self.value_proj = nn.Linear(width, width)
        self.output_proj = nn.Linear(width, width)
        self._reset()

    def _reset(self) -> None:
        # Start as a star: head h looks into direction h, point k at distance k + 1 (Deformable DETR, appendix).
        angle = torch.arange(self.heads) * (2 * math.pi / self.heads)
        star = torch.stack([angle.cos(), angle.sin()], -1)
        star = star / star.abs().amax(-1, keepdim=True)
        reach = torch.arange(1, self.points + 1)
        offsets = star[:, None, None] * reach[None, None, :, None]
        nn.init.zeros_(self.sampling_offsets.weight)
        with torch.no_grad():
            self.sampling_offsets.bias.copy_(offsets.expand(-1, self.levels, -1, -1).flatten())
        nn.init.zeros_(self.attention_weights.weight)
        nn.init.zeros_(self.attention_weights.bias)
        for layer in (self.value_proj, self.output_proj):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, query: Tensor, reference: Tensor, value: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """Attend.

        Args:
            query: (B, Q, C) tokens that look, with their position code.
            reference: (Q, 2) x, y in [0, 1] of each of them.
            value: (B, N, C) tokens of all levels, which are sampled.
            shapes: (height, width) of each level; N is the sum of their areas.
        """
        batch, count, width = query.shape
        offsets = self.sampling_offsets(query).view(batch, count, self.heads, self.levels, self.points, 2)
        weights = self.attention_weights(query).view(batch, count, self.heads, -1).softmax(-1)
        weights = weights.view(batch, count, self.heads, self.levels, self.points)
        values = self.value_proj(value).view(batch, -1, self.heads, width // self.heads)
        # Rows win where heads are wide and nothing is learned; maps win otherwise (measured on CPU, factors of 2).
        wide = values.shape[-1] >= 32 and not torch.is_grad_enabled()
        sample = _sample_rows if wide else _sample_maps
        out = sample(values, offsets, weights, reference, shapes)
        projected: Tensor = self.output_proj(out.to(query.dtype))
        return projected


def _sample_maps(
    values: Tensor, offsets: Tensor, weights: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """Weighted bilinear samples, level by level through ``grid_sample``.

    Args:
        values: (B, N, heads, c).
        offsets: (B, Q, heads, levels, points, 2) x, y in cells of each level.
        weights: (B, Q, heads, levels, points).
        reference: (Q, 2) x, y in [0, 1].
        shapes: (height, width) of each level.

    Returns:
        (B, Q, heads * c).
    """
    batch, _, heads, channels = values.shape
    count = offsets.shape[1]
    gathered = values.new_zeros(batch * heads, channels, count)
    centre = (2 * reference - 1)[None, None, :, None]  # of each token, in [-1, 1]
    start = 0
    for level, (h, w) in enumerate(shapes):
        grid_values = values[:, start : start + h * w].permute(0, 2, 3, 1).reshape(batch * heads, -1, h, w)
        start += h * w
        cell = torch.tensor([2 / w, 2 / h], dtype=offsets.dtype, device=offsets.device)
        grid = (centre + offsets[:, :, :, level].transpose(1, 2) * cell).flatten(0, 1)
        sampled = F.grid_sample(grid_values, grid.to(grid_values.dtype), mode="bilinear", align_corners=False)
        weight = weights[:, :, :, level].transpose(1, 2).flatten(0, 1)[:, None]
        gathered = gathered + (sampled * weight).sum(-1)
    return gathered.view(batch, heads * channels, count).transpose(1, 2)


def _sample_rows(
    values: Tensor, offsets: Tensor, weights: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]
) -> Tensor:
    """As :func:`_sample_maps`: each query sums rows of a table, four neighbours a point, all levels together."""
    batch, held, heads, _ = values.shape
    count = offsets.shape[1]
    grid = torch.tensor([(w, h) for h, w in shapes], dtype=torch.float32, device=values.device)
    where = reference[:, None, None, None] * grid[:, None] + offsets.float() - 0.5  # counted from pixel centres
    columns, across = _neighbours(where[..., 0], grid[:, :1])
    lines, down = _neighbours(where[..., 1], grid[:, 1:])
    sizes = grid.prod(1).long()
    starts = (sizes.cumsum(0) - sizes)[:, None]
    images = torch.arange(batch, device=values.device).view(-1, 1, 1, 1, 1) * held
    of_head = torch.arange(heads, device=values.device)[:, None, None]
    stride = grid[:, :1].long() * heads
    left, right = ((images + starts + x) * heads + of_head for x in columns)
    rows = torch.stack([y * stride + x for y in lines for x in (left, right)], -1)
    shares = torch.stack([y * x for y in (down[0] * weights, down[1] * weights) for x in across], -1)
    summed = F.embedding_bag(
        rows.view(batch * count * heads, -1),
        values.reshape(batch * held * heads, -1).float(),
        per_sample_weights=shares.view(batch * count * heads, -1).float(),
        mode="sum",
    )
    return summed.view(batch, count, -1)


def _neighbours(where: Tensor, count: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The two pixels beside each place on an axis of ``count`` pixels, and their bilinear shares; 0 beyond the edge."""
    where = torch.minimum(where.clamp(min=-1), count)
    low = where.floor()
    share = where - low
    first, second = (torch.minimum((low + step).clamp(min=0), count - 1).long() for step in (0, 1))
    return (first, second), ((1 - share) * (low >= 0) * (low < count), share * (low + 1 >= 0) * (low + 1 < count))


class DeformableLayer(nn.Module):
    """One post-norm encoder layer."""

    def __init__(self, config: PixelDecoderConfig) -> None:
        super().__init__()
        self.self_attn = DeformableAttention(config.width, 3, config.heads, config.points)
        self.norm1 = nn.LayerNorm(config.width)
        self.linear1 = nn.Linear(config.width, config.feedforward)
        self.linear2 = nn.Linear(config.feedforward, config.width)
        self.norm2 = nn.LayerNorm(config.width)

    def forward(self, x: Tensor, position: Tensor, reference: Tensor, shapes: Sequence[tuple[int, int]]) -> Tensor:
        """The first Q of the tokens (B, N, C), those that ``position`` (Q, C) is of, after looking at all."""
        looking = x if len(position) == x.shape[1] else x[:, : len(position)]
        looking = self.norm1(looking + self.self_attn(looking + position, reference, x, shapes))
        out: Tensor = self.norm2(looking + self.linear2(F.relu(self.linear1(looking))))
        return out


class PixelDecoder(nn.Module):
    """res2..res5 in, per-pixel mask features and three scales out.

    Source: Mask2Former, with the released UniGeoSeg weights' two departures (spec 8): a ReLU after the lateral
    GroupNorm, and convolution biases beside the norms.
    """

    def __init__(self, config: PixelDecoderConfig, channels: Sequence[int]) -> None:
        super().__init__()
        width, groups = config.width, config.groups
        self.width = width
        self.looking = 3 if config.finest == 8 else 2  # levels whose tokens attend, coarse ones first
        res2, res3, res4, res5 = channels
        self.input_proj = nn.ModuleList(
            nn.Sequential(nn.Conv2d(c, width, 1), nn.GroupNorm(groups, width)) for c in (res5, res4, res3)
        )
        self.level_embed = nn.Parameter(torch.randn(3, width))
        self.layers = nn.ModuleList(DeformableLayer(config) for _ in range(config.layers))
        lateral: list[nn.Module] = [nn.Conv2d(res2, width, 1), nn.GroupNorm(groups, width)]
        self.lateral = nn.Sequential(*lateral, *([nn.ReLU()] if config.lateral_relu else []))
        self.output = nn.Sequential(nn.Conv2d(width, width, 3, padding=1), nn.GroupNorm(groups, width), nn.ReLU())
        self.mask_features = nn.Conv2d(width, width, 1)
        for projection in self.input_proj:
            nn.init.xavier_uniform_(projection[0].weight)  # type: ignore[index]
            nn.init.zeros_(projection[0].bias)  # type: ignore[index]

    def forward(self, features: Sequence[Tensor], prompt: Sequence[Tensor] | None = None) -> PixelFeatures:
        """Decode.

        Args:
            features: res2, res3, res4, res5, each (B, c, h, w).
            prompt: dense prompt embeddings (B, width, h, w) for the same four levels, added after the projections.
        """
        res2, *rest = features
        tokens, positions, references, shapes = [], [], [], []
        for i, feature in enumerate(reversed(rest)):
            x = self.input_proj[i](feature)
            if prompt is not None:
                x = x + prompt[3 - i]
            h, w = x.shape[-2:]
            shapes.append((h, w))
            tokens.append(x.flatten(2).transpose(1, 2))
            positions.append(sine_position(h, w, self.width, x.device) + self.level_embed[i])
            ys, xs = torch.meshgrid(
                (torch.arange(h, device=x.device) + 0.5) / h,
                (torch.arange(w, device=x.device) + 0.5) / w,
                indexing="ij",
            )
            references.append(torch.stack([xs, ys], -1).flatten(0, 1))
        x, position, reference = (
            torch.cat(tokens, 1),
            torch.cat(positions[: self.looking]).to(tokens[0].dtype),
            torch.cat(references[: self.looking]),
        )
        for layer in self.layers:
            x = layer(x, position, reference, shapes)
            if self.looking < len(tokens):
                x = torch.cat([x, *tokens[self.looking :]], 1)
        scales = [
            part.transpose(1, 2).unflatten(2, shape)
            for part, shape in zip(x.split([h * w for h, w in shapes], 1), shapes, strict=True)
        ]
        fine = self.lateral(res2)
        if prompt is not None:
            fine = fine + prompt[0]
        fine = fine + F.interpolate(scales[2], size=fine.shape[-2:], mode="bilinear", align_corners=False)
        return PixelFeatures(self.mask_features(self.output(fine)), (scales[0], scales[1], scales[2]))
