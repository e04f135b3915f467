"""Size, order and position words decided over the whole scene, once its objects are known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from shapely import affinity

from terraprompt.language.parse_selector import Selector
from terraprompt.outputs import Result, SegmentedObject
from terraprompt.raster import Scene

__all__ = ["apply_selector", "outermost", "select_objects"]


@dataclass(frozen=True, slots=True)
class _Extent:
    area: float
    centroid: tuple[float, float]


def apply_selector(result: Result, selector: Selector, scene: Scene) -> Result:
    """Keep the objects that the selector means; the result that came in is closed if it is replaced."""
    if not result.objects:
        return result
    chosen = result.select(select_objects(result.objects, selector, scene))
    result.close()
    return chosen


def select_objects(objects: Sequence[SegmentedObject], selector: Selector, scene: Scene) -> list[int]:
    """Ids of the objects that the selector means.

    Left and right are those of the picture as it is shown, a south-up raster turned over; north, south, east and west
    those of the map, also on a rotated raster.

    Args:
        objects: of the whole scene.
        selector: from :func:`terraprompt.language.parse_selector.parse_selector`.
        scene: on which they were found.
    """
    frame = _map_frame(scene) if selector.compass and scene.crs is not None else _picture_frame(scene)
    to_frame, width, height = frame
    kept = selector.select([_extent(item, to_frame) for item in objects], width, height)
    return [objects[i].id for i in kept]


def outermost(objects: Sequence[SegmentedObject], region: Selector, scene: Scene) -> int:
    """Id of the object of a region ("upper right", "left half") that lies farthest towards its corner or side."""
    to_frame, width, height = _map_frame(scene) if region.compass and scene.crs is not None else _picture_frame(scene)
    words = (region.where or "").split()
    signs = ("right" in words) - ("left" in words), ("lower" in words) - ("upper" in words)

    def reach(item: SegmentedObject) -> float:
        x, y = _extent(item, to_frame).centroid
        return signs[0] * x / width + signs[1] * y / height

    return max(objects, key=reach).id


Frame = tuple[tuple[float, float, float, float, float, float], float, float]


def _extent(item: SegmentedObject, to_frame: tuple[float, float, float, float, float, float]) -> _Extent:
    centre = affinity.affine_transform(item.polygon.centroid, to_frame)
    return _Extent(item.area_px if item.area_m2 is None else item.area_m2, (centre.x, centre.y))


def _picture_frame(scene: Scene) -> Frame:
    """From where outlines are given (the map, or pixels without a CRS) to pixels of the scene as it is shown."""
    if scene.crs is None:
        return (1.0, 0.0, 0.0, 1.0, 0.0, 0.0), scene.width, scene.height
    t = ~scene.transform
    a, b, x = (-t.a, -t.b, scene.width - t.c) if scene.flip.left_right else (t.a, t.b, t.c)
    d, e, y = (-t.d, -t.e, scene.height - t.f) if scene.flip.up_down else (t.d, t.e, t.f)
    return (a, b, d, e, x, y), scene.width, scene.height


def _map_frame(scene: Scene) -> Frame:
    """From the map to a frame with north up, its origin at the upper left of the scene's bounds."""
    x0, y0, x1, y1 = scene.extent(scene.crs.to_wkt())
    return (1.0, 0.0, 0.0, -1.0, -x0, y1), x1 - x0, y1 - y0
