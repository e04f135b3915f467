"""MobileSAM (arXiv 2306.14289): SAM's prompt encoder and mask decoder behind a TinyViT encoder (arXiv 2207.10666).

For inference: every batch norm of the encoder is folded into the convolution before it.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.sam.configuration_sam import SamConfig
from transformers.models.sam.modeling_sam import SamLayerNorm, SamModel, SamVisionEncoderOutput

__all__ = ["MobileSam", "MobileSamConfig", "TinyViT"]


class MobileSamConfig(SamConfig):  # type: ignore[misc] # transformers has no types
    """SAM's, whose ``vision_config`` keeps the size of image and embedding, and the size of the encoder.

    Attributes:
        widths: channels of the four stages.
        depths: blocks of the four stages.
        heads: attention heads; the first stage is convolutional and uses none.
        windows: side of an attention window in tokens.
    """

    model_type = "mobile_sam"
    vision_config: Any = None
    mask_decoder_config: Any = None
    widths: list[int] = field(default_factory=lambda: [64, 128, 160, 320])
    depths: list[int] = field(default_factory=lambda: [2, 2, 6, 2])
    heads: list[int] = field(default_factory=lambda: [2, 4, 5, 10])
    windows: list[int] = field(default_factory=lambda: [7, 7, 14, 7])

    def __post_init__(self, **kwargs: Any) -> None:
        # SamModel builds a ViT before TinyViT takes its place: one without layers
        if self.vision_config is None or isinstance(self.vision_config, dict):
            none = {"num_hidden_layers": 0, "hidden_size": 8, "num_attention_heads": 1}
            self.vision_config = none | (self.vision_config or {})
        if self.mask_decoder_config is None or isinstance(self.mask_decoder_config, dict):
            # of the release; that of transformers is 1e-6
            self.mask_decoder_config = {"layer_norm_eps": 1e-5} | (self.mask_decoder_config or {})
        super().__post_init__(**kwargs)


class MobileSam(SamModel):  # type: ignore[misc]
    """``SamModel`` with :class:`TinyViT` as its ``vision_encoder``."""

    config_class = MobileSamConfig

    def __init__(self, config: MobileSamConfig) -> None:
        super().__init__(config)
        self.vision_encoder = TinyViT(config)


class TinyViT(nn.Module):
    """Images (B, 3, S, S) to embeddings (B, C, S / 16, S / 16); parts are named as in the released checkpoint."""

    def __init__(self, config: MobileSamConfig) -> None:
        super().__init__()
        widths, out = config.widths, config.vision_config.output_channels
        first = nn.Sequential(
            nn.Conv2d(3, widths[0] // 2, 3, 2, 1), nn.GELU(), nn.Conv2d(widths[0] // 2, widths[0], 3, 2, 1)
        )
        self.patch_embed = nn.Sequential(OrderedDict(seq=first))
        self.layers = nn.ModuleList()
        for i, (width, depth) in enumerate(zip(widths, config.depths, strict=True)):
            blocks: list[nn.Module] = [
                _Block(width, config.heads[i], config.windows[i]) if i else _MBConv(width) for _ in range(depth)
            ]
            parts = OrderedDict[str, nn.Module](blocks=nn.Sequential(*blocks))
            if i < 3:  # the last of the three keeps stride 16, for SAM's decoder
                parts["downsample"] = _Downsample(width, widths[i + 1], stride=1 if i == 2 else 2)
            self.layers.append(nn.Sequential(parts))
        self.neck = nn.Sequential(
            nn.Conv2d(widths[3], out, 1, bias=False),
            SamLayerNorm(out, eps=1e-6, data_format="channels_first"),
            nn.Conv2d(out, out, 3, padding=1, bias=False),
            SamLayerNorm(out, eps=1e-6, data_format="channels_first"),
        )

    def forward(self, pixel_values: Tensor, **_: Any) -> SamVisionEncoderOutput:
        """Encode normalised images; see the class."""
        x = self.patch_embed(pixel_values)
        for layer in self.layers:
            x = layer(x)
        return SamVisionEncoderOutput(last_hidden_state=self.neck(x))


class _MBConv(nn.Module):
    """Inverted bottleneck of expansion 4."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, 4 * width, 1)
        self.conv2 = nn.Conv2d(4 * width, 4 * width, 3, padding=1, groups=4 * width)
        self.conv3 = nn.Conv2d(4 * width, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        return F.gelu(x + self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x))))))


class _Downsample(nn.Module):
    def __init__(self, width: int, out: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 1)
        self.conv2 = nn.Conv2d(out, out, 3, stride, 1, groups=out)
        self.conv3 = nn.Conv2d(out, out, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H / stride, W / stride)."""
        out: Tensor = self.conv3(F.gelu(self.conv2(F.gelu(self.conv1(x)))))
        return out


class _Block(nn.Module):
    """Window attention, a depthwise convolution, a perceptron."""

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.attn = _Attention(width, heads, window)
        self.local_conv = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = nn.Sequential(
            OrderedDict(
                norm=nn.LayerNorm(width),
                fc1=nn.Linear(width, 4 * width),
                act=nn.GELU(),
                fc2=nn.Linear(4 * width, width),
            )
        )

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        x = self.local_conv(x + self.attn(x))
        out: Tensor = x + self.mlp(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        return out


class _Attention(nn.Module):
    """Attention inside windows, with one learned bias a head and distance (rows, columns).

    The map is padded with zeros below and to the right; padding is attended to, as in the release.
    """

    def __init__(self, width: int, heads: int, window: int) -> None:
        super().__init__()
        self.heads, self.window = heads, window
        self.norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.attention_biases = nn.Parameter(torch.zeros(heads, window * window))

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same."""
        batch, width, height, across = x.shape
        side = self.window
        x = F.pad(x, (0, -across % side, 0, -height % side))
        rows, columns = x.shape[2] // side, x.shape[3] // side
        x = x.view(batch, width, rows, side, columns, side).permute(0, 2, 4, 3, 5, 1).reshape(-1, side * side, width)
        qkv = self.qkv(self.norm(x)).view(len(x), side * side, self.heads, 3, width // self.heads)
        q, k, v = qkv.permute(3, 0, 2, 1, 4)
        x = F.scaled_dot_product_attention(q, k, v, attn_mask=self._bias(x.device))
        x = self.proj(x.transpose(1, 2).reshape(len(x), side * side, width))
        x = x.view(batch, rows, columns, side, side, width).permute(0, 5, 1, 3, 2, 4)
        return x.reshape(batch, width, rows * side, columns * side)[:, :, :height, :across]

    def _bias(self, device: torch.device) -> Tensor:
        """(heads, N, N): the bias of a pair of tokens is that of its distance, in rows and columns."""
        at = torch.arange(self.window, device=device)
        apart = (at[:, None] - at).abs()
        index = apart[:, None, :, None] * self.window + apart[None, :, None, :]
        return self.attention_biases[:, index.flatten(0, 1).flatten(1)]
