"""From the answers of overlapping tiles to one answer for the scene, a band of rows at a time.

Within half the overlap of an inner tile edge a tile has no say where another tile sees the pixel from further inside;
from there its weight ramps up across what the two may share. At the border of the scene a tile has full weight. So a
local model whose receptive radius is at most half the overlap gives the same answer tiled or whole, and no ring of
missing or faded pixels runs around the scene.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer
from terraprompt.errors import ConfigError, EngineError
from terraprompt.raster.tiles import Tile, TilePlan

__all__ = ["ABSENT", "StitchedRows", "Stitcher", "apply_presence", "axis_weights"]

#: Logit of a pixel that is surely not the target; its probability is 0 in float32 for every practical purpose.
ABSENT = -30.0


@dataclass(frozen=True, slots=True)
class StitchedRows:
    """Finished rows of the scene.

    Attributes:
        top: first row, in the scene.
        logits: float32 (height, scene width); ``ABSENT`` where invalid.
        valid: bool (height, scene width).
    """

    top: int
    logits: NDArray[np.float32]
    valid: NDArray[np.bool_]


def axis_weights(starts: tuple[int, ...], size: int, length: int, margin: int) -> tuple[NDArray[np.float32], ...]:
    """Weights along one axis: one array ``(size,)`` a tile, adding up to 1 at every one of ``length`` pixels.

    Args:
        starts: first pixel of each tile, ascending, covering ``length``.
        size: of every tile, pixels.
        length: of the axis.
        margin: pixels at an inner edge without weight.
    """
    trusted = [
        (start + margin if start > 0 else 0, start + size - margin if start + size < length else length)
        for start in starts
    ]
    total = np.zeros(length, np.float64)
    raw = []
    for i, (start, (first, last)) in enumerate(zip(starts, trusted, strict=True)):
        at = np.arange(start, start + size) + 0.5
        weight = ((at > first) & (at < last)).astype(np.float64)
        if i > 0 and (shared := trusted[i - 1][1] - first) > 0:
            weight *= np.clip((at - first) / shared, 0.0, 1.0)
        if i + 1 < len(starts) and (shared := last - trusted[i + 1][0]) > 0:
            weight *= np.clip((last - at) / shared, 0.0, 1.0)
        total[start : start + size] += weight
        raw.append(weight)
    return tuple(
        (weight / total[start : start + size]).astype(np.float32) for start, weight in zip(starts, raw, strict=True)
    )


class Stitcher:
    """Blends logits row by row of tiles; holds one row of tiles.

    Call :meth:`add` for the tiles of row 0 in any order (a tile without valid pixels may be left out), then
    :meth:`end_row`, then the same for row 1, and so on.

    Args:
        plan: the tiles.
        margin: pixels at an inner tile edge without weight; None = half the overlap. Less lets neighbours fade into
            each other over what is left of the overlap, at the price of exactness for a local model.

    Raises:
        ConfigError: a margin over half the overlap: some pixels would belong to no tile.
    """

    def __init__(self, plan: TilePlan, *, margin: int | None = None) -> None:
        most = plan.overlap // 2
        margin = most if margin is None else margin
        if not 0 <= margin <= most:
            raise ConfigError(f"The margin must be from 0 to {most}, half the overlap.", received=margin)
        self._plan = plan
        self._row = 0
        self._sum = np.zeros((plan.tile_height, plan.width), np.float32)
        columns = axis_weights(plan.xs, plan.tile_width, plan.width, margin)
        self._columns = dict(zip(plan.xs, columns, strict=True))
        self._rows = axis_weights(plan.ys, plan.tile_height, plan.height, margin)

    def add(self, tile: Tile, logits: NDArray[np.float32]) -> None:
        """Blend in the logits (tile height, tile width) of a tile of the current row."""
        weight = self._rows[self._row][:, None] * self._columns[tile.left][None, :]
        # Where a tile has no say it must not matter what it says, infinity included.
        self._sum[:, tile.left : tile.right] += np.multiply(weight, logits, out=np.zeros_like(weight), where=weight > 0)

    def end_row(self, valid: NDArray[np.bool_]) -> StitchedRows:
        """Close the current row of tiles and take the rows that no later tile touches.

        Args:
            valid: (tile height, scene width) of the current row of tiles.
        """
        plan, row = self._plan, self._row
        top = plan.ys[row]
        bottom = plan.ys[row + 1] if row + 1 < plan.rows else plan.height
        done = bottom - top
        logits = self._sum[:done].copy()
        good = valid[:done].copy()
        logits[~good] = ABSENT
        kept = len(self._sum) - done
        self._sum[:kept] = self._sum[done:]
        self._sum[kept:] = 0.0
        self._row += 1
        return StitchedRows(top, logits, good)


def apply_presence(answer: Answer, shape: tuple[int, int]) -> NDArray[np.float32]:
    """The logits of an answer, checked, and held down where the engine doubts that there is any target.

    With presence p of one half or more they stay as they are. Below, the probability of a pixel becomes
    ``p * sigmoid(logit)``: being target takes a target to be there. No pixel then reaches one half, the order of
    pixels is kept, and what is blended with a neighbouring tile stays smooth in the logits (a plain minimum would
    leave a plateau); a lower threshold still brings a doubtful target back.

    Args:
        answer: from an engine.
        shape: (height, width) that its logits must have.

    Raises:
        EngineError: another shape, NaN, or a presence that is no probability.
    """
    logits = np.asarray(answer.logits, np.float32)
    if logits.shape != shape:
        raise EngineError(f"The logits must be {shape}.", received=logits.shape)
    if np.isnan(logits).any():
        raise EngineError("The logits hold NaN.", received=f"{int(np.isnan(logits).sum())} pixels")
    logits = np.nan_to_num(logits, posinf=-ABSENT, neginf=ABSENT)
    p = answer.presence
    if p is None:
        return logits
    if not 0 <= p <= 1:
        raise EngineError("The presence must be a probability.", received=p)
    if p >= 0.5:
        return logits
    doubt = math.log(max(p, 1e-9))
    wide = logits.astype(np.float64)
    log_joint = doubt - np.logaddexp(0.0, -wide)
    held: NDArray[np.float32] = (log_joint - np.log1p(-np.exp(log_joint))).astype(np.float32)
    return np.maximum(held, np.float32(ABSENT))
