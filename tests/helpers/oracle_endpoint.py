"""An endpoint that knows the truth: it answers from labels, in whatever coordinates a model may answer in."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from scipy import ndimage

from endpoint_server import Asked, Behaviour, Say
from terraprompt.vlm.probe import PROBE_TEXT

__all__ = ["Oracle", "Target", "boxed", "targets"]


@dataclass(frozen=True)
class Target:
    """A box and two points inside, in pixels of the scene."""

    box: tuple[float, float, float, float]
    points: tuple[tuple[float, float], tuple[float, float]]


def targets(mask: np.ndarray, *, least: int = 30, most: int = 6) -> list[Target]:
    """The largest connected parts of a mask (H, W), one target each."""
    labels, count = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(labels.ravel(), minlength=count + 1)
    order = [i for i in np.argsort(-sizes[1:], kind="stable") + 1 if sizes[i] >= least][:most]
    found = []
    for i in order:
        ys, xs = np.nonzero(labels == i)
        box = (float(xs.min()), float(ys.min()), float(xs.max() + 1), float(ys.max() + 1))
        depth = ndimage.distance_transform_edt(np.pad(labels == i, 1))[1:-1, 1:-1]
        first = np.unravel_index(int(depth.argmax()), depth.shape)
        far = np.hypot(ys - first[0], xs - first[1])
        inner = depth[ys, xs] >= depth.max() / 2
        k = int(np.where(inner, far, -1).argmax())
        spots = ((first[1] + 0.5, first[0] + 0.5), (xs[k] + 0.5, ys[k] + 0.5))
        found.append(Target(box, ((float(spots[0][0]), float(spots[0][1])), (float(spots[1][0]), float(spots[1][1])))))
    return found


def boxed(mask: np.ndarray, target: Target) -> np.ndarray:
    """The part of a mask inside a target's box."""
    x0, y0, x1, y1 = (int(v) for v in target.box)
    out = np.zeros_like(mask)
    out[y0:y1, x0:x1] = mask[y0:y1, x0:x1]
    return out


@dataclass
class Oracle:
    """Plays a model with perfect eyes.

    Attributes:
        units: "pixels" of the picture that came, "0..1" or "0..1000".
        size: (height, width) of the scene.
        targets: in pixels of the scene; empty = there are none.
        digits: decimals of its numbers, None = all of them.
    """

    units: str
    size: tuple[int, int] = (1, 1)
    targets: Sequence[Target] = ()
    digits: int | None = None
    shown: list[tuple[int, int]] = field(default_factory=list)

    def __call__(self, asked: Asked) -> Behaviour:
        height, width = asked.image.shape[:2]
        if PROBE_TEXT in asked.words:
            ys, xs = np.nonzero(asked.image.min(2) > 170)
            drawn = (float(xs.min()), float(ys.min()), xs.max() + 1.0, ys.max() + 1.0)
            middle = ((drawn[0] + drawn[2]) / 2, (drawn[1] + drawn[3]) / 2)
            seen = [Target(drawn, (middle, middle))]
            return Say(replace(self, size=(height, width), targets=seen).words((height, width)))
        self.shown.append((height, width))
        return Say(self.words((height, width)))

    def words(self, shown: tuple[int, int]) -> str:
        """The answer about a picture shown at (height, width)."""
        reach = {"pixels": (shown[1], shown[0]), "0..1": (1.0, 1.0), "0..1000": (1000.0, 1000.0)}[self.units]
        by = (reach[0] / self.size[1], reach[1] / self.size[0])

        def moved(*numbers: float) -> list[float]:
            out = [v * by[i % 2] for i, v in enumerate(numbers)]
            return out if self.digits is None else [round(v, self.digits) for v in out]

        items = [{"bbox_2d": moved(*t.box), "positive_points": [moved(*p) for p in t.points]} for t in self.targets]
        count = len(items)
        return f"<think>I know {count} of them.</think><answer>```json\n{json.dumps(items)}\n```</answer>"
