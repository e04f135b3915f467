"""One labelled question: the record that every reader of a public data set yields and every evaluation takes.

Boxes and points are continuous pixel coordinates of the image: x right, y down, (0, 0) the outer corner of the first
pixel.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import DatasetError
from terraprompt.geometry.types import Box
from terraprompt.io.rle import RunLengths
from terraprompt.prompt import Prompt, Task
from terraprompt.raster.pictures import picture_size, read_rgb, read_values

__all__ = ["MaskFile", "NoTarget", "Polygons", "RunLengths", "Sample", "Truth", "UnionMask"]

Point = tuple[float, float]


class Truth(Protocol):
    """A mask that is read when it is asked for; frozen and picklable.

    Codings: :class:`MaskFile`, :class:`~terraprompt.io.rle.RunLengths`, :class:`Polygons`, :class:`NoTarget`, and
    :class:`UnionMask` for several of them.
    """

    def load(self) -> NDArray[np.uint8]:
        """uint8 (height, width), 1 = target, 0 = not.

        Raises:
            DatasetError: the file is missing or damaged, or the coding is broken; the message names it.
        """
        ...


@dataclass(frozen=True, slots=True)
class MaskFile:
    """A mask in a grey or palette picture, 8 or 16 bits, also TIFF.

    Attributes:
        path: the file.
        values: the grey values (palette: indices) that mean the target; empty = every value but 0.
    """

    path: Path
    values: tuple[int, ...] = ()

    def load(self) -> NDArray[np.uint8]:
        """See :class:`Truth`."""
        grey = read_values(self.path)
        return (np.isin(grey, self.values) if self.values else grey != 0).astype(np.uint8)


@dataclass(frozen=True, slots=True)
class Polygons:
    """Outlines; a pixel is inside if its centre is (outlines of the pycocotools rasteriser differ along the edge).

    Attributes:
        height, width: of the mask, pixels.
        rings: each ``(x, y, x, y, …)`` in pixels, at least three corners; the target is their union.
        name: what they belong to, for messages.
    """

    height: int
    width: int
    rings: tuple[tuple[float, ...], ...]
    name: str = ""

    def __post_init__(self) -> None:
        for ring in self.rings:
            if len(ring) < 6 or len(ring) % 2 or not np.isfinite(ring).all():
                raise DatasetError(
                    f"{self.name or 'A mask'} has an outline without three corners.", received=str(ring)[:80]
                )
        if self.height < 1 or self.width < 1:
            raise DatasetError(f"{self.name or 'A mask'} has no size.", received=f"{self.width} x {self.height}")

    def load(self) -> NDArray[np.uint8]:
        """See :class:`Truth`."""
        from rasterio.features import rasterize  # not at the top: training runs where GDAL is not

        shapes = []
        for ring in self.rings:
            corners = [[float(x), float(y)] for x, y in zip(ring[::2], ring[1::2], strict=True)]
            shapes.append({"type": "Polygon", "coordinates": [[*corners, corners[0]]]})
        if not shapes:
            return np.zeros((self.height, self.width), np.uint8)
        out: NDArray[np.uint8] = rasterize(shapes, out_shape=(self.height, self.width), dtype="uint8")
        return out


@dataclass(frozen=True, slots=True)
class NoTarget:
    """The target is not in the image.

    Attributes:
        image: whose size the empty mask has.
        mask: a label picture that must be empty too, or None.
    """

    image: Path
    mask: Path | None = None

    def load(self) -> NDArray[np.uint8]:
        """See :class:`Truth`; a label picture that is not empty is an error."""
        if self.mask is not None and read_values(self.mask).any():
            raise DatasetError("A mask is not empty although the answer is.", received=self.mask)
        width, height = picture_size(self.image)
        return np.zeros((height, width), np.uint8)


@dataclass(frozen=True, slots=True)
class UnionMask:
    """The union of several masks of one size.

    Attributes:
        parts: at least one.
    """

    parts: tuple[Truth, ...]

    def load(self) -> NDArray[np.uint8]:
        """See :class:`Truth`."""
        out = self.parts[0].load()
        for part in self.parts[1:]:
            mask = part.load()
            if mask.shape != out.shape:
                raise DatasetError("The masks of one target differ in size.", received=(out.shape, mask.shape))
            out = out | mask
        return out


@dataclass(frozen=True, slots=True)
class Sample:
    """One target in one image and what is asked about it.

    Attributes:
        id: unique in its data set and split; stable, so that predictions can be matched to it.
        image: file of the image.
        task: what kind of instruction.
        instructions: wordings of the same question, at least one for text; empty if points or boxes are all there is.
        truth: the mask; None where the data set has boxes only.
        box: labelled box ``(x0, y0, x1, y1)`` where the data set has one, else None.
        answer: what the target is, in the data set's words; empty if it says nothing, or there is no target.
        points, labels, boxes: the prompt of an interactive sample; a label is 1 on the target and 0 beside it.
        category: class name, or None.
        level: difficulty or kind within the task, as the data set names it, or None.
        split: "train", "val", "test".
        source: name of the data set, or of the part of it where that matters.
        licence: short name, or None if the data set states none.
        gsd_m: ground size of a pixel in metres, or None.
    """

    id: str
    image: Path
    task: Task
    instructions: tuple[str, ...] = ()
    truth: Truth | None = None
    box: Box | None = None
    answer: tuple[str, ...] = ()
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    category: str | None = None
    level: str | None = None
    split: str = ""
    source: str = ""
    licence: str | None = None
    gsd_m: float | None = None

    def prompt(self, index: int = 0) -> Prompt:
        """The question in wording ``index``, as an engine takes it."""
        text = self.instructions[index] if self.instructions else None
        return Prompt(text, points=self.points, labels=self.labels, boxes=self.boxes, task_override=self.task)

    def load_image(self) -> NDArray[np.uint8]:
        """RGB uint8 (height, width, 3).

        Raises:
            DatasetError: the file is missing or damaged.
        """
        return read_rgb(self.image)[0]

    def load_mask(self) -> NDArray[np.uint8]:
        """The truth, uint8 (height, width), 1 = target.

        Raises:
            DatasetError: the data set has boxes only, or the mask is missing or damaged.
        """
        if self.truth is None:
            raise DatasetError(f"Sample {self.id} has no mask.", hint="This data set has boxes: use Sample.box.")
        return self.truth.load()
