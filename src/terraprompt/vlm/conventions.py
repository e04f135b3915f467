"""What the numbers of a reasoner mean, and what it is shown: frozen values, exact both ways.

Three units are in use: absolute pixels of the image that the model saw (Qwen2.5-VL; Think2Seg-RS), a grid of 0..1000
(Qwen3-VL, InternVL) and fractions 0..1 (LLaVA). Read in the wrong one, boxes are shifted and scaled: on an image of
800 pixels a 0..1000 answer taken for pixels lies a quarter too far right and down.

Source coordinates are continuous pixels of the image that was asked about: x right, y down, (0, 0) the outer corner.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from terraprompt.errors import ConfigError
from terraprompt.geometry.frame import Frame
from terraprompt.geometry.types import Size
from terraprompt.vlm.answer_parser import Instance, ParsedAnswer

__all__ = [
    "FAMILIES",
    "Convention",
    "RawAnswer",
    "Units",
    "View",
    "check_image",
    "family_convention",
    "smart_size",
]


class Units(StrEnum):
    """In what a reasoner measures; ``AUTO`` means that it must be found out."""

    PIXELS = "pixels"
    UNIT = "0..1"
    THOUSAND = "0..1000"
    AUTO = "auto"

    def extent(self, shown: Size) -> tuple[float, float]:
        """Largest (x, y) of an image that is shown at ``shown`` (height, width); not of ``AUTO``."""
        fixed = {Units.UNIT: (1.0, 1.0), Units.THOUSAND: (1000.0, 1000.0)}
        return fixed.get(self) or (float(shown[1]), float(shown[0]))


def check_image(image: NDArray[np.uint8]) -> Size:
    """(height, width) of an image; a ConfigError unless it is uint8 (height, width, 3) with at least one pixel."""
    if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
        raise ConfigError("An image must be uint8 (height, width, 3).", received=(image.dtype, image.shape))
    return image.shape[0], image.shape[1]


def smart_size(size: Size, *, factor: int, min_pixels: int, max_pixels: int) -> Size:
    """Sides that are multiples of ``factor``, the area within bounds, the aspect ratio about kept (Qwen2-VL report).

    Raises:
        ConfigError: an image more than 200 times as long as wide.
    """
    height, width = size
    if max(size) > 200 * min(size):
        raise ConfigError("The image is too narrow for this reasoner.", received=size, hint="Cut it into tiles.")
    sides = [round(side / factor) * factor for side in size]
    if sides[0] * sides[1] > max_pixels:
        shrink = math.sqrt(height * width / max_pixels)
        sides = [max(factor, math.floor(side / shrink / factor) * factor) for side in size]
    elif sides[0] * sides[1] < min_pixels:
        grow = math.sqrt(min_pixels / (height * width))
        sides = [math.ceil(side * grow / factor) * factor for side in size]
    return sides[0], sides[1]


@dataclass(frozen=True, slots=True)
class View:
    """At which size a reasoner is shown an image.

    Attributes:
        kind: "square": stretched to ``side`` x ``side``; "smart": as :func:`smart_size`; "fit": made smaller until the
            longer side is at most ``side``, never larger.
        side: pixels, of "square" and "fit".
        factor, min_pixels, max_pixels: of "smart".
    """

    kind: Literal["square", "smart", "fit"]
    side: int = 1024
    factor: int = 28
    min_pixels: int = 256 * 256
    max_pixels: int = 1280 * 28 * 28

    def __post_init__(self) -> None:
        if self.kind not in ("square", "smart", "fit"):
            raise ConfigError("Unknown view.", received=self.kind, hint="Known: square, smart, fit.")
        if min(self.side, self.factor, self.min_pixels) < 1 or self.max_pixels < self.factor**2:
            raise ConfigError("A view needs positive sizes.", received=self)

    def size(self, source: Size) -> Size:
        """(height, width) that an image of ``source`` (height, width) is shown at."""
        if min(source) < 1:
            raise ConfigError("An image must be at least 1 x 1 pixels.", received=source)
        if self.kind == "square":
            return self.side, self.side
        if self.kind == "smart":
            return smart_size(source, factor=self.factor, min_pixels=self.min_pixels, max_pixels=self.max_pixels)
        shrink = min(1.0, self.side / max(source))
        return max(1, round(source[0] * shrink)), max(1, round(source[1] * shrink))

    def shown(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The image uint8 (height, width, 3) as the reasoner sees it, bicubic."""
        check_image(image)
        height, width = self.size((image.shape[0], image.shape[1]))
        if (height, width) == image.shape[:2]:
            return image
        return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))


