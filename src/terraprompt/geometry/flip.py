"""Turning a picture over: rasters that are stored south up or mirrored are shown to models north up."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from terraprompt.geometry.frame import Frame
from terraprompt.geometry.types import Size
from terraprompt.prompt import Prompt

__all__ = ["Flip", "FlippedFrame"]


@dataclass(frozen=True, slots=True)
class Flip:
    """Left to right, up to down, or both; its own inverse. Sizes are (height, width), coordinates as in Frame.

    Attributes:
        left_right: the first column becomes the last.
        up_down: the first row becomes the last.
    """

    left_right: bool = False
    up_down: bool = False

    def __bool__(self) -> bool:
        return self.left_right or self.up_down

    def array(self, values: NDArray[Any]) -> NDArray[Any]:
        """An array (height, width, …) turned over; itself where nothing is flipped."""
        if not self:
            return values
        return np.ascontiguousarray(values[:: -1 if self.up_down else 1, :: -1 if self.left_right else 1])

    def points(self, xy: ArrayLike, size: Size) -> NDArray[np.float64]:
        """Points (..., 2) of an image of this size."""
        xy = np.array(xy, np.float64)
        for axis, flipped in enumerate((self.left_right, self.up_down)):
            if flipped:
                xy[..., axis] = size[1 - axis] - xy[..., axis]
        return xy

    def boxes(self, xyxy: ArrayLike, size: Size) -> NDArray[np.float64]:
        """Boxes (..., 4) of an image of this size."""
        corners = self.points(np.asarray(xyxy, np.float64).reshape(*np.shape(xyxy)[:-1], 2, 2), size)
        return np.concatenate([corners.min(axis=-2), corners.max(axis=-2)], axis=-1)

    def prompt(self, prompt: Prompt, size: Size) -> Prompt:
        """A prompt in pixels of an image of this size."""
        if not self or not prompt.is_spatial:
            return prompt
        points = self.points(np.reshape(prompt.points, (-1, 2)), size).tolist()
        boxes = self.boxes(np.reshape(prompt.boxes, (-1, 4)), size).tolist()
        return replace(prompt, points=tuple(map(tuple, points)), boxes=tuple(map(tuple, boxes)))


@dataclass(frozen=True, slots=True)
class FlippedFrame:
    """A frame whose model grid is turned over before it is looked at; only the way back to the source.

    Attributes:
        frame: from the source to the grid as it is stored.
        flip: from there to the grid that is looked at.
    """

    frame: Frame
    flip: Flip

    def points_back(self, xy: ArrayLike) -> NDArray[np.float64]:
        """Points (..., 2) of the grid that is looked at to source points."""
        return self.frame.points_back(self.flip.points(xy, self.frame.grid))

    def boxes_back(self, xyxy: ArrayLike) -> NDArray[np.float64]:
        """Boxes (..., 4) of the grid that is looked at to source boxes."""
        return self.frame.boxes_back(self.flip.boxes(xyxy, self.frame.grid))
