"""The fixed sentences of points and boxes (UniGeoSeg, section 8.6): written as the released data have them, and read.

The data print "Please segment the region/target corresponding to the points [0.48,0.377]." and "… the box
x0,y0=[0.328,0.705], x1,y1=[0.998,0.998].", some with a word less or a letter doubled; the paper's text writes points
as "{(0.48, 0.377)}". The released reader takes one to three ``[x,y]`` without a blank, or ``x0,y0=[…], x1,y1=[…]``.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np

from terraprompt.errors import ConfigError, PromptError
from terraprompt.geometry.types import Box
from terraprompt.language.categories import training_vocabulary

__all__ = ["interactive_instruction", "read_interactive", "spatial_instruction"]

_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
# "x0,y0=", "x_min =", "y1:", "(x, y) =": what a number is, before it
_AXIS = r"[xy]_?(?:min|max|[0-9])?"
_LABEL = re.compile(rf"[(\[]?\s*(?<![a-z]){_AXIS}(?:\s*,\s*{_AXIS})*\s*[)\]]?\s*[=:]", re.IGNORECASE)
_SECOND_CORNER = re.compile(r"x_?(?:1|2|max)\b", re.IGNORECASE)
_BOX_WORD = re.compile(r"box|rectangle", re.IGNORECASE)
_POINT_WORD = re.compile(r"point|click|coordinate", re.IGNORECASE)
#: How far outside [0, 1] a rounded coordinate may lie.
_ROUNDING = 0.02

Point = tuple[float, float]


def interactive_instruction(
    *, points: Sequence[Sequence[float]] = (), boxes: Sequence[Sequence[float]] = (), decimals: int = 3
) -> str:
    """The sentence for points or boxes, in the form of the released data.

    Args:
        points: (x, y) pairs in [0, 1] of the image.
        boxes: (x0, y0, x1, y1) in [0, 1] of the image.
        decimals: of the coordinates; zeros at the end are left out, as in the data.

    Raises:
        ConfigError: neither or both of points and boxes, or a coordinate outside [0, 1].
    """
    if bool(len(points)) == bool(len(boxes)):
        raise ConfigError("An interactive instruction holds either points or boxes.", received=(points, boxes))
    if any(not 0 <= value <= 1 for item in (*points, *boxes) for value in item):
        raise ConfigError("Coordinates of an instruction lie in [0, 1].", received=(points, boxes))

    def pair(x: float, y: float) -> str:
        return f"[{_number(x, decimals)},{_number(y, decimals)}]"

    if len(points):
        what = f"points {', '.join(pair(x, y) for x, y in points)}"
    else:
        what = "box " + "; ".join(f"x0,y0={pair(x0, y0)}, x1,y1={pair(x1, y1)}" for x0, y0, x1, y1 in boxes)
    return f"Please segment the region/target corresponding to the {what}."


def _number(value: float, decimals: int) -> str:
    whole, _, part = f"{float(value):.{decimals}f}".partition(".")
    return f"{whole}.{part.rstrip('0') or '0'}"


def spatial_instruction(rng: np.random.Generator, *, box: bool, name: str | None = None) -> str:
    """The sentence without its coordinates, for models that take them as data alone.

    Args:
        rng: chooses between "region" and "target".
        box: of a box, else of points.
        name: a category to name instead of "region" or "target".

    Raises:
        ConfigError: an unknown category.
    """
    what = ("region", "target")[int(rng.integers(2))] if name is None else training_vocabulary()[name].singular
    return f"Please segment the {what} corresponding to the {'box' if box else 'points'}."


def read_interactive(sentence: str) -> tuple[tuple[Point, ...], tuple[Box, ...]]:
    """Points and boxes of a sentence, in [0, 1] of the image, in the order in which they stand there.

    Every form that occurs is read: square, round or no brackets, braces round a list, blanks or none, with labels like
    ``x0,y0=`` or ``xmin:`` or without, the words misspelt or missing. A box is known by its labels or by its word; its
    corners are sorted. One that rounding has left without width or height gets that of the last printed decimal. A
    coordinate up to 0.02 outside the image is one that was rounded, and is put on its edge.

    Raises:
        PromptError: neither points nor boxes, numbers that do not make pairs, or coordinates outside the image.
    """
    labels = _LABEL.findall(sentence)
    plain = _LABEL.sub("=", sentence)
    start = re.search(r"[\[({=]", plain) or _POINT_WORD.search(plain) or _BOX_WORD.search(plain)
    printed = _NUMBER.findall(plain[start.start() :]) if start else []
    corners = sum(len(_SECOND_CORNER.findall(label)) for label in labels)
    is_box = corners > 0 or (_BOX_WORD.search(sentence) is not None and _POINT_WORD.search(sentence) is None)
    if not printed:
        raise PromptError("An interactive question without points or box.", received=sentence[:120])
    if len(printed) % (4 if is_box else 2) or (corners and len(printed) != 4 * corners):
        kind = "boxes" if is_box else "points"
        raise PromptError(f"The numbers of an interactive question do not make {kind}.", received=sentence[:120])
    values = [float(number) for number in printed]
    if any(not -_ROUNDING <= value <= 1 + _ROUNDING for value in values):
        raise PromptError("A coordinate outside [0, 1].", received=sentence[:120])
    values = [min(max(value, 0.0), 1.0) for value in values]
    if not is_box:
        return tuple(zip(values[::2], values[1::2], strict=True)), ()
    places = max(len(number.partition(".")[2]) for number in printed)
    return (), tuple(_box(values[i : i + 4], 10.0**-places) for i in range(0, len(values), 4))


def _box(values: Sequence[float], unit: float) -> Box:
    """Corners sorted; an edge of no length gets that of the last printed decimal."""
    (x0, x1), (y0, y1) = (_span(values[axis], values[axis + 2], unit) for axis in (0, 1))
    return x0, y0, x1, y1


def _span(first: float, last: float, unit: float) -> tuple[float, float]:
    low, high = min(first, last), max(first, last)
    if low == high:
        low, high = max(low - unit / 2, 0.0), min(high + unit / 2, 1.0)
    return low, high
