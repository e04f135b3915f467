"""The rule by which the released code of UniGeoSeg reads a sentence of points or a box, stated again."""

from __future__ import annotations

import re

__all__ = ["released"]


def released(sentence: str) -> tuple[list[list[float]], list[list[float]]]:
    """The rule of the released parser: one to three ``[x,y]``, or ``x0,y0=[…], x1,y1=[…]``; no blank in a pair."""
    number = r"(\d+(?:\.\d+)?)"
    box = re.search(rf"x0,y0=\[{number},{number}\], x1,y1=\[{number},{number}\]", sentence)
    if box:
        return [], [[float(v) for v in box.groups()]]
    points = [[float(x), float(y)] for x, y in re.findall(rf"\[{number},{number}\]", sentence)]
    assert 1 <= len(points) <= 3, sentence
    return points, []
