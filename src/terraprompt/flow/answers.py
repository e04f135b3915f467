"""Which point or box of the prompt each object answers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from shapely import Point, Polygon, STRtree

from terraprompt.flow.evidence import Evidence
from terraprompt.flow.objects import click_reach, placed
from terraprompt.geometry.boxes import box_iou
from terraprompt.outputs import Result, SegmentedObject
from terraprompt.prompt import Prompt
from terraprompt.raster import Scene

__all__ = ["name_answers"]


def name_answers(result: Result, asked: Prompt, scene: Scene, evidence: Evidence) -> Result:
    """The result with ``prompt_id`` and ``attributes`` of its objects.

    An object answers the point on it, else the box whose bounds are most like its own (IoU), else the point or box that
    is nearest. A point in a box is part of that box. That an object answers several goes to ``evidence``.

    Args:
        result: of the prompt.
        asked: the prompt in pixels of the scene; nothing is done for a text.
        scene: that was asked about.
        evidence: gets the remark.
    """
    if not asked.is_spatial or not result.objects:
        return result
    marks = _marks(asked)
    answers, best = _match(asked, marks, result.objects, scene)
    sharing = defaultdict[int, list[int]](list)
    for mark, item in zip(marks, best.tolist(), strict=True):
        if item >= 0:
            sharing[item].append(mark)
    several = [of for of in sharing.values() if len({_target(asked, mark) for mark in of}) > 1]
    named = [list(dict.fromkeys(str(asked.feature(mark).id) for mark in of)) for of in several]
    shared = [" and ".join(ids) for ids in named if len(ids) > 1]
    if shared:
        evidence.remark(
            f"Objects that answer more than one point or box of the prompt: {len(shared)} "
            f"({'; '.join(shared[:3])}{'; …' if len(shared) > 3 else ''}). prompt_id and attributes are of one of them."
        )
    features = [asked.feature(marks[i]) for i in answers.tolist()]
    pairs = zip(result.objects, features, strict=True)
    objects = (replace(item, prompt_id=f.id, attributes=dict(f.attributes)) for item, f in pairs)
    return replace(result, objects=tuple(objects))


def _marks(asked: Prompt) -> list[int]:
    """Indices, as of :meth:`Prompt.feature`, of positive points outside all boxes, then of boxes."""
    points = [
        i
        for i, ((x, y), label) in enumerate(zip(asked.points, asked.labels, strict=True))
        if label and not any(x0 <= x <= x1 and y0 <= y <= y1 for x0, y0, x1, y1 in asked.boxes)
    ]
    return points + [len(asked.points) + i for i in range(len(asked.boxes))]


def _target(asked: Prompt, mark: int) -> Hashable:
    """What tells the targets of :meth:`Prompt.objects` apart."""
    if mark >= len(asked.points):
        return "box", mark
    return asked.groups[mark] if asked.groups else 0


def _match(
    asked: Prompt, marks: Sequence[int], objects: Sequence[SegmentedObject], scene: Scene
) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """For each object the place of its mark in ``marks``; for each mark that of its object, or -1 without one."""
    boxes = [asked.boxes[mark - len(asked.points)] for mark in marks if mark >= len(asked.points)]
    clicks = [asked.points[mark] for mark in marks if mark < len(asked.points)]
    shapes: list[Point | Polygon] = [Point(xy) for xy in placed(clicks, scene)] if clicks else []
    shapes += [Polygon(placed([(x0, y0), (x1, y0), (x1, y1), (x0, y1)], scene)) for x0, y0, x1, y1 in boxes]
    outlines = STRtree([item.polygon for item in objects])
    mark, item = outlines.query(shapes, predicate="dwithin", distance=click_reach(scene))
    likeness = np.full(len(mark), 2.0)
    on_box = mark >= len(clicks)
    if on_box.any():
        bounds = np.array([item.bbox for item in objects], float)[item[on_box]]
        given = np.array(boxes)[mark[on_box] - len(clicks)]
        likeness[on_box] = [box_iou(*pair)[0, 0] for pair in zip(given, bounds, strict=True)]
    order = np.lexsort((mark, -likeness))[::-1]  # the best comes last and stays
    answers, best = np.full(len(objects), -1), np.full(len(marks), -1)
    answers[item[order]], best[mark[order]] = mark[order], item[order]
    if len(missed := np.flatnonzero(best < 0)):
        near = outlines.nearest([shapes[i] for i in missed])
        free = answers[near] < 0
        answers[near[free]] = missed[free]
    if len(rest := np.flatnonzero(answers < 0)):
        answers[rest] = STRtree(shapes).nearest([objects[i].polygon for i in rest.tolist()])
    return answers, best
