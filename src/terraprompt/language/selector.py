"""The selector: which objects of one kind are meant, by size, order or position."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

from terraprompt.errors import ConfigError
from terraprompt.language.spatial import PLACES, SIDES

__all__ = ["HasExtent", "Selector", "in_place"]

Kind = Literal["largest", "smallest", "extreme", "central", "region"]
KINDS = ("largest", "smallest", "extreme", "central", "region")


class HasExtent(Protocol):
    """What a selector needs to know of an object."""

    @property
    def area(self) -> float:
        """In any one unit, the same for all objects."""
        ...

    @property
    def centroid(self) -> tuple[float, float]:
        """(x, y), x right, y down, in the frame of the ``width`` and ``height`` given to :meth:`Selector.select`."""
        ...


@dataclass(frozen=True, slots=True)
class Selector:
    """Which objects of one kind are meant.

    Attributes:
        kind: "largest" and "smallest" by area; "extreme" = nearest to the side ``where``; "central" = nearest to the
            centre; "region" = all whose centroid lies in ``where``.
        where: "top", "bottom", "left", "right" for "extreme"; a key of ``PLACES`` ("upper left", "lower half", …,
            "centre" = the middle ninth) for "region"; None otherwise.
        rank: 1 = the first in that order, 2 = the second, …
        count: how many, beginning with ``rank``.
        within: a key of ``PLACES``: only objects there take part ("the largest … in the upper left").
        compass: the words were north, south, east or west. They mean up, down, right and left of the frame given to
            ``select``; a caller with a rotated raster may hand over map-aligned centroids. Not part of equality.

    Raises:
        ConfigError: a combination that means nothing.
    """

    kind: Kind
    where: str | None = None
    rank: int = 1
    count: int = 1
    within: str | None = None
    compass: bool = field(default=False, compare=False)

    def __post_init__(self) -> None:
        allowed = {"extreme": tuple(SIDES), "region": tuple(PLACES)}.get(self.kind, (None,))
        if self.kind not in KINDS or self.where not in allowed:
            raise ConfigError("A selector of this kind and place does not exist.", received=(self.kind, self.where))
        if self.within is not None and (self.within not in PLACES or self.kind == "region"):
            raise ConfigError("A selector cannot be limited to this place.", received=self.within)
        if self.rank < 1 or self.count < 1:
            raise ConfigError("Rank and count of a selector start at 1.", received=(self.rank, self.count))

    def select(self, objects: Sequence[HasExtent], width: float, height: float) -> tuple[int, ...]:
        """Indexes into ``objects`` of those that are meant, ascending; ties go to the lower index.

        Args:
            objects: anything with ``area`` and ``centroid``.
            width: of the image or scene, in the units of the centroids.
            height: likewise.

        Returns:
            () if there are too few objects for ``rank``, or none in the region; fewer than ``count`` if there are no
            more.
        """
        place = self.where if self.kind == "region" else self.within
        inside = [i for i, item in enumerate(objects) if place is None or in_place(item.centroid, place, width, height)]
        if self.kind == "region":
            return tuple(inside)
        ordered = sorted(inside, key=lambda i: (self._key(objects[i], width, height), i))
        return tuple(sorted(ordered[self.rank - 1 : self.rank - 1 + self.count]))

    def _key(self, item: HasExtent, width: float, height: float) -> float:
        x, y = item.centroid
        if self.kind == "largest":
            return -item.area
        if self.kind == "smallest":
            return item.area
        if self.kind == "central":
            return math.hypot(x - width / 2, y - height / 2)
        return {"top": y, "bottom": -y, "left": x, "right": -x}[self.where or ""]


def in_place(centroid: tuple[float, float], place: str, width: float, height: float) -> bool:
    """Whether a centroid lies in a place of a width x height frame; the middle lines belong to right and bottom."""
    x, y = centroid[0] / width, centroid[1] / height
    if place == "centre":
        return 1 / 3 <= x <= 2 / 3 and 1 / 3 <= y <= 2 / 3
    words = place.split()
    return (
        ("upper" not in words or y < 0.5)
        and ("lower" not in words or y >= 0.5)
        and ("left" not in words or x < 0.5)
        and ("right" not in words or x >= 0.5)
    )
