"""What the user asks for: text, points or boxes, as one frozen value."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from terraprompt.errors import PromptError

__all__ = ["Prompt", "PromptFeature", "Task", "infer_text_task"]

Point = tuple[float, float]
Box = tuple[float, float, float, float]


class Task(StrEnum):
    """The three kinds of instruction (UniGeoSeg, section 1), in the order in which tensors number them."""

    INTERACTIVE = "interactive"
    REFERRING = "referring"
    REASONING = "reasoning"


_QUESTION = re.compile(
    r"\?|^\s*(where|which|what|who|how|if|identify where|find where|in case)\b"
    r"|\b(could|would|should|can|might|may|must|used (for|to|by|as)|needed|suitable|likely|able to|serves?|"
    r"intended|meant|designed|because|in order to|so that|responsible|provides?|allows?|supports?|helps?)\b"
    r"|\b(where|what)\b|\b(things?|objects?|places?|areas?|surfaces?|structures?|land|ground|spots?|parts?) "
    r"(that|which|where)\b"
    r"|\b(where|that|which|who|people|one)\b.+\b(is|are|be|do|does|go|goes|live|lives|work|works|stand|stands|get|gets|"
    r"travel|travels|park|parks|drive|drives|swim|swims|grow|grows|sleep|sleeps)\b",
    re.IGNORECASE,
)


def _contains(box: Box, point: Point) -> bool:
    return box[0] <= point[0] <= box[2] and box[1] <= point[1] <= box[3]


def _task(value: Task | str) -> Task:
    try:
        return Task(value)
    except ValueError:
        raise PromptError("Unknown task.", received=value, hint=f"Tasks: {', '.join(Task)}.") from None


def _short_crs(crs: str | None) -> str:
    """A CRS in a few words: of WKT or PROJJSON its name."""
    if crs is None:
        return "pixel"
    name = re.search(r'"name"\s*:\s*"([^"]*)"|\["([^"]*)"', crs)
    return crs if name is None else name[1] or name[2]


_POLITE = re.compile(r"^\s*(please\s+)?(can|could|would|will) you (please )?", re.IGNORECASE)


def infer_text_task(text: str) -> Task:
    """Reasoning if the sentence asks for a function, use or consequence; referring if it names the target.

    A rule, not a model: questions ("where …", "which …?"), modal verbs and words of purpose mean reasoning.
    """
    return Task.REASONING if _QUESTION.search(_POLITE.sub("", text)) else Task.REFERRING


def _numbers(values: Sequence[float], length: int, what: str) -> tuple[float, ...]:
    try:
        numbers = tuple(float(v) for v in values)
    except (TypeError, ValueError, OverflowError):
        raise PromptError(f"A {what} must hold {length} numbers.", received=values) from None
    if len(numbers) != length:
        raise PromptError(f"A {what} must hold {length} numbers.", received=values)
    if not all(math.isfinite(n) for n in numbers):
        raise PromptError(f"A {what} must be finite.", received=values, hint="Remove NaN or infinite values.")
    return numbers


_LONGEST = 10_000
# Controls, marks that turn the writing direction round, and lone surrogates: what a file name or a log must not hold.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class PromptFeature:
    """The feature of a file, a table, … that a point or a box comes from.

    Attributes:
        id: its own, or its number from 1 where it has none.
        attributes: (name, value) pairs: text, numbers, booleans, dates, None.
    """

    id: int | str
    attributes: tuple[tuple[str, Any], ...] = ()


@dataclass(frozen=True, slots=True)
class Prompt:
    """An instruction about one scene.

    Args:
        text: the sentence, e.g. "the rooftops"; None for points or boxes alone.
        points: ``(x, y)`` pairs.
        labels: one per point, 1 = on the target, 0 = not on it. Empty means all 1.
        boxes: ``(x0, y0, x1, y1)``; corners may come in any order and are sorted.
        crs: the CRS of points and boxes (anything pyproj accepts, e.g. "EPSG:4326", x = longitude), or None for
            pixel coordinates of the scene: x to the right, y down, (0, 0) the outer corner of the first pixel.
        groups: which target each point belongs to, one number a point; empty = all describe one target. Points inside
            a box belong to that box whatever their group.
        task_override: overrides the inferred :attr:`task`.
        features: what each point, then each box, comes from; empty = they were given as numbers.

    Raises:
        PromptError: nothing to go by, empty text, NaN, an empty box, labels that do not fit the points, or an
            interactive task without points or boxes.
    """

    text: str | None = None
    points: tuple[Point, ...] = ()
    labels: tuple[int, ...] = ()
    boxes: tuple[Box, ...] = ()
    crs: str | None = None
    groups: tuple[int, ...] = ()
    task_override: Task | None = None
    features: tuple[PromptFeature, ...] = ()

    def __post_init__(self) -> None:
        if self.text is not None:
            text = " ".join(str(self.text).split())
            if not text:
                raise PromptError(
                    "The instruction is empty.",
                    received=repr(self.text),
                    hint='Say what to find, e.g. "the buildings".',
                )
            if len(text) > _LONGEST or _UNPRINTABLE.search(text):
                raise PromptError(
                    f"An instruction has at most {_LONGEST:,} characters, all of which can be printed.",
                    received=f"{len(text):,} characters, beginning with {text[:40]!a}",
                    hint="Say it in a sentence.",
                )
            object.__setattr__(self, "text", text)
        points = tuple(_numbers(p, 2, "point") for p in self.points)
        boxes = []
        for raw in self.boxes:
            x0, y0, x1, y1 = _numbers(raw, 4, "box")
            if x0 == x1 or y0 == y1:
                raise PromptError("A box has no area.", received=raw, hint="Give two opposite corners: x0,y0,x1,y1.")
            boxes.append((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)))
        labels = tuple(self.labels) or (1,) * len(points)
        if len(labels) != len(points):
            raise PromptError(
                "Every point needs one label.",
                received=f"{len(points)} points, {len(labels)} labels",
                hint="Give 1 (on the target) or 0 (not on it) for each point.",
            )
        groups = tuple(self.groups)
        if groups and len(groups) != len(points):
            raise PromptError(
                "Every point needs one group, or none has one.",
                received=f"{len(points)} points, {len(groups)} groups",
            )
        if self.features and len(self.features) != len(points) + len(boxes):
            raise PromptError(
                "Every point and every box comes from one feature, or none does.",
                received=f"{len(points)} points, {len(boxes)} boxes, {len(self.features)} features",
            )
        if any(label not in (0, 1) for label in labels):
            raise PromptError("A point label is 1 (on the target) or 0 (not on it).", received=labels)
        if points and not boxes and not any(labels):
            raise PromptError(
                "All points are negative, so nothing is asked for.",
                received=labels,
                hint="Add a point with label 1 or a box.",
            )
        if self.text is None and not points and not boxes:
            raise PromptError("The prompt is empty.", hint="Give a text, a point or a box.")
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "labels", tuple(int(label) for label in labels))
        object.__setattr__(self, "boxes", tuple(boxes))
        object.__setattr__(self, "groups", groups)
        if self.task_override is not None:
            object.__setattr__(self, "task_override", _task(self.task_override))
            if self.task_override is Task.INTERACTIVE and not self.is_spatial:
                raise PromptError(
                    "An interactive task needs a point or a box.", hint="Add one, or choose another task."
                )
            if self.task_override is not Task.INTERACTIVE and self.text is None:
                raise PromptError(
                    f"A {self.task_override.value} task needs a text.", hint="Add one, or choose interactive."
                )

    @property
    def is_spatial(self) -> bool:
        """Whether points or boxes are part of the prompt."""
        return bool(self.points or self.boxes)

    @property
    def task(self) -> Task:
        """Interactive if there are points or boxes, else from the text; ``task_override`` wins."""
        if self.task_override is not None:
            return self.task_override
        if self.is_spatial:
            return Task.INTERACTIVE
        return infer_text_task(self.text or "")

    def feature(self, index: int) -> PromptFeature:
        """What a point, or with an index from the number of points on a box, comes from: its number if nothing."""
        return self.features[index] if self.features else PromptFeature(index + 1)

    def objects(self) -> tuple[Prompt, ...]:
        """The prompt split into one prompt a target, in a stable order.

        Each box is one target; points inside it refine it. Positive points outside all boxes describe one more target
        for each of their groups. A negative point outside all boxes refines the targets of its group; every target if
        there are no groups, or none of its group is positive. A prompt without points and boxes is returned as it is.
        """
        if not self.is_spatial:
            return (self,)
        groups = self.groups or (0,) * len(self.points)
        spots = list(zip(self.points, self.labels, groups, strict=True))
        led = {group for _, label, group in spots if label == 1} if self.groups else set()
        homes = [[i for i, box in enumerate(self.boxes) if _contains(box, point)] for point, _, _ in spots]
        parts = []
        for i, box in enumerate(self.boxes):
            inside = {g for (_, v, g), home in zip(spots, homes, strict=True) if v == 1 and i in home}
            mine = [
                (p, v) for (p, v, g), home in zip(spots, homes, strict=True)
                if i in home or (not home and v == 0 and (g in inside or g not in led))
            ]  # fmt: skip
            parts.append(self._part(mine, (box,)))
        outside = [spot for spot, home in zip(spots, homes, strict=True) if not home]
        for group in dict.fromkeys(g for _, v, g in outside if v == 1):
            mine = [(p, v) for p, v, g in outside if g == group or (v == 0 and g not in led)]
            parts.append(self._part(mine, ()))
        return tuple(parts)

    def _part(self, spots: list[tuple[Point, int]], boxes: tuple[Box, ...]) -> Prompt:
        points, labels = tuple(p for p, _ in spots), tuple(v for _, v in spots)
        return replace(self, points=points, labels=labels, boxes=boxes, groups=(), features=())

    def describe(self) -> str:
        """One line for provenance tags and attribute tables."""
        parts = [self.text] if self.text else []
        if self.points:
            ends = [f",{group}" for group in self.groups] or [""] * len(self.points)
            spots = zip(self.points, self.labels, ends, strict=True)
            parts.append("points " + " ".join(f"{x:.10g},{y:.10g},{v}{end}" for (x, y), v, end in spots))
        if self.boxes:
            parts.append("boxes " + " ".join(",".join(f"{v:.10g}" for v in box) for box in self.boxes))
        if self.is_spatial:
            parts.append(f"({_short_crs(self.crs)})")
        return " ".join(parts)
