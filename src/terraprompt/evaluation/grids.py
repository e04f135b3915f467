"""The grids that published evaluators compare masks on, and how a mask gets there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import ConfigError
from terraprompt.geometry.frame import Frame
from terraprompt.geometry.types import Mask

__all__ = ["Grid"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where masks are compared.

    Attributes:
        kind: "native": as they are; "letterbox": longer side to ``size``, the other ``int(side * size / longer)``,
            nearest pixel as OpenCV takes it (source pixel ``floor(i * scale)``); "stretch": to a square of ``size``,
            aspect ratio not kept, nearest pixel as Pillow takes it (source pixel ``floor((i + 0.5) * scale)``).
        size: pixels; 0 for "native".
    """

    kind: Literal["native", "letterbox", "stretch"] = "native"
    size: int = 0

    def __post_init__(self) -> None:
        if (self.kind == "native") != (self.size == 0) or self.size < 0:
            raise ConfigError("A grid other than native needs a size.", received=(self.kind, self.size))

    def joins(self, one: tuple[int, ...], other: tuple[int, ...]) -> bool:
        """Whether masks of two shapes can be compared: alike, or stretched to one square whatever they are."""
        return one == other or self.kind == "stretch"

    def __str__(self) -> str:
        return self.kind if self.kind == "native" else f"{self.size} {self.kind}"

    def put(self, mask: Mask) -> Mask:
        """A mask (H, W) on this grid, same dtype. Letterbox padding is left out: it is empty on both sides."""
        if self.kind == "native":
            return mask
        if self.kind == "stretch":
            return np.asarray(Image.fromarray(mask).resize((self.size, self.size), Image.Resampling.NEAREST))
        height, width = mask.shape
        content = Frame.letterbox((height, width), self.size).content
        return mask[_nearest(height, content[0])[:, None], _nearest(width, content[1])]


def _nearest(count: int, wanted: int) -> NDArray[np.int64]:
    """Source pixel of each target pixel by OpenCV's INTER_NEAREST, with its two divisions in double precision."""
    step = 1.0 / (wanted / count)
    return np.asarray(np.floor(np.arange(wanted) * step).clip(max=count - 1), np.int64)
