"""Intersection-first fusion of the two routes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError, PromptError
from terraprompt.grounding.boxes import Mode

__all__ = ["Fusion", "Rule", "fuse", "union"]

Mask = NDArray[np.bool_]
Rule = Literal["intersection", "points", "text", "points_scored_higher", "text_scored_higher", "union", "empty"]


@dataclass(frozen=True, slots=True)
class Fusion:
    """A fused mask and how it came about.

    Attributes:
        mask: bool (H, W); None when both routes were empty: there is nothing to write.
        rule: ``intersection``; ``points`` or ``text``: the other route was empty; ``points_scored_higher``,
            ``text_scored_higher``, ``union``: the routes disagreed; ``empty``: both were.
        agreement: intersection over the smaller route, 0..1; None unless both routes had pixels.
    """

    mask: Mask | None
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
    mode: Mode = "calibrated",
) -> Fusion:
    """One route empty: the other. Both with pixels: what they share (GeoSeg, fusion).

    ``official`` stops there, so that disjoint routes give an all-empty mask. ``calibrated``: when the routes share less
    than ``disagreement`` of the smaller one, the route with the higher score is taken, or the union where a score is
    unknown or both are equal.

    Args:
        by_points: (h, w), Route A; non-zero is inside; None counts as empty.
        by_text: (h, w), Route B.
        size: (height, width) of the result; routes of another size are resized by nearest neighbour.
        points_score: confidence of Route A on the scale of ``text_score``.
        text_score: confidence of Route B.
        disagreement: 0 falls back only when nothing at all is shared.

    Raises:
        ConfigError: ``disagreement``, ``size`` or ``mode`` out of range.
        PromptError: a route is not two-dimensional, or a score is not a number.
    """
    if not (0 <= disagreement <= 1 and min(size) >= 1 and mode in ("official", "calibrated")):
        raise ConfigError(
            "The options of the fusion are out of range.",
            received=f"disagreement={disagreement}, size={size}, mode={mode}",
            hint="disagreement is 0..1, size at least 1 x 1, mode official or calibrated.",
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
    smaller = min(np.count_nonzero(points), np.count_nonzero(text))
    agreement = float(np.count_nonzero(shared) / smaller)
    if mode == "official" or agreement >= max(disagreement, np.finfo(float).tiny):
        return Fusion(shared, "intersection", agreement)
    if points_score is None or text_score is None or points_score == text_score:
        return Fusion(points | text, "union", agreement)
    if points_score > text_score:
        return Fusion(points, "points_scored_higher", agreement)
    return Fusion(text, "text_scored_higher", agreement)


def union(masks: Sequence[Mask | None], *, size: tuple[int, int]) -> Mask:
    """bool (H, W): the answer of several targets; all False where none has a mask.

    Raises:
        PromptError: a mask has another size.
    """
    out = np.zeros(size, bool)
    for mask in masks:
        if mask is None:
            continue
        if mask.shape != out.shape:
            raise PromptError("The masks of the targets differ in size.", received=mask.shape, hint=f"Expected {size}.")
        out |= mask
    return out


def _sized(route: NDArray[np.generic] | None, size: tuple[int, int]) -> Mask | None:
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
