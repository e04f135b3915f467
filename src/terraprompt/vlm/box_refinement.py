"""Bias-aware coordinate refinement: an answered box, corrected, clamped and made large enough to crop."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from terraprompt.errors import ConfigError, PromptError
from terraprompt.geometry.boxes import Box

__all__ = ["FIXED_ALPHA", "FIXED_BETA", "Correction", "Mode", "Refined", "clamped_to_pixels", "refine"]

Mode = Literal["official", "calibrated"]

#: The release's constants: share of the side that is added at the top left and at the bottom right.
FIXED_ALPHA = 0.2
FIXED_BETA = 0.1


@dataclass(frozen=True, slots=True)
class Refined:
    """One box on its way to the segmenters; xyxy in image pixels, all inside the image.

    Attributes:
        plain: the answered box, clamped.
        expanded: the corrected box; a mask may only lie in here. ``official`` gives it to the point route.
        crop: whole pixels, at least ``min_side`` wide and high where possible; what the text route crops.
    """

    plain: Box
    expanded: Box
    crop: tuple[int, int, int, int]


@dataclass(frozen=True, slots=True)
class Correction:
    """Constants of :func:`refine`."""

    mode: Mode = "calibrated"
    alpha: float = 0.0
    beta: float = 0.0

    @classmethod
    def official(cls, *, refined: bool = True) -> Correction:
        """The release's constants; zeros where boxes shall not be refined."""
        return cls("official", FIXED_ALPHA, FIXED_BETA) if refined else cls("official")

    def apply(self, box: Box, size: tuple[int, int]) -> Refined:
        """See :func:`refine`."""
        return refine(box, size, alpha=self.alpha, beta=self.beta, mode=self.mode)


def refine(
    box: Box,
    size: tuple[int, int],
    *,
    alpha: float = FIXED_ALPHA,
    beta: float = FIXED_BETA,
    min_side: int = 16,
    mode: Mode = "calibrated",
) -> Refined:
    """``(x1 - alpha w, y1 - alpha h, x2 + beta w, y2 + beta h)``, clamped (GeoSeg, coordinate refinement).

    ``official``: the box is cut to whole pixels and clamped first, the additions are cut to whole pixels, and where
    either side is under ``min_side`` both are re-centred to it and clamped: a long thin box keeps its middle alone, and
    a side stays short near the border.
    ``calibrated``: real numbers; corrected before it is clamped, since a shifted box may hang out of the image; corners
    may come in any order; a short side is moved inwards at the border, and is short only where the image is.

    Args:
        box: xyxy in image pixels.
        size: (height, width) of the image.
        alpha: share of the box's width and height added to the left and the top; negative shrinks.
        beta: the same at the right and the bottom; ``alpha + beta`` must be over -1.
        min_side: shortest side of the crop, pixels.
        mode: "official" or "calibrated", see above.

    Raises:
        PromptError: a number is not finite, or, ``calibrated`` only, the corrected box lies outside the image.
        ConfigError: size, constants or min_side are out of range.
    """
    height, width = int(size[0]), int(size[1])
    if height < 1 or width < 1:
        raise ConfigError("An image must be at least 1 x 1 pixels.", received=size)
    if min_side < 1:
        raise ConfigError("The shortest side of a crop must be at least 1 pixel.", received=min_side)
    if not (math.isfinite(alpha) and math.isfinite(beta) and alpha + beta > -1):
        raise ConfigError(
            "The correction would turn boxes inside out.",
            received=f"alpha={alpha}, beta={beta}",
            hint="alpha + beta must be over -1.",
        )
    if len(box) != 4 or not np.isfinite(box).all():
        raise PromptError("A box needs four finite numbers.", received=box, hint="Give x1, y1, x2, y2 in pixels.")
    if mode == "official":
        return _official(box, (height, width), alpha, beta, min_side)
    if mode == "calibrated":
        return _calibrated(box, (height, width), alpha, beta, min_side)
    raise ConfigError("There is no such mode.", received=mode, hint="Use official or calibrated.")


def clamped_to_pixels(box: Box, size: tuple[int, int]) -> tuple[int, int, int, int]:
    """The release's clamp: whole pixels, at least one pixel wide and high; reversed corners collapse on the first."""
    x1, x2 = _span(box[0], box[2], size[1])
    y1, y2 = _span(box[1], box[3], size[0])
    return x1, y1, x2, y2


def _span(first: float, last: float, side: int) -> tuple[int, int]:
    start = min(max(int(first), 0), side - 1)
    return start, max(min(int(last), side), start + 1)


def _official(box: Box, size: tuple[int, int], alpha: float, beta: float, min_side: int) -> Refined:
    plain = clamped_to_pixels(box, size)
    expanded, crop = [0, 0, 0, 0], [0, 0, 0, 0]
    for axis, side in enumerate((size[1], size[0])):
        first, last = plain[axis], plain[axis + 2]
        first, last = first - int(alpha * (last - first)), last + int(beta * (last - first))
        expanded[axis], expanded[axis + 2] = _span(first, last, side)
    thin = min(expanded[2] - expanded[0], expanded[3] - expanded[1]) < min_side
    for axis, side in enumerate((size[1], size[0])):
        first, last = expanded[axis], expanded[axis + 2]
        if thin:
            centre = (first + last) // 2
            first, last = max(centre - min_side // 2, 0), min(centre + min_side // 2, side)
        crop[axis], crop[axis + 2] = first, last
    return Refined(plain, _four(expanded), _four(crop))


def _four(values: list[int]) -> tuple[int, int, int, int]:
    return values[0], values[1], values[2], values[3]


def _calibrated(box: Box, size: tuple[int, int], alpha: float, beta: float, min_side: int) -> Refined:
    plain, expanded, crop = [0.0] * 4, [0.0] * 4, [0] * 4
    for axis, side in enumerate((size[1], size[0])):
        first, last = sorted((float(box[axis]), float(box[axis + 2])))
        plain[axis], plain[axis + 2] = min(max(first, 0.0), side), min(max(last, 0.0), side)
        first, last = first - alpha * (last - first), last + beta * (last - first)
        if first >= side or last <= 0:
            raise PromptError(
                "The box lies outside the image.",
                received=f"{tuple(box)} in an image of {size[1]} x {size[0]} (width x height)",
                hint="Was the answer read in the right coordinate convention (pixels, 0..1000, 0..1)?",
            )
        expanded[axis], expanded[axis + 2] = max(first, 0.0), min(last, float(side))
        crop[axis], crop[axis + 2] = _at_least(expanded[axis], expanded[axis + 2], side, min_side)
    return Refined(
        (plain[0], plain[1], plain[2], plain[3]), (expanded[0], expanded[1], expanded[2], expanded[3]), _four(crop)
    )


def _at_least(first: float, last: float, side: int, min_side: int) -> tuple[int, int]:
    """Whole pixels that hold the span, widened about its centre and moved inside."""
    start = min(math.floor(first), side - 1)
    stop = max(math.ceil(last), start + 1)
    if (wanted := min(min_side, side)) > stop - start:
        start = math.floor((first + last) / 2 - wanted / 2)
        start = min(max(start, 0), side - wanted)
        stop = start + wanted
    return start, stop
