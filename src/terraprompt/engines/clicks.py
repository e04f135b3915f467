"""Clicks out of a similarity map (GeoSeg, Route A)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from terraprompt.errors import ConfigError, PromptError
from terraprompt.vlm.box_refinement import Mode

__all__ = ["Clicks", "clicks"]


@dataclass(frozen=True, slots=True)
class Clicks:
    """Points (N, 2) float64 xy in pixels of the map's image, and labels (N,) int64, 1 inside and 0 outside."""

    points: NDArray[np.float64]
    labels: NDArray[np.int64]

    @property
    def inside(self) -> NDArray[np.float64]:
        """(P, 2) positive points, the weakest first; what GeoSeg hands on, its negatives are dropped."""
        positives: NDArray[np.float64] = self.points[: len(self.labels)][self.labels == 1]
        return positives


def clicks(
    similarity: NDArray[np.float32],
    size: tuple[int, int],
    *,
    threshold: float = 0.8,
    factor: int = 2,
    mode: Mode = "calibrated",
) -> Clicks:
    """Cells of the down-sampled, min-max normalised map that reach ``threshold``, and as many of the least similar.

    Positives come first, then negatives, each in ascending similarity. Positives are at most half of the cells (128 on
    the 16 x 16 grid of GeoSeg).

    ``official``: points are pixel indices, cut to whole numbers. A map without contrast gives every cell and no label,
    as the release does. ``calibrated``: points are continuous coordinates of the cells' centres, and a map without
    contrast gives no point, so that Route A is empty.

    Args:
        similarity: (h, w) raw similarity of one phrase, any range.
        size: (height, width) of the image, or crop, that the map covers.
        threshold: share of the map's range, 0..1.
        factor: down-sampling before the choice (bilinear); 1 keeps the map.
        mode: "official" or "calibrated", see above.

    Raises:
        PromptError: the map is empty or not finite.
        ConfigError: an option is out of range.
    """
    if similarity.ndim != 2 or not similarity.size or not np.isfinite(similarity).all():
        raise PromptError(
            "A similarity map must be a finite (h, w) array.",
            received=f"shape {similarity.shape}",
            hint="Give the map of one phrase on one image.",
        )
    if not (0 <= threshold <= 1 and factor >= 1 and min(size) >= 1 and mode in ("official", "calibrated")):
        raise ConfigError(
            "The options of the clicks are out of range.",
            received=f"threshold={threshold}, factor={factor}, size={size}, mode={mode}",
            hint="threshold is 0..1, factor at least 1, size at least 1 x 1, mode official or calibrated.",
        )
    rows, columns = (max(1, side // factor) for side in similarity.shape)
    cells = torch.from_numpy(np.ascontiguousarray(similarity, np.float32))[None, None]
    cells = F.interpolate(cells, (rows, columns), mode="bilinear", align_corners=False).flatten()
    span = cells.max() - cells.min()
    if span == 0:
        every = _places(torch.arange(len(cells)), columns, rows, size, mode)
        return Clicks(every if mode == "official" else every[:0], np.zeros(0, np.int64))
    share = (cells - cells.min()) / span
    order = share.argsort(stable=True)
    count = min(int((share >= threshold).sum()), len(cells) // 2)  # at least 1: there are two cells that differ
    chosen = torch.cat([order[-count:], order[:count]])
    labels = np.repeat(np.array([1, 0], np.int64), count)
    return Clicks(_places(chosen, columns, rows, size, mode), labels)


def _places(cells: torch.Tensor, columns: int, rows: int, size: tuple[int, int], mode: Mode) -> NDArray[np.float64]:
    x = (cells % columns).double().add(0.5).mul(size[1]).div(columns)
    y = (cells // columns).double().add(0.5).mul(size[0]).div(rows)
    places: NDArray[np.float64] = torch.stack([x, y], dim=1).numpy()
    return np.floor(places) if mode == "official" else places
