"""Points and boxes as maps: how a small model follows coordinates that its text path alone would lose."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from terraprompt.models.unigeoseg.config import DensePromptConfig

__all__ = ["DensePrompt", "draw_prompt"]

_SIGMAS = (1.5, 8.0)  # map cells; a sharp spot and a wide one that survives the coarse levels
CHANNELS = 2 * len(_SIGMAS) + 5


def draw_prompt(points: Tensor, boxes: Tensor, size: tuple[int, int], stride: int = 4) -> Tensor:
    """Draw prompts on a grid.

    Args:
        points: (B, P, 3) x, y in model pixels and label: 1 on the target, 0 not on it, -1 absent.
        boxes: (B, 4) x0, y0, x1, y1 in model pixels; a box without area is absent.
        size: (height, width) of the model image.
        stride: model pixels per map cell.

    Returns:
        (B, CHANNELS, height / stride, width / stride) float32: positive and negative spots at two widths, the share
        of each cell inside the box, x and y relative to the box (-1..1 inside, 0 outside), whether there is a box,
        whether there are points.
    """
    height, width = size[0] // stride, size[1] // stride
    device = points.device
    x = torch.arange(width, device=device) + 0.5
    y = torch.arange(height, device=device) + 0.5
    maps = []
    px, py, label = points.float().unbind(-1)
    distance2 = ((x - px[..., None] / stride) ** 2)[:, :, None, :] + ((y - py[..., None] / stride) ** 2)[:, :, :, None]
    for sigma in _SIGMAS:
        spots = torch.exp(-distance2 / (2 * sigma**2))
        for kind in (1, 0):
            maps.append((spots * (label == kind)[..., None, None]).amax(1))
    x0, y0, x1, y1 = (boxes.float() / stride).unbind(-1)
    has_box = (x1 > x0) & (y1 > y0)
    cover_x = (torch.minimum(x + 0.5, x1[:, None]) - torch.maximum(x - 0.5, x0[:, None])).clamp(0, 1)
    cover_y = (torch.minimum(y + 0.5, y1[:, None]) - torch.maximum(y - 0.5, y0[:, None])).clamp(0, 1)
    inside = cover_y[:, :, None] * cover_x[:, None, :] * has_box[:, None, None]
    u = (2 * (x - x0[:, None]) / (x1 - x0).clamp(min=1e-3)[:, None] - 1).clamp(-1, 1)[:, None, :]
    v = (2 * (y - y0[:, None]) / (y1 - y0).clamp(min=1e-3)[:, None] - 1).clamp(-1, 1)[:, :, None]
    maps += [inside, inside * u, inside * v]
    has_point = (label >= 0).any(-1)
    maps += [flag.float()[:, None, None].expand(-1, height, width) for flag in (has_box, has_point)]
    return torch.stack(maps, 1)


class DensePrompt(nn.Module):
    """Encodes prompt maps for strides 4, 8, 16, 32; exactly zero for images without points or boxes."""

    def __init__(self, config: DensePromptConfig, width: int) -> None:
        super().__init__()
        inner = config.width
        self.stem = nn.Sequential(
            nn.Conv2d(CHANNELS, inner, 3, padding=1),
            nn.GroupNorm(8, inner),
            nn.ReLU(),
            nn.Conv2d(inner, inner, 3, padding=1),
            nn.ReLU(),
        )
        self.down = nn.ModuleList(
            nn.Sequential(nn.Conv2d(inner, inner, 3, stride=2, padding=1), nn.ReLU()) for _ in range(3)
        )
        self.project = nn.ModuleList(nn.Conv2d(inner, width, 1) for _ in range(4))

    def forward(self, points: Tensor, boxes: Tensor, size: tuple[int, int]) -> list[Tensor]:
        """``points`` (B, P, 3), ``boxes`` (B, 4), see :func:`draw_prompt` -> maps (B, width, h, w), fine first."""
        maps = draw_prompt(points, boxes, size)
        active = (maps[:, -2:].flatten(1).amax(1) > 0)[:, None, None, None]
        x = self.stem(maps.to(self.project[0].weight.dtype))  # type: ignore[arg-type]
        levels = [x]
        for down in self.down:
            levels.append(down(levels[-1]))
        return [project(level) * active for project, level in zip(self.project, levels, strict=True)]
