"""Between an engine and the flow: proposals on the scene, evidence on the scene, and results that tell of both."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from terraprompt.engines.base import Proposals
from terraprompt.geometry.flip import Flip, FlippedFrame
from terraprompt.geometry.frame import Frame
from terraprompt.io.rle import RunLengths
from terraprompt.outputs import Result, Status
from terraprompt.raster import Scene, Tile

__all__ = ["failure", "no_target_reason", "notes_to_scene", "proposals_to_scene", "with_notes"]

#: Keys of notes that hold coordinates, and how many numbers a row of them has at least.
_PLACES = {"box": 4, "crop": 4, "boxes": 4, "points": 2}


def proposals_to_scene(proposals: Proposals, scene: Scene, overview: tuple[int, int]) -> Proposals:
    """What was proposed on a north-up overview of (height, width), in pixels of the scene, and noted there.

    Raises:
        PromptError: a prompt lies outside the overview.
    """
    frame = FlippedFrame(Frame.stretch((scene.height, scene.width), overview), scene.flip)
    prompts = []
    for prompt in proposals.prompts:
        points = frame.points_back(np.reshape(prompt.points, (-1, 2))).tolist()
        boxes = frame.boxes_back(np.reshape(prompt.boxes, (-1, 4))).tolist()
        moved = replace(prompt, points=tuple(map(tuple, points)), boxes=tuple(map(tuple, boxes)))
        prompts.append(scene.clip_prompt(moved))
    grounded = proposals.notes.get("grounded")
    notes = {
        **proposals.notes,
        **({} if grounded is None else {"grounded": _moved(grounded, frame)}),
        "overview": {"width": overview[1], "height": overview[0]},
        "boxes": [list(box) for prompt in prompts for box in prompt.boxes],
        "points": [[x, y, v] for p in prompts for (x, y), v in zip(p.points, p.labels, strict=True)],
    }
    return replace(proposals, prompts=tuple(prompts), notes=notes)


def no_target_reason(proposals: Proposals) -> str | None:
    """Why nothing was found where this was proposed."""
    count = len(proposals.prompts)
    proposed = f"{count} target{'' if count == 1 else 's'} proposed, nothing drawn above the threshold."
    return proposed if count else proposals.reason or None


def failure(reason: str, scene: Scene, provenance: Mapping[str, Any], proposals: Proposals) -> Result:
    """A failed result with the evidence."""
    return Result.failure(
        reason,
        width=scene.width,
        height=scene.height,
        crs=scene.crs,
        transform=scene.transform,
        provenance=provenance,
        notes=proposals.notes,
    )


def with_notes(
    result: Result,
    proposals: Proposals,
    notes_by_target: Mapping[int, Mapping[str, Any]] | None = None,
    seconds: float = 0.0,
) -> Result:
    """The result with the evidence, and where it is empty, with a remark on why.

    Args:
        result: of what was proposed.
        proposals: on the scene.
        notes_by_target: what the engine noted on each proposal, by its number, in pixels of the scene.
        seconds: that the whole query took.
    """
    reason = no_target_reason(proposals) if result.status is Status.NO_TARGET else None
    notes = dict(proposals.notes)
    if notes_by_target and any(notes_by_target.values()):
        targets = [dict(notes_by_target.get(i, {})) for i in range(len(proposals.prompts))]
        notes["targets"] = targets
        notes["points"] = [*notes.get("points", []), *(p for target in targets for p in target.get("points", []))]
        calls = notes.get("calls", 0) + sum(target.get("calls", 0) for target in targets)
        notes["cost"] = {"calls": calls, "seconds": round(seconds, 3)}
    return replace(result, reason=reason, notes=notes)


def notes_to_scene(notes: Mapping[str, Any], tile: Tile, flip: Flip | None = None) -> dict[str, Any]:
    """An answer's notes as JSON values, with what they say about places moved from the tile's grid to the scene.

    The engine saw the grid turned over by ``flip``. Masks ("mask", run lengths) and maps ("cells") are turned back.
    Moved are values under the keys "box", "crop", "boxes" and "points", at any depth; of other forms than rows of
    numbers they are told as they are.
    """
    moved = _moved(_plain(notes), FlippedFrame(tile.frame, flip or Flip()))
    return {str(key): value for key, value in moved.items()}


def _moved(value: Any, frame: FlippedFrame) -> Any:
    if isinstance(value, Mapping):
        value = _turned_back(value, frame.flip)
        return {
            key: _rows(item, frame, _PLACES[key], alone=key in ("box", "crop"))
            if key in _PLACES and not isinstance(item, Mapping)
            else _moved(item, frame)
            for key, item in value.items()
        }
    return [_moved(item, frame) for item in value] if isinstance(value, list | tuple) else value


def _turned_back(value: Mapping[str, Any], flip: Flip) -> Mapping[str, Any]:
    """Notes with their masks and maps as the scene is stored."""
    if flip and isinstance(value.get("mask"), Mapping):
        mask = RunLengths.encode(flip.array(RunLengths.of(value["mask"]).load()))
        value = {**value, "mask": {"size": [mask.height, mask.width], "counts": mask.counts}}
    if flip and "cells" in value:
        value = {**value, "cells": flip.array(np.asarray(value["cells"])).tolist()}
    return value


def _rows(value: Any, frame: FlippedFrame, width: int, *, alone: bool) -> Any:
    """Rows of at least ``width`` numbers, moved; anything else as it is."""
    given = [value] if alone else value or []
    try:
        rows = np.asarray(given, np.float64)
    except (TypeError, ValueError):
        return value
    if rows.ndim != 2 or rows.shape[1] < width:
        return value
    moved = frame.boxes_back(rows[:, :4]) if width == 4 else frame.points_back(rows[:, :2])
    out = [[*place, *row[width:]] for place, row in zip(moved.tolist(), given, strict=True)]
    return out[0] if alone else out


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return value if isinstance(value, str | int | float | bool | None) else str(value)
