"""Images on the grids that SAM-type models see, without torchvision."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from terraprompt.geometry.frame import Frame

__all__ = ["IMAGENET", "PLAIN", "Normalisation", "PixelGrid"]


@dataclass(frozen=True, slots=True)
class Normalisation:
    """``(value / 255 - mean) / std`` for each of the three bands."""

    mean: tuple[float, ...]
    std: tuple[float, ...]


IMAGENET = Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # SAM, SAM-HQ, SAM2
PLAIN = Normalisation((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # SAM3


@dataclass(frozen=True, slots=True)
class PixelGrid:
    """How an image reaches a model: resized (antialiased bilinear, 8 bits), normalised, padded.

    Attributes:
        size: side of the square grid.
        keep_aspect: True: the longer side becomes ``size``, the rest below and to the right is zero after
            normalisation (SAM, SAM-HQ). False: both sides are stretched to ``size`` (SAM2, SAM3).
        normalisation: of the bands.
    """

    size: int
    keep_aspect: bool
    normalisation: Normalisation

    def frame(self, source: tuple[int, int]) -> Frame:
        """The map of an image of ``source`` (height, width) onto the grid."""
        if not self.keep_aspect:
            return Frame.stretch(source, (self.size, self.size))
        height, width = source
        scale = self.size / max(height, width)
        # rounded half up, as in SAM; at least one pixel, where SAM's own rounding would leave none
        content = (max(1, int(height * scale + 0.5)), max(1, int(width * scale + 0.5)))
        whole = (0.0, 0.0, float(width), float(height))
        return Frame((height, width), whole, content, (0, 0), (self.size, self.size))

    def pixels(self, image: NDArray[np.uint8]) -> Tensor:
        """(H, W, 3) uint8 to float32 (3, size, size)."""
        frame = self.frame((image.shape[0], image.shape[1]))
        height, width = frame.content
        resized = _by_pillow if self.keep_aspect else _by_torch
        mean = torch.tensor(self.normalisation.mean)[:, None, None]
        std = torch.tensor(self.normalisation.std)[:, None, None]
        out = torch.zeros(3, *frame.grid)
        out[:, :height, :width] = (resized(image, height, width).float() / 255 - mean) / std
        return out


# Both average over what a pixel covers and round to 8 bits, and differ by one in some pixels: SAM's authors used
# Pillow, the processors of SAM2 and SAM3 call torch.


def _by_pillow(image: NDArray[np.uint8], height: int, width: int) -> Tensor:
    small = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
    return torch.from_numpy(np.array(small)).permute(2, 0, 1)


def _by_torch(image: NDArray[np.uint8], height: int, width: int) -> Tensor:
    bands = torch.from_numpy(np.ascontiguousarray(image.transpose(2, 0, 1)))[None]
    return F.interpolate(bands, (height, width), mode="bilinear", align_corners=False, antialias=True)[0]
