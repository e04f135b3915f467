"""Pictures as the Qwen-VL family takes them: a list of patches in the order of its merged tokens.

Written from the layout of the Qwen2-VL report, so that no torchvision is needed: sides become multiples of patch times
merge, colours are normalised, and patches are listed merge block by merge block, each block row by row; a patch is
flattened as (channel, time, y, x), the still image standing for every frame of its time step.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import CheckpointError
from terraprompt.vlm.conventions import View

__all__ = ["QwenVision"]

_CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
_CLIP_STD = (0.26862954, 0.26130258, 0.27577711)
_HALF = (0.5, 0.5, 0.5)
#: (mean, std) where the checkpoint says nothing.
_COLOURS = {"qwen2_5_vl": (_CLIP_MEAN, _CLIP_STD), "qwen3_vl": (_HALF, _HALF)}


@dataclass(frozen=True, slots=True)
class QwenVision:
    """How a checkpoint cuts pictures.

    Attributes:
        patch: side of a patch in pixels.
        merge: patches a side that become one token.
        frames: of a time step.
        mean, std: of the three channels, of values 0..1.
        min_pixels, max_pixels: area of the resized picture.
    """

    patch: int
    merge: int
    frames: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    min_pixels: int = 56 * 56
    max_pixels: int = 28 * 28 * 1280

    @classmethod
    def of(cls, family: str, vision: Any, stored: dict[str, Any]) -> QwenVision:
        """From a checkpoint.

        Args:
            family: "qwen2_5_vl" or "qwen3_vl".
            vision: ``vision_config`` of the model.
            stored: of ``preprocessor_config.json``; {} if there is none.

        Raises:
            CheckpointError: the two contradict each other, or the values make no sense.
        """
        patch, merge, frames = vision.patch_size, vision.spatial_merge_size, vision.temporal_patch_size
        said = (stored.get("patch_size", patch), stored.get("merge_size", merge))
        if said != (patch, merge):
            raise CheckpointError(
                "The picture settings of the checkpoint do not fit its model.", received=(said, (patch, merge))
            )
        mean, std = _COLOURS[family]
        size = stored.get("size") or {}
        try:
            return cls(
                int(patch),
                int(merge),
                int(frames),
                tuple(float(v) for v in stored.get("image_mean") or mean),
                tuple(float(v) for v in stored.get("image_std") or std),
                int(stored.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
                int(stored.get("max_pixels") or size.get("longest_edge") or 28 * 28 * 1280),
            )
        except (TypeError, ValueError, AttributeError):
            raise CheckpointError("The picture settings of the checkpoint make no sense.", received=stored) from None

    @property
    def factor(self) -> int:
        """Sides are multiples of this; also the side of the area that one token stands for."""
        return self.patch * self.merge

    @property
    def view(self) -> View:
        """The size at which a picture is seen, as a view."""
        return View("smart", factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)

    def patches(self, image: NDArray[np.uint8]) -> tuple[NDArray[np.float32], tuple[int, int, int]]:
        """Cut a picture; it is resized where its sides are no multiples of :attr:`factor` or its area is out of bounds.

        Args:
            image: RGB uint8 (height, width, 3).

        Returns:
            Patches float32 (n, 3 * frames * patch * patch) and their grid (1, rows, columns), n = rows * columns.
        """
        image = self.view.shown(image)
        p, m = self.patch, self.merge
        rows, columns = int(image.shape[0]) // p, int(image.shape[1]) // p
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        colours = ((image.astype(np.float32) / np.float32(255) - mean) / std).astype(np.float32)
        blocks = colours.reshape(rows // m, m, p, columns // m, m, p, 3)
        # (block row, block column, row in it, column in it, channel, y, x)
        ordered = blocks.transpose(0, 3, 1, 4, 6, 2, 5)[:, :, :, :, :, None]
        still: NDArray[np.float32] = np.broadcast_to(ordered, (*ordered.shape[:5], self.frames, p, p))
        return np.ascontiguousarray(still).reshape(rows * columns, -1), (1, rows, columns)

    def tokens(self, grid: tuple[int, int, int]) -> int:
        """How many image tokens a grid becomes."""
        return grid[0] * grid[1] * grid[2] // self.merge**2
