"""Cues: what is true of one region and of no other that could be meant.

A cue is only given where the difference is clear: "the largest" leads by 30 %, "touches" means that no other candidate
comes near. Candidates are all regions whose category bears the name or could be called by it, also those that the
rule filter left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from terraprompt.forge.relations import ADJACENT
from terraprompt.forge.taxonomy import Kind, Taxonomy
from terraprompt.language.object_geometry import Component, Components, clear_places, clear_selectors
from terraprompt.language.selector import Selector
from terraprompt.language.spatial import ORDINALS, patterns

__all__ = ["Cue", "Scene", "Wording", "cues_of", "facts_of"]

#: Pixels that other candidates must stay away from what the target touches.
_CLEAR = 12.0
#: How much nearer than the next candidate "nearest" must be.
_RATIO, _LEAD = 1.5, 10.0
#: Degrees: target within the first of a compass direction, other candidates beyond the second.
_WITHIN, _BEYOND = 25.0, 65.0
_TURNS = {"east": 0, "southeast": 45, "south": 90, "southwest": 135, "west": 180, "northwest": -135, "north": -90}
_TURNS |= {"northeast": -45}
_MOST_RELATIONS = 8  # as many as a region keeps; a full list may hide one


@dataclass(frozen=True, slots=True)
class Wording:
    """Two ways to say a cue.

    Attributes:
        phrase: a noun phrase, ``{s}`` is the noun: "the largest {s}".
        clause: after "it": "is the largest one".
    """

    phrase: str
    clause: str


@dataclass(frozen=True, slots=True)
class Cue:
    """Something true of the target alone.

    Attributes:
        name: for records, e.g. "largest", "touches:road".
        wordings: how it can be said.
        topic: two cues of one topic say nearly the same.
    """

    name: str
    wordings: tuple[Wording, ...]
    topic: str


class Scene:
    """A patch with its regions, as cues need it.

    Args:
        patch: a row of regions.
        taxonomy: the categories.
    """

    def __init__(self, patch: Mapping[str, Any], taxonomy: Taxonomy) -> None:
        self.taxonomy = taxonomy
        self.width, self.height = int(patch["width"]), int(patch["height"])
        self.regions: list[Mapping[str, Any]] = list(patch["regions"])
        self.specks = {row["category"]: int(row["count"]) for row in patch["specks"]}
        self.gsd_m: float | None = patch["gsd_m"]

    def of(self, name: str) -> list[Mapping[str, Any]]:
        """Regions of a category."""
        return [region for region in self.regions if region["category"] == name]

    def candidates(self, kind: Kind) -> tuple[list[Mapping[str, Any]], int]:
        """Regions that could be called by the name of a category, and specks that could."""
        names = self._called(kind)
        return [r for r in self.regions if r["category"] in names], sum(self.specks.get(name, 0) for name in names)

    def alike(self, kind: Kind) -> bool:
        """Whether something of another category in the patch has the same use."""
        present = {region["category"] for region in self.regions} | set(self.specks)
        return any(name != kind.name and self.taxonomy[name].group == kind.group for name in present)

    def _called(self, kind: Kind) -> set[str]:
        present = {region["category"] for region in self.regions} | set(self.specks)
        return {kind.name} | {name for name in present if self.taxonomy.covers(kind, self.taxonomy[name])}


def cues_of(scene: Scene, target: Mapping[str, Any]) -> list[Cue]:
    """All cues that single out a region by name and cue, in a stable order."""
    kind = scene.taxonomy[target["category"]]
    candidates, specks = scene.candidates(kind)
    place = next(i for i, region in enumerate(candidates) if region["number"] == target["number"])
    if len(candidates) == 1:
        return [] if specks else [_only(), *_where(scene, target)]
    found = _selected(scene, candidates, place, specks)
    if not specks:
        found += _relative(scene, kind, candidates, target)
    return found


def facts_of(scene: Scene, target: Mapping[str, Any]) -> list[str]:
    """Further clauses after "it" that are true of a region, though perhaps of others too."""
    out = []
    kind = scene.taxonomy[target["category"]]
    for relation in target["relations"]:
        other = scene.regions[relation["other"]]
        name = scene.taxonomy[other["category"]]
        if name.name == kind.name or scene.taxonomy.covers(kind, name):
            continue
        if relation["adjacent"]:
            out.append(f"touches {_a(name.singular)}")
        elif relation["metres"] is not None and relation["metres"] >= 5:
            out.append(f"lies about {_rounded(relation['metres'])} m from {_a(name.singular)}")
    return list(dict.fromkeys(out))


def _only() -> Cue:
    return Cue("only", (Wording("the {s}", "is the only one"), Wording("the only {s}", "is the only one")), "only")


def _where(scene: Scene, target: Mapping[str, Any]) -> list[Cue]:
    """Where a region that is alone lies: a place that holds it clearly."""
    alone = _components(scene, [target], 0)
    cues = [_cue(Selector("region", place)) for place in clear_places(alone) if place != "centre"]
    return [cue for cue in cues if cue is not None]


def _components(scene: Scene, regions: Sequence[Mapping[str, Any]], specks: int) -> Components:
    items = tuple(
        Component(float(r["area"]), tuple(r["box"]), (float(r["centroid"][0]), float(r["centroid"][1])))
        for r in regions
    )
    return Components(np.broadcast_to(np.int32(0), (scene.height, scene.width)), items, specks)


def _selected(scene: Scene, candidates: Sequence[Mapping[str, Any]], place: int, specks: int) -> list[Cue]:
    found = _components(scene, candidates, specks)
    out = []
    for selector in clear_selectors(found, max_count=1):
        if specks and selector.kind != "largest":
            continue  # what was too small to be a region would count for "the leftmost"
        if selector.rank > 1 and len(candidates) == 2:
            continue  # nobody says "the second largest" of two
        if selector.select(found.items, scene.width, scene.height) == (place,):
            cue = _cue(selector)
            if cue is not None:
                out.append(cue)
    return out


def _cue(selector: Selector) -> Cue | None:
    wordings = []
    for pattern in patterns(selector.kind, where=selector.where, rank=selector.rank, count=selector.count):
        if pattern.held_out or pattern.plural:
            continue
        phrase = pattern.text.replace("{o}", ORDINALS.get(selector.rank, ""))
        wordings.append(Wording(phrase, f"is {phrase.format(s='one')}"))
    if not wordings:
        return None
    name = ":".join(
        [
            selector.kind,
            *([selector.where] if selector.where else []),
            *([str(selector.rank)] if selector.rank > 1 else []),
        ]
    )
    topic = "size" if selector.kind in ("largest", "smallest") else (selector.where or "central")
    return Cue(name, tuple(wordings), topic)


def _relative(
    scene: Scene, kind: Kind, candidates: Sequence[Mapping[str, Any]], target: Mapping[str, Any]
) -> list[Cue]:
    """Cues by what lies beside the target."""
    called = {region["category"] for region in candidates}
    others = sorted({region["category"] for region in scene.regions} - called)
    out = []
    rest = [region for region in candidates if region["number"] != target["number"]]
    for name in others:
        other = scene.taxonomy[name]
        mine, _ = _gap(scene, target, name)
        gaps = [_gap(scene, region, name) for region in rest]
        if not all(certain for _, certain in gaps):
            continue
        if mine <= ADJACENT and all(gap > _CLEAR for gap, _ in gaps):
            noun = _a(other.singular)
            out.append(
                Cue(
                    f"touches:{name}",
                    (
                        Wording(f"the {{s}} that touches {noun}", f"touches {noun}"),
                        Wording(f"the {{s}} bordering on {noun}", f"borders on {noun}"),
                    ),
                    f"beside {name}",
                )
            )
        them = scene.of(name)
        if len(them) != 1 or scene.specks.get(name) or scene.candidates(other)[0] != them:
            continue
        nearest = min((gap for gap, _ in gaps), default=math.inf)
        if mine < math.inf and nearest >= _RATIO * mine and nearest - mine >= _LEAD:
            noun = other.singular
            out.append(
                Cue(
                    f"nearest:{name}",
                    (
                        Wording(f"the {{s}} nearest to the {noun}", f"is the one nearest to the {noun}"),
                        Wording(f"the {{s}} closest to the {noun}", f"is the one closest to the {noun}"),
                    ),
                    f"beside {name}",
                )
            )
        for word, turn in _TURNS.items():
            if _off(them[0], target, turn) <= _WITHIN and all(_off(them[0], r, turn) >= _BEYOND for r in rest):
                out.append(
                    Cue(
                        f"{word} of:{name}",
                        (Wording(f"the {{s}} {word} of the {other.singular}", f"lies {word} of the {other.singular}"),),
                        f"side of {name}",
                    )
                )
    return out


def _gap(scene: Scene, region: Mapping[str, Any], name: str) -> tuple[float, bool]:
    """Gap to the nearest region of a category, inf beyond the reach; and whether that is certain."""
    gaps = [r["gap"] for r in region["relations"] if scene.regions[r["other"]]["category"] == name]
    if gaps:
        return float(min(gaps)), True
    return math.inf, len(region["relations"]) < _MOST_RELATIONS


def _off(other: Mapping[str, Any], region: Mapping[str, Any], turn: float) -> float:
    """Degrees between the way from the other region to a region and a compass direction."""
    dx = region["centroid"][0] - other["centroid"][0]
    dy = region["centroid"][1] - other["centroid"][1]
    apart = abs(math.degrees(math.atan2(dy, dx)) - turn) % 360
    return min(apart, 360 - apart)


def _a(noun: str) -> str:
    return f"{'an' if noun[0].lower() in 'aeio' or noun.startswith('urban') else 'a'} {noun}"


def _rounded(metres: float) -> int:
    step = 5 if metres < 100 else 10
    return max(step, round(metres / step) * step)
