"""Which objects of the finished mask are the answer: size, selector, the click and the box."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import shapely
from shapely import Point, Polygon, STRtree

from terraprompt.flow.evidence import Evidence
from terraprompt.flow.selection import outermost, select_objects
from terraprompt.flow.settings import SegmentSettings
from terraprompt.geometry.types import Box
from terraprompt.language.parse_selector import describe
from terraprompt.language.selector import Selector
from terraprompt.language.understand import MIN_AREA_M2, Understood
from terraprompt.outputs import Result, SegmentedObject
from terraprompt.outputs.mask_writer import DEFAULT_MIN_PIXELS
from terraprompt.prompt import Prompt
from terraprompt.raster import Scene
from terraprompt.raster.pixel_area import to_map

__all__ = ["ObjectRules", "click_reach", "placed"]

#: An object of less than so many times the smallest area of its category must be sure: mean probability of its pixels.
_SMALL = 8.0
_SURE = 0.75
#: In a box, what is smaller than this share of its largest object is a speck beside it.
_BESIDE = 0.1
#: With fewer pixels an object is mostly border, whose probability says little.
_BORDER_PX = 256


@dataclass(frozen=True)
class ObjectRules:
    """What is kept of the objects of a query.

    Attributes:
        refinement: options of :meth:`terraprompt.outputs.MaskWriter.finish`.
        selector: which objects are meant.
        understood: of the text; None where it was not taken apart.
        smallest_m2: default area of the smallest object; 0 = no default, all that is kept by ``refinement`` counts.
        clicks: (x, y) in scene pixels; each keeps one object.
        boxes: (x0, y0, x1, y1) in scene pixels; each keeps its largest object and those that are not specks beside it.
    """

    refinement: dict[str, Any]
    selector: Selector | None = None
    understood: Understood | None = None
    smallest_m2: float = 0.0
    clicks: tuple[tuple[float, float], ...] = ()
    boxes: tuple[Box, ...] = ()
    effective: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        settings: SegmentSettings,
        scene: Scene,
        selector: Selector | None,
        understood: Understood | None,
        asked: Prompt,
    ) -> ObjectRules:
        """Rules of a query; ``effective`` is what they change in the settings, for provenance."""
        refinement = dict(settings.refinement)
        if understood is None or understood.refusal:
            return cls(refinement, selector, understood)
        if asked.is_spatial:
            positive = tuple(p for p, label in zip(asked.points, asked.labels, strict=True) if label)
            clicks = () if asked.boxes else positive
            return cls(refinement, selector, understood, clicks=clicks, boxes=asked.boxes)
        sizes = [MIN_AREA_M2[name] for name in understood.categories if name in MIN_AREA_M2]
        given = settings.min_area_m2 is not None or settings.min_pixels is not None
        if given or not sizes or scene.ground is None:
            return cls(refinement, selector, understood)
        smallest = min(sizes)
        if understood.negated:  # a speck of what is left out is no hole in the rest
            if settings.fill_holes_m2 is not None:
                return cls(refinement, selector, understood)
            refinement["fill_holes_m2"] = smallest
            return cls(refinement, selector, understood, effective={"fill_holes_m2": smallest})
        refinement |= {"min_area_m2": smallest, "min_pixels": DEFAULT_MIN_PIXELS}
        effective = {
            "min_area_m2": smallest,
            "min_area_default": True,
            "small_objects": {"below_m2": _SMALL * smallest, "min_score": _SURE, "from_pixels": _BORDER_PX},
        }
        return cls(refinement, selector, understood, smallest, effective=effective)

    @property
    def choose(self) -> bool:
        """Whether :meth:`select` may leave something out."""
        return self.understood is not None or self.selector is not None

    @property
    def category(self) -> str | None:
        """Of every object: the one that was understood; None where all but that are meant."""
        said = self.understood or Understood()
        return said.categories[0] if len(said.categories) == 1 and not said.negated else None

    def apply(self, result: Result, scene: Scene, evidence: Evidence) -> Result:
        """The result with the objects that are meant; the one that came in is closed if it is replaced."""
        if not self.choose or not result.objects:
            return result
        ids = self.select(result.objects, scene, evidence)
        if len(ids) < len(result.objects):
            chosen = result.select(ids)
            result.close()
            result = chosen
        return replace(result, objects=tuple(replace(item, category=self.category) for item in result.objects))

    def select(self, objects: Sequence[SegmentedObject], scene: Scene, evidence: Evidence) -> list[int]:
        """Ids of the objects that are meant; what the user must know goes to ``evidence``."""
        said = self.understood or Understood()
        if self.clicks:
            return self._clicked(objects, scene, evidence)
        if self.boxes:
            return self._boxed(objects, scene)
        kept = [item for item in objects if not self._doubtful(item)]
        if said.min_area_m2 or said.max_area_m2:
            low, high = said.min_area_m2 or 0.0, said.max_area_m2 or math.inf
            count = len(kept)
            kept = [item for item in kept if item.area_m2 is not None and low <= item.area_m2 <= high]
            if not kept:
                evidence.remark(f"{count} object(s) were found, none of the size that was asked for.")
        if self.selector is not None and kept:
            ids = select_objects(kept, self.selector, scene)
            if said.single and len(ids) > 1 and self.selector.where is not None:
                inside = [item for item in kept if item.id in ids]
                ids = [outermost(inside, self.selector, scene)]
                evidence.remark(
                    f"One was asked for and {len(inside)} lie in the {self.selector.where}; "
                    "the one farthest in that direction was taken."
                )
            if not ids:
                evidence.remark(f"{len(kept)} object(s) were found, none that is meant ({describe(self.selector)}).")
            kept = [item for item in kept if item.id in ids]
        elif said.single and len(kept) > 1:
            evidence.remark(
                f'One was asked for and {len(kept)} were found; say which ("the largest …", "… in the north").'
            )
        if said.excluded is not None and kept:
            dropped = select_objects(kept, said.excluded, scene)
            if len(dropped) == len(kept):
                evidence.remark(f"{len(kept)} object(s) were found, all of them left out ({describe(said.excluded)}).")
            kept = [item for item in kept if item.id not in dropped]
        if said.counted:
            evidence.remark(f"Objects counted: {len(kept)}.")
        return [item.id for item in kept]

    def _doubtful(self, item: SegmentedObject) -> bool:
        small = self.smallest_m2 and item.area_m2 is not None and item.area_m2 < _SMALL * self.smallest_m2
        return bool(small) and item.area_px >= _BORDER_PX and item.score < _SURE

    def _clicked(self, objects: Sequence[SegmentedObject], scene: Scene, evidence: Evidence) -> list[int]:
        """The object under each click, else the nearest."""
        spots = [Point(xy) for xy in placed(self.clicks, scene)]
        outlines = [item.polygon for item in objects]
        nearest = STRtree(outlines).nearest(spots)
        for number, (spot, index) in enumerate(zip(spots, nearest.tolist(), strict=True), 1):
            if shapely.distance(spot, outlines[index]) > click_reach(scene):
                evidence.remark(f"Nothing was found right under point {number}; the nearest object was taken.")
        return sorted({objects[i].id for i in nearest.tolist()})

    def _boxed(self, objects: Sequence[SegmentedObject], scene: Scene) -> list[int]:
        """The largest object in each box, and all in it that are not specks beside that one."""
        kept: set[int] = set()
        for x0, y0, x1, y1 in self.boxes:
            box = Polygon(placed([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], scene))
            inside = [item for item in objects if item.polygon.intersects(box)]
            least = _BESIDE * max((item.area_px for item in inside), default=0)
            kept.update(item.id for item in inside if item.area_px >= least)
        return sorted(kept) or [item.id for item in objects]


def click_reach(scene: Scene) -> float:
    """How far from an outline a click on the object may lie, in units of the outlines: 1.5 pixels."""
    return 1.5 * (math.sqrt(abs(scene.transform.determinant)) if scene.crs is not None else 1.0)


def placed(points: Sequence[tuple[float, float]], scene: Scene) -> list[tuple[float, float]]:
    """Scene pixels (x, y) in the coordinates of the outlines: the map's, or pixels where there is no CRS."""
    if scene.crs is None:
        return list(points)
    at = np.array(points, float)
    return list(zip(*(values.tolist() for values in to_map(scene.transform, at[:, 0], at[:, 1])), strict=True))
