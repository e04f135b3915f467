"""The picture that a model is shown: a patch with a thin line round a region.

A line beat a filled overlay and a mask of its own in the paper (spec, section 5). It runs outside the region, so that
every pixel of the region stays as it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image as Picture
from scipy import ndimage

from terraprompt.forge.items import sources_of
from terraprompt.forge.model_settings import Line
from terraprompt.forge.pixels import read_window
from terraprompt.forge.recipe import Recipe
from terraprompt.io.rle import RunLengths
from terraprompt.vlm.conventions import View

__all__ = ["COLOURS", "PatchPictures", "outlined", "region_mask"]

COLOURS: Mapping[str, tuple[int, int, int]] = {
    "red": (255, 32, 32),
    "yellow": (255, 235, 40),
    "cyan": (0, 235, 255),
    "magenta": (255, 40, 255),
    "blue": (40, 80, 255),
    "white": (255, 255, 255),
    "black": (0, 0, 0),
}
_ROUND = np.ones((3, 3), np.bool_)


class PatchPictures:
    """Pixels of the patches of a part; neighbouring rows of one patch read them once.

    Args:
        recipe: names the sources.
    """

    def __init__(self, recipe: Recipe) -> None:
        self._roots = {source.number: source.root for source in sources_of(recipe)}
        self._last: tuple[str, NDArray[np.uint8]] | None = None

    def of(self, patch: Mapping[str, Any]) -> NDArray[np.uint8]:
        """RGB uint8 (height, width, 3) of a row of patches or regions.

        Raises:
            DatasetError: missing or damaged.
        """
        if self._last is None or self._last[0] != patch["patch"]:
            box = (patch["column"], patch["row"], patch["width"], patch["height"])
            path = self._roots[patch["number"]] / patch["image"]
            self._last = patch["patch"], read_window(path, box, bands=patch["bands"], stretch=patch["stretch"])
        return self._last[1]


def region_mask(patch: Mapping[str, Any], region: Mapping[str, Any]) -> NDArray[np.bool_]:
    """Bool (height, width) of a region of a patch."""
    return RunLengths(patch["height"], patch["width"], region["counts"]).load().astype(np.bool_)


def outlined(
    pixels: NDArray[np.uint8],
    target: NDArray[np.bool_],
    *,
    others: Sequence[NDArray[np.bool_]] = (),
    line: Line,
    side: int | None = None,
) -> NDArray[np.uint8]:
    """A picture with lines round regions.

    Args:
        pixels: RGB uint8 (height, width, 3); not changed.
        target: bool (height, width).
        others: likewise; their lines lie under that of the target.
        line: width and colours.
        side: the picture is made smaller first until its longer side is at most so many pixels, so that the line
            keeps its width.

    Returns:
        RGB uint8, of the size shown.
    """
    shown = pixels.copy() if side is None else View("fit", side=side).shown(pixels).copy()
    height, width = shown.shape[:2]
    for mask, colour in [*((other, line.others) for other in others), (target, line.target)]:
        if mask.shape != (height, width):
            # every pixel that the region touches, so that a narrow one does not break up
            small = Picture.fromarray(mask.astype(np.uint8) * 255).resize((width, height), Picture.Resampling.BOX)
            mask = np.asarray(small) > 0
        ring = ndimage.binary_dilation(mask, _ROUND, iterations=line.width) & ~mask
        shown[ring] = COLOURS[colour]
    return shown