@dataclass(frozen=True, slots=True)
class Convention:
    """How to read a reasoner's coordinates.

    Attributes:
        units: what it measures in.
        view: what it is shown; in :attr:`Units.PIXELS` the answer is in pixels of that.
        y_first: coordinates are written y, x.
        scale: answered numbers are this many times the units (a server that shrinks pictures: below 1; a grid of 0..999
            or 0..100 in units of 0..1000).
        assumed: told by the name of the model alone; see :func:`terraprompt.vlm.probe.settled_convention`.
    """

    units: Units
    view: View
    y_first: bool = False
    scale: float = 1.0
    assumed: bool = False

    @property
    def name(self) -> str:
        """The units, the order and the scale in words."""
        scaled = "" if self.scale == 1 else f" times {self.scale:.3g}"
        return self.units.value + scaled + (", y first" if self.y_first else "")

    def of_answer(self, answer: ParsedAnswer) -> Convention:
        """The convention of one answer: tokens that say their own grid are read by it."""
        return Convention(Units.THOUSAND, self.view) if answer.thousandths else self

    def in_units(self, instances: Iterable[Instance]) -> tuple[Instance, ...]:
        """Answered instances x first and in the plain units, as :meth:`frame` takes them."""

        def plain(points: ArrayLike) -> NDArray[np.float64]:
            xy = np.asarray(points, np.float64) / self.scale
            return xy[..., ::-1] if self.y_first else xy

        known = not self.y_first and self.scale == 1
        return tuple(instances) if known else tuple(_mapped(v, plain) for v in instances)

    def frame(self, source: Size) -> Frame:
        """The map from pixels of the source image (height, width) to the reasoner's coordinates.

        Raises:
            ConfigError: the units are ``AUTO``.
        """
        if self.units is Units.AUTO:
            raise ConfigError(
                "The coordinate convention of the reasoner is not known.",
                hint="Run terraprompt reasoner calibrate, or name it: pixels, 0..1 or 0..1000.",
            )
        width, height = self.units.extent(self.view.size(source))
        return Frame.stretch(source, (int(height), int(width)))

    def to_source(self, instances: Iterable[Instance], source: Size) -> tuple[Instance, ...]:
        """Answered instances in pixels of the source image; nothing is clipped."""
        frame = self.frame(source)
        return tuple(_mapped(v, frame.points_back) for v in self.in_units(instances))

    def from_source(self, instances: Iterable[Instance], source: Size) -> tuple[Instance, ...]:
        """Instances in pixels of the source image as the reasoner would write them; inverse of :meth:`to_source`."""
        frame = self.frame(source)

        def written(points: ArrayLike) -> NDArray[np.float64]:
            xy = frame.points(points) * self.scale
            return xy[..., ::-1] if self.y_first else xy

        return tuple(_mapped(v, written) for v in instances)

    def describe(self, source: Size) -> str:
        """The units in the words of a question, e.g. "pixels of this image, which is 840 wide and 840 high"."""
        height, width = self.view.size(source)
        return {
            Units.PIXELS: f"pixels of this image, which is {width} wide and {height} high",
            Units.UNIT: "fractions of the width and height, from 0 to 1",
            Units.THOUSAND: "thousandths of the width and height, from 0 to 1000",
            Units.AUTO: "x to the right and y down, from the top left corner",
        }[self.units]

    def with_units(self, units: Units | str) -> Convention:
        """The same view with other units, which may be followed by ", y first"."""
        plain, comma, order = (part.strip() for part in units.partition(","))
        try:
            if comma and (order != "y first" or Units(plain) is Units.AUTO):
                raise ValueError(order)
            return Convention(Units(plain), self.view, y_first=bool(comma))
        except ValueError:
            known = f'Known: {", ".join(Units)}; all but auto may be followed by ", y first".'
            raise ConfigError("Unknown units.", received=units, hint=known) from None


_NATIVE = View("fit", side=1280)

#: Defaults of model families, by a pattern of the model's name; the first that fits counts. Checkpoints trained by
#: Think2Seg-RS answer in pixels of the square they were shown, whatever their base model did.
FAMILIES: dict[str, Convention] = {
    r"think2seg.*(internvl)": Convention(Units.PIXELS, View("square", side=896)),
    r"think2seg.*(llava)": Convention(Units.PIXELS, View("square", side=672)),
    r"think2seg": Convention(Units.PIXELS, View("square", side=840)),
    r"qwen[-_ ]?2[._]?5[-_ ]?vl": Convention(Units.PIXELS, View("square", side=840)),
    r"qwen[-_ ]?[23][-_ ]?vl": Convention(Units.THOUSAND, _NATIVE),
    r"intern[-_ ]?vl": Convention(Units.THOUSAND, View("square", side=896)),
    r"glm[-_ ]?4|minicpm|deepseek[-_ ]?vl|cogvlm": Convention(Units.THOUSAND, _NATIVE),
    r"llava": Convention(Units.UNIT, View("square", side=672)),
}


def family_convention(model: str) -> Convention:
    """The default of the family that a model's name tells; ``AUTO`` for a name that tells none."""
    for pattern, convention in FAMILIES.items():
        if re.search(pattern, model, re.IGNORECASE):
            return replace(convention, assumed=True)
    return Convention(Units.AUTO, _NATIVE)


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """One answer and what it was about.

    Attributes:
        instances: as answered.
        size: (height, width) of the image as it was shown.
    """

    instances: tuple[Instance, ...]
    size: Size


def _mapped(instance: Instance, move: Callable[[ArrayLike], NDArray[np.float64]]) -> Instance:
    box = None
    if instance.box is not None:
        (x1, y1), (x2, y2) = move([instance.box[:2], instance.box[2:]]).tolist()
        box = (x1, y1, x2, y2)
    points = tuple((x, y) for x, y in move(instance.points).tolist()) if instance.points else ()
    return replace(instance, box=box, points=points)
