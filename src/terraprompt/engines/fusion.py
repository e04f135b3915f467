"""Intersection-first fusion of the two routes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError, PromptError
from terraprompt.geometry.types import Bools
from terraprompt.vlm.box_refinement import Mode

__all__ = ["Fusion", "Measure", "Rule", "fuse"]

#: How agreement is measured: the share of the smaller route that both hold, or the IoU of the two.
Measure = Literal["smaller", "iou"]
Rule = Literal["intersection", "points", "text", "points_scored_higher", "text_scored_higher", "union", "empty"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """A fused mask and how it came about.

    Attributes:
        mask: bool (H, W); None when both routes were empty: there is nothing to write.
        rule: ``intersection``; ``points`` or ``text``: the other route was empty; ``points_scored_higher``,
            ``text_scored_higher``, ``union``: the routes disagreed; ``empty``: both were.
        agreement: of the routes, 0..1, as it was measured; None unless both routes had pixels.
    """

    mask: Bools | None
    rule: Rule
    agreement: float | None = None


def fuse(
    by_points: NDArray[np.generic] | None,
    by_text: NDArray[np.generic] | None,
    *,
    size: tuple[int, int],
    points_score: float | None = None,
    text_score: float | None = None,
    disagreement: float = 0.1,
    measure: Measure = "smaller",
    mode: Mode = "calibrated",
) -> Fusion:
    """One route empty: the other. Both with pixels: what they share (GeoSeg, fusion).

    ``official`` stops there, so that disjoint routes give an all-empty mask. ``calibrated``: when the routes agree less
    than ``disagreement``, the route with the higher score is taken, or the union where a score is unknown or both are
    equal. By the IoU also a route that found only a part of what the other found disagrees; by the smaller route not.

    Args:
        by_points: (h, w), Route A; non-zero is inside; None counts as empty.
        by_text: (h, w), Route B.
        size: (height, width) of the result; routes of another size are resized by nearest neighbour.
        points_score: confidence of Route A on the scale of ``text_score``.
        text_score: confidence of Route B.
        disagreement: 0 falls back only when nothing at all is shared.
        measure: of agreement: shared pixels over those of the smaller route, or over those of both (IoU).
        mode: "official" or "calibrated", see above.

    Raises:
        ConfigError: ``disagreement``, ``size`` or ``mode`` out of range.
        PromptError: a route is not two-dimensional, or a score is not a number.
    """
    known = mode in ("official", "calibrated") and measure in ("smaller", "iou")
    if not (0 <= disagreement <= 1 and min(size) >= 1 and known):
        raise ConfigError(
            "The options of the fusion are out of range.",
            received=f"disagreement={disagreement}, measure={measure}, size={size}, mode={mode}",
            hint="disagreement is 0..1, measure smaller or iou, size at least 1 x 1, mode official or calibrated.",
        )
    for score in (points_score, text_score):
        if score is not None and not np.isfinite(score):
            raise PromptError("A route's score must be a finite number.", received=score, hint="Use None if unknown.")
    points, text = _sized(by_points, size), _sized(by_text, size)
    if points is None or text is None:
        if points is not None:
            return Fusion(points, "points")
        return Fusion(None, "empty") if text is None else Fusion(text, "text")
    shared = points & text
    counts = np.count_nonzero(points), np.count_nonzero(text), np.count_nonzero(shared)
    agreement = float(counts[2] / (min(counts[:2]) if measure == "smaller" else counts[0] + counts[1] - counts[2]))
    if mode == "official" or agreement >= max(disagreement, np.finfo(float).tiny):
        return Fusion(shared, "intersection", agreement)
    if points_score is None or text_score is None or points_score == text_score:
        return Fusion(points | text, "union", agreement)
    if points_score > text_score:
        return Fusion(points, "points_scored_higher", agreement)
    return Fusion(text, "text_scored_higher", agreement)


def _sized(route: NDArray[np.generic] | None, size: tuple[int, int]) -> Bools | None:
    """The route as bool at ``size``, None when it has no pixel."""
    if route is None:
        return None
    if route.ndim != 2 or not route.size:
        raise PromptError("A route's mask must be (h, w).", received=f"shape {route.shape}", hint="Give one mask.")
    rows, columns = (
        np.minimum((np.arange(wanted) * (have / wanted)).astype(np.int64), have - 1)  # OpenCV's nearest: no half pixel
        for wanted, have in zip(size, route.shape, strict=True)
    )
    inside = (route != 0)[rows[:, None], columns]
    return inside if inside.any() else None
