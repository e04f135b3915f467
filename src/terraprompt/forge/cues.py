"""Which cues are true of one region of a patch and of no other that could be meant.

A cue is only given where the difference is clear: "the largest" leads by 30 %, "touches" means that no other candidate
comes near. Candidates are all regions whose category bears the name or could be called by it, also those that the
rule filter left out.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terraprompt.language.categories import Category, forge_vocabulary
from terraprompt.language.cues import (
    Cue,
    direction_cue,
    nearest_cue,
    only_cue,
    selector_cue,
    touching_cue,
    with_article,
)
from terraprompt.language.object_geometry import Component, Components, clear_places, clear_selectors
from terraprompt.language.object_relations import ADJACENT
from terraprompt.language.selector import Selector

__all__ = ["Fact", "Scene", "cues_of", "facts_of", "least_ordered"]

#: Pixels that other candidates must stay away from what the target touches.
_CLEAR_GAP = 12.0
#: How much nearer than the next candidate "nearest" must be: ratio, and pixels.
_RATIO, _LEAD = 1.5, 10.0
#: Degrees: target within the first of a compass direction, other candidates beyond the second.
_WITHIN, _BEYOND = 25.0, 65.0
_DEGREES = {"east": 0, "southeast": 45, "south": 90, "southwest": 135, "west": 180, "northwest": -135, "north": -90}
_DEGREES |= {"northeast": -45}
_MAX_RELATIONS = 8  # as many as a region keeps; a full list may hide one


class Scene:
    """The regions of a patch.

    Args:
        patch: a row of regions.
    """

    def __init__(self, patch: Mapping[str, Any]) -> None:
        self.width, self.height = int(patch["width"]), int(patch["height"])
        self.regions: list[Mapping[str, Any]] = list(patch["regions"])
        self.specks = {row["category"]: int(row["count"]) for row in patch["specks"]}
        present = {region["category"] for region in self.regions} | set(self.specks)
        self._present = [forge_vocabulary()[name] for name in sorted(present)]

    def of(self, name: str) -> list[Mapping[str, Any]]:
        """Regions of a category."""
        return [region for region in self.regions if region["category"] == name]

    def candidates(self, category: Category) -> tuple[list[Mapping[str, Any]], int]:
        """Regions that could be called by the name of a category, and how many specks could."""
        names = {category.name} | {other.name for other in self._present if category.is_confusable_with(other)}
        return [r for r in self.regions if r["category"] in names], sum(self.specks.get(name, 0) for name in names)

    def has_other_of_group(self, category: Category) -> bool:
        """Whether something of another category in the patch has the same use."""
        return any(other.name != category.name and other.group == category.group for other in self._present)


def cues_of(scene: Scene, target: Mapping[str, Any]) -> list[Cue]:
    """All cues that single out a region by name and cue, in a stable order."""
    category = forge_vocabulary()[target["category"]]
    candidates, specks = scene.candidates(category)
    if len(candidates) == 1:
        if specks:
            return []
        places = clear_places(_components(scene, [target], 0))
        return [only_cue(), *_said(Selector("region", place) for place in places if place != "centre")]
    found = _selector_cues(scene, candidates, target, specks)
    if not specks:
        found += _relation_cues(scene, candidates, target)
    return found


@dataclass(frozen=True, slots=True)
class Fact:
    """A clause after "it" that is true of a region, though perhaps of others too; facts of one topic say the same."""

    clause: str
    topic: str


def facts_of(scene: Scene, target: Mapping[str, Any]) -> list[Fact]:
    """Further clauses that are true of a region: what it touches, how far it is from something, where it lies."""
    out = []
    category = forge_vocabulary()[target["category"]]
    for relation in target["relations"]:
        other = forge_vocabulary()[scene.regions[relation["other"]]["category"]]
        if other.name == category.name or category.is_confusable_with(other):
            continue
        if relation["adjacent"]:
            out.append(Fact(f"touches {with_article(other.singular)}", f"beside {other.name}"))
        elif relation["metres"] is not None and relation["metres"] >= 5:
            step = 5 if relation["metres"] < 100 else 10
            metres = max(step, round(relation["metres"] / step) * step)
            clause = f"lies about {metres} m from {with_article(other.singular)}"
            out.append(Fact(clause, f"beside {other.name}"))
    once = {fact.topic: fact for fact in reversed(out)}  # of a category the nearest
    places = [place for place in clear_places(_components(scene, [target], 0)) if place != "centre"]
    where = [Fact(f"lies in the {place} of the image", place) for place in places]
    return [*reversed(once.values()), *where]


def _components(scene: Scene, regions: Sequence[Mapping[str, Any]], specks: int) -> Components:
    items = tuple(
        Component(float(r["area"]), tuple(r["box"]), (float(r["centroid"][0]), float(r["centroid"][1])))
        for r in regions
    )
    return Components(np.broadcast_to(np.int32(0), (scene.height, scene.width)), items, specks)


def _selector_cues(
    scene: Scene, candidates: Sequence[Mapping[str, Any]], target: Mapping[str, Any], specks: int
) -> list[Cue]:
    index = next(i for i, region in enumerate(candidates) if region["number"] == target["number"])
    found = _components(scene, candidates, specks)
    # What is easily missed would count for an order: with a speck or a small region only "the largest" is clear.
    unsure = specks or any(region["area"] < least_ordered(scene.width, scene.height) for region in candidates)
    return _said(
        selector
        for selector in clear_selectors(found, max_count=1)
        if not (unsure and selector.kind in ("extreme", "smallest", "central"))
        and not (unsure and selector.rank > 1)
        and not (specks and selector.kind != "largest")
        # from the nearer end: of four, the third from the left is the second from the right; of two, no second
        and 2 * selector.rank <= len(candidates) + (len(candidates) > 2)
        and selector.select(found.items, scene.width, scene.height) == (index,)
    )


def least_ordered(width: int, height: int) -> float:
    """Pixels below which a region of a patch is easily missed: 0.5 % of the patch, at least 400."""
    return max(0.005 * width * height, 400.0)


def _said(selectors: Iterable[Selector]) -> list[Cue]:
    return [cue for cue in map(selector_cue, selectors) if cue is not None]


def _relation_cues(scene: Scene, candidates: Sequence[Mapping[str, Any]], target: Mapping[str, Any]) -> list[Cue]:
    """Cues by what lies beside the target."""
    out = []
    rest = [region for region in candidates if region["number"] != target["number"]]
    for name in sorted({r["category"] for r in scene.regions} - {r["category"] for r in candidates}):
        other = forge_vocabulary()[name]
        own_gap, _ = _gap(scene, target, name)
        gaps = [_gap(scene, region, name) for region in rest]
        if not all(certain for _, certain in gaps):
            continue
        if own_gap <= ADJACENT and all(gap > _CLEAR_GAP for gap, _ in gaps):
            out.append(touching_cue(name, other.singular))
        others = scene.of(name)
        if len(others) != 1 or scene.specks.get(name) or scene.candidates(other)[0] != others:
            continue
        nearest = min((gap for gap, _ in gaps), default=math.inf)
        if own_gap < math.inf and nearest >= _RATIO * own_gap and nearest - own_gap >= _LEAD:
            out.append(nearest_cue(name, other.singular))
        for word, turn in _DEGREES.items():
            if _off(others[0], target, turn) <= _WITHIN and all(_off(others[0], r, turn) >= _BEYOND for r in rest):
                out.append(direction_cue(name, other.singular, word))
    return out


def _gap(scene: Scene, region: Mapping[str, Any], name: str) -> tuple[float, bool]:
    """Gap to the nearest region of a category, inf beyond the reach; and whether that is certain."""
    gaps = [r["gap"] for r in region["relations"] if scene.regions[r["other"]]["category"] == name]
    if gaps:
        return float(min(gaps)), True
    return math.inf, len(region["relations"]) < _MAX_RELATIONS


def _off(other: Mapping[str, Any], region: Mapping[str, Any], turn: float) -> float:
    """Degrees between the way from the other region to a region and a compass direction."""
    dx = region["centroid"][0] - other["centroid"][0]
    dy = region["centroid"][1] - other["centroid"][1]
    apart = abs(math.degrees(math.atan2(dy, dx)) - turn) % 360
    return min(apart, 360 - apart)
