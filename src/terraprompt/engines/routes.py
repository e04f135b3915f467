"""The two routes of GeoSeg in one window, and their fusion.

Route A: similarity map of the phrase on the crop -> clicks -> promptable segmenter. Route B: text-promptable segmenter
with the phrase on the crop. Both see the crop of the refined box; a mask may only lie inside that box.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.engines.base import Answer
from terraprompt.engines.clicks import clicks
from terraprompt.engines.fusion import fuse
from terraprompt.engines.propose import ABSENT, Window
from terraprompt.errors import ConfigError, EngineError
from terraprompt.geometry.boxes import Box
from terraprompt.geometry.types import Logits
from terraprompt.io.rle import RunLengths
from terraprompt.models.clip_surgery import normalised
from terraprompt.prompt import Prompt
from terraprompt.segmenters import PromptableSegmenter, SegmenterAnswer, SegmenterEmbedding
from terraprompt.segmenters.base import BOXES, POINTS, TEXT
from terraprompt.segmenters.similarity import Similarity, TextSimilarity
from terraprompt.vlm.box_refinement import Mode, Refined

__all__ = ["RouteRules", "Routes"]

_TOGETHER = 16  # prompts on one image, so that a hundred masks are not held at once
_NOTED_CELLS = 16  # a side of the similarity map in the notes


Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True, slots=True)
class RouteRules:
    """How the routes are run and joined.

    Attributes:
        mode: "calibrated", or "official": the rules of the release.
        routes: "A" (clicks), "B" (text) or "AB".
        similar: share of the map's range from which a cell is a click.
        most: clicks at most, the strongest; None = all, half of the cells (``official``).
        disagreement: IoU of the routes below which they are not intersected (:func:`terraprompt.engines.fusion.fuse`).
        context: ``calibrated``: surroundings that the text route sees, as a share of the box's side, on each side and
            as far as the window goes; ``official`` crops at the box.
        presence: ``calibrated``: hand on the text route's doubt that there is any target.
        fusion: rules of the fusion where they shall not be those of ``mode``: "official" is a plain intersection.
    """

    mode: Mode = "calibrated"
    routes: Literal["A", "B", "AB"] = "AB"
    similar: float = 0.8
    most: int | None = None
    disagreement: float = 0.7
    context: float = 0.5
    presence: bool = True
    fusion: Mode | None = None

    def __post_init__(self) -> None:
        modes = ("official", "calibrated")
        if self.mode not in modes or self.fusion not in (None, *modes) or self.routes not in ("A", "B", "AB"):
            raise ConfigError(
                "Unknown mode or routes.",
                received=(self.mode, self.fusion, self.routes),
                hint="Modes: official, calibrated. Routes: A (clicks), B (text), AB (both).",
            )
        if self.mode == "official" and self.most is not None:
            raise ConfigError("The official mode takes every click.", received=self.most)
        shares = 0 <= self.similar <= 1 and 0 <= self.disagreement <= 1 and self.context >= 0
        if not shares or (self.most is not None and self.most < 1):
            raise ConfigError(
                "The rules of the routes are out of range.",
                received=(self.similar, self.most, self.disagreement, self.context),
                hint="similar and disagreement are 0..1, clicks at least 1, context at least 0.",
            )


@dataclass(frozen=True, slots=True)
class _Route:
    logits: Logits  # of the window, ABSENT outside the box
    score: float | None
    presence: float | None = None
    points: Points = ()
    crop: tuple[int, int, int, int] | None = None


class Routes:
    """Runs them.

    Args:
        drawing: Route A's segmenter: takes points with a box; ``official`` gives it points alone, one at a time.
        reading: Route B's: takes texts; may be the same one.
        similarity: Route A's maps.
        rules: which routes, how joined.

    Raises:
        EngineError: a segmenter that does not read what its route asks.
    """

    def __init__(
        self,
        drawing: PromptableSegmenter,
        reading: PromptableSegmenter | None,
        similarity: Similarity | None,
        rules: RouteRules,
    ) -> None:
        if "A" in rules.routes and (similarity is None or not {POINTS, BOXES} <= drawing.reads):
            raise EngineError(
                "Route A needs a similarity map and a segmenter of points and boxes.", received=drawing.info.name
            )
        if "B" in rules.routes and (reading is None or TEXT not in reading.reads):
            raise EngineError(
                "Route B needs a segmenter of texts.",
                received=None if reading is None else reading.info.name,
                hint="Take nano or sam3 (--text-segmenter), or Route A alone (--routes A).",
            )
        self.drawing, self.reading, self.similarity, self.rules = drawing, reading, similarity, rules

    @property
    def shares(self) -> bool:
        """Whether Route A's map comes from what Route B says anyway."""
        source = self.similarity
        return self.rules.routes == "AB" and isinstance(source, TextSimilarity) and source.segmenter is self.reading

    @property
    def most_calls(self) -> int:
        """Passes of models that one target can take, embedding its window included."""
        clicked = 0
        if "A" in self.rules.routes and self.similarity is not None:
            clicked = 2 + (0 if self.shares else self.similarity.calls)
        return clicked + (2 if "B" in self.rules.routes else 0)

    def predict(self, window: Window, refined: Refined, phrase: str) -> Answer:
        """Both routes and their fusion in one window.

        Args:
            window: that holds the target.
            refined: its boxes in pixels of the window.
            phrase: what it is.

        Returns:
            The logits of the fused mask: the smaller ones where the routes are intersected, the larger ones where
            they are united. The notes hold everything on the way there.
        """
        started = time.monotonic()
        size = (int(window.image.shape[0]), int(window.image.shape[1]))
        x0, y0, x1, y1 = refined.crop
        calls, window.calls = window.calls, 0
        notes: dict[str, Any] = {"phrase": phrase, "boxes": [list(refined.expanded)], "crop": list(refined.crop)}
        read = clicked = None
        if "B" in self.rules.routes and self.reading is not None:
            left, top, right, bottom = seen = self._seen(refined, size)
            [embedding] = self.reading.embed([np.ascontiguousarray(window.image[top:bottom, left:right])])
            [told] = self.reading.predict(embedding, [Prompt(phrase)])
            calls += 2
            logits = np.full(size, ABSENT, np.float32)
            logits[top:bottom, left:right] = told.logits
            inside = _inside(logits, refined.expanded)
            read = _Route(inside, _text_score(told, inside[top:bottom, left:right]), told.presence, crop=seen)
        if "A" in self.rules.routes and self.similarity is not None:
            if self.shares and isinstance(self.similarity, TextSimilarity):
                similarity = self.similarity.of(logits[y0:y1, x0:x1])
            else:
                similarity = self.similarity.map(np.ascontiguousarray(window.image[y0:y1, x0:x1]), phrase)
                calls += self.similarity.calls
            clicked = self._clicked(window, refined, similarity)
            calls += bool(clicked.points)
            notes["similarity"] = _noted_map(similarity, refined.crop)
            notes["points"] = [[x, y, 1] for x, y in clicked.points]
        answer = self._fused(clicked, read, refined.expanded, size, notes)
        seconds, window.seconds = window.seconds + time.monotonic() - started, 0.0
        notes |= {"calls": calls, "seconds": round(seconds, 3)}
        return answer

    def _seen(self, refined: Refined, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """What the text route is shown."""
        x0, y0, x1, y1 = refined.crop
        if self.rules.mode == "official":
            return x0, y0, x1, y1
        across, down = (math.ceil(self.rules.context * side) for side in (x1 - x0, y1 - y0))
        return max(x0 - across, 0), max(y0 - down, 0), min(x1 + across, size[1]), min(y1 + down, size[0])

    def _clicked(self, window: Window, refined: Refined, similarity: NDArray[np.float32]) -> _Route:
        """Clicks and what the segmenter makes of them; without a click the route is empty."""
        rules, box = self.rules, refined.expanded
        x0, y0, x1, y1 = refined.crop
        shape = (y1 - y0, x1 - x0)
        if rules.mode == "calibrated":
            similarity = _within(similarity, refined)
        found = clicks(similarity, shape, threshold=rules.similar, mode=rules.mode).inside
        found = found + np.array([x0, y0])
        if rules.mode == "calibrated" and len(found):  # a click beside the box would pull the mask off the target
            found = found[((found >= box[:2]) & (found < box[2:])).all(axis=1)]
            if not len(found):  # the box is smaller than a cell of the map
                found = np.array([[(box[0] + box[2]) / 2, (box[1] + box[3]) / 2]])
        found = found if rules.most is None else found[-rules.most :]
        if not len(found):
            return _Route(np.full(window.image.shape[:2], ABSENT, np.float32), None)
        points = tuple((float(x), float(y)) for x, y in found)
        assert window.embedding is not None
        if rules.mode == "official":
            return self._clicked_one_by_one(window.embedding, points, box)
        [drawn] = self.drawing.predict(window.embedding, [Prompt(points=points, boxes=(box,))])
        return _Route(_inside(drawn.logits, box), drawn.score, drawn.presence, points)

    def _clicked_one_by_one(self, embedding: SegmenterEmbedding, points: Points, box: Box) -> _Route:
        """The release's Route A: each point is a prompt of its own, without the box, and the masks are joined by OR."""
        logits, score = np.full(embedding.size, ABSENT, np.float32), 0.0
        for first in range(0, len(points), _TOGETHER):
            alone = [Prompt(points=(point,)) for point in points[first : first + _TOGETHER]]
            for drawn in self.drawing.predict(embedding, alone):
                np.maximum(logits, drawn.logits, out=logits)
                score = max(score, drawn.score)
        return _Route(_inside(logits, box), score, None, points)

    def _fused(
        self, clicked: _Route | None, read: _Route | None, box: Box, size: tuple[int, int], notes: dict[str, Any]
    ) -> Answer:
        rules = self.rules
        notes["routes"] = {
            name: _noted_route(route, box) for name, route in (("A", clicked), ("B", read)) if route is not None
        }
        masks = [None if route is None else route.logits > 0 for route in (clicked, read)]
        fusion = fuse(
            masks[0],
            masks[1],
            size=size,
            points_score=None if clicked is None else clicked.score,
            text_score=None if read is None else read.score,
            disagreement=rules.disagreement,
            measure="iou",
            mode=rules.fusion or rules.mode,
        )
        fields = [route.logits for route in (clicked, read) if route is not None]
        if fusion.rule == "intersection":
            logits = np.minimum.reduce(fields)
        elif fusion.rule in ("points", "points_scored_higher"):
            logits = fields[0]
        elif fusion.rule in ("text", "text_scored_higher"):
            logits = fields[-1]
        else:  # united, or both without a pixel
            logits = np.maximum.reduce(fields)
        presence = read.presence if read is not None and rules.mode == "calibrated" and rules.presence else None
        notes["fusion"] = {"rule": fusion.rule, "agreement": fusion.agreement, **_noted_mask(logits > 0, box)}
        notes["presence"] = presence
        return Answer(logits, presence, notes)


def _text_score(told: SegmenterAnswer, inside: Logits) -> float:
    """Confidence in what lies in the box: of the best instance there, or the mean probability of the mask there."""
    here = inside > ABSENT
    if told.instances:
        return max((i.score for i in told.instances if (i.mask & here).any()), default=0.0)
    mask = inside[inside > 0].astype(np.float64)
    return float((1 / (1 + np.exp(-mask))).mean()) if mask.size else 0.0


def _pixels(box: Box, size: tuple[int, ...]) -> tuple[slice, slice]:
    """Rows and columns of the pixels that a box touches."""
    x0, y0, x1, y1 = box
    return (
        slice(max(math.floor(y0), 0), min(math.ceil(y1), size[0])),
        slice(max(math.floor(x0), 0), min(math.ceil(x1), size[1])),
    )


def _inside(logits: Logits, box: Box) -> Logits:
    """Nothing outside the box."""
    out = np.full_like(logits, ABSENT)
    here = _pixels(box, logits.shape)
    out[here] = logits[here]
    return out


def _within(similarity: NDArray[np.float32], refined: Refined) -> NDArray[np.float32]:
    """The map with its cells outside the box at the lowest value, where some cells lie inside.

    A crop of less than 16 pixels was widened, and what is most like the phrase may lie beside the target.
    """
    x0, y0, x1, y1 = refined.crop
    rows, columns = similarity.shape
    xs = x0 + (np.arange(columns) + 0.5) * (x1 - x0) / columns
    ys = y0 + (np.arange(rows) + 0.5) * (y1 - y0) / rows
    box = refined.expanded
    inside = ((ys >= box[1]) & (ys < box[3]))[:, None] & ((xs >= box[0]) & (xs < box[2]))
    if not inside.any():
        return similarity
    return np.where(inside, similarity, similarity.min()).astype(np.float32)


def _noted_map(similarity: NDArray[np.float32], crop: tuple[int, int, int, int]) -> dict[str, Any]:
    """The map at no more than 16 x 16 cells, 0..255 from its least to its greatest value."""
    rows, columns = (math.ceil(side / _NOTED_CELLS) for side in similarity.shape)
    cells = np.round(255 * normalised(similarity))[::rows, ::columns].astype(int)
    low, high = float(similarity.min()), float(similarity.max())
    return {"box": list(crop), "low": round(low, 4), "high": round(high, 4), "cells": cells.tolist()}


def _noted_route(route: _Route, box: Box) -> dict[str, Any]:
    score = None if route.score is None else round(float(route.score), 4)
    presence = None if route.presence is None else round(float(route.presence), 4)
    seen = {} if route.crop is None else {"crop": list(route.crop)}
    return {"score": score, "presence": presence, **seen, **_noted_mask(route.logits > 0, box)}


def _noted_mask(mask: NDArray[np.bool_], box: Box) -> dict[str, Any]:
    """The mask within the box as COCO run lengths, with the pixels that they cover."""
    rows, columns = _pixels(box, mask.shape)
    coded = RunLengths.encode(mask[rows, columns])
    return {
        "pixels": int(np.count_nonzero(mask)),
        "box": [columns.start, rows.start, columns.stop, rows.stop],
        "mask": {"size": [coded.height, coded.width], "counts": coded.counts},
    }
