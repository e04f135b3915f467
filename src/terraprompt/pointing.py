"""Between an engine that points and the flow: proposals on the scene, and results that tell of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from terraprompt.engines.base import Proposals
from terraprompt.geometry import Frame
from terraprompt.outputs import Result, Status
from terraprompt.scene import Scene

__all__ = ["explained", "failure", "on_scene"]


def on_scene(proposals: Proposals, scene: Scene, overview: tuple[int, int]) -> Proposals:
    """What was proposed on an overview of (height, width), in pixels of the scene, and noted there.

    Raises:
        PromptError: a prompt lies outside the overview.
    """
    frame = Frame.stretch((scene.height, scene.width), overview)
    prompts = []
    for prompt in proposals.prompts:
        points = frame.points_back(np.reshape(prompt.points, (-1, 2))).tolist()
        boxes = frame.boxes_back(np.reshape(prompt.boxes, (-1, 4))).tolist()
        moved = replace(prompt, points=tuple(map(tuple, points)), boxes=tuple(map(tuple, boxes)))
        prompts.append(scene.to_pixels(moved))
    notes = {
        **proposals.notes,
        "overview": {"width": overview[1], "height": overview[0]},
        "boxes": [list(box) for prompt in prompts for box in prompt.boxes],
        "points": [[x, y, v] for p in prompts for (x, y), v in zip(p.points, p.labels, strict=True)],
    }
    return replace(proposals, prompts=tuple(prompts), notes=notes)


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


def explained(result: Result, proposals: Proposals) -> Result:
    """The result with the evidence, and where it is empty, with a remark on why."""
    remark = None
    if result.status is Status.NO_TARGET:
        count = len(proposals.prompts)
        proposed = f"{count} target{'' if count == 1 else 's'} proposed, nothing drawn above the threshold."
        remark = proposed if count else proposals.reason or None
    return replace(result, reason=remark, notes=dict(proposals.notes))
