"""Metrics of one mask pair, and the summary of many under the default rules: native grid, GRES rule for empty masks.

Ratios with nothing below the line follow one rule: 1 if prediction and truth are both empty, else 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError
from terraprompt.evaluation.contours import bf_score, boundary_iou
from terraprompt.evaluation.intervals import bootstrap
from terraprompt.geometry.types import Mask
from terraprompt.io.entry_points import installed, load_installed

__all__ = [
    "EXTRAS", "Metric", "Overlap", "Summary", "accuracy", "bootstrap", "dice", "metric", "metric_names", "precision",
    "recall", "specificity", "summarise",
]  # fmt: skip

GROUP = "terraprompt.metrics"


@dataclass(frozen=True, slots=True)
class Overlap:
    """One prediction against one truth, as pixel counts.

    Attributes:
        intersection, predicted, truth: pixels.
    """

    intersection: int
    predicted: int
    truth: int

    @classmethod
    def of(cls, predicted: NDArray[np.generic], truth: NDArray[np.generic]) -> Overlap:
        """Count two masks (H, W) of one size, non-zero = target."""
        if predicted.shape != truth.shape:
            raise ConfigError("Masks must have one size.", received=(predicted.shape, truth.shape))
        p, t = predicted != 0, truth != 0
        return cls(int(np.count_nonzero(p & t)), int(np.count_nonzero(p)), int(np.count_nonzero(t)))

    @property
    def union(self) -> int:
        """Pixels in either."""
        return self.predicted + self.truth - self.intersection

    @property
    def iou(self) -> float:
        """Intersection over union; two empty masks agree: 1."""
        return self.intersection / self.union if self.union else 1.0


def dice(overlap: Overlap) -> float:
    """``2 |P and G| / (|P| + |G|)``, the F1 of pixels; two empty masks: 1."""
    return _ratio(2 * overlap.intersection, overlap.predicted + overlap.truth, overlap)


def precision(overlap: Overlap) -> float:
    """Share of the predicted pixels that are target; nothing predicted: 0, or 1 if there is no target."""
    return _ratio(overlap.intersection, overlap.predicted, overlap)


def recall(overlap: Overlap) -> float:
    """Share of the target that was predicted; no target: 0, or 1 if nothing was predicted."""
    return _ratio(overlap.intersection, overlap.truth, overlap)


def accuracy(overlap: Overlap, pixels: int) -> float:
    """Share of an image's ``pixels`` that are right."""
    return (pixels - overlap.union + overlap.intersection) / pixels


def specificity(overlap: Overlap, pixels: int) -> float:
    """Share of the background that was left alone; an image without background: 1."""
    background = pixels - overlap.truth
    return (pixels - overlap.union) / background if background else 1.0


def _ratio(above: int, below: int, overlap: Overlap) -> float:
    return above / below if below else float(overlap.union == 0)


#: Of prediction and truth, uint8 (H, W), 1 = target, on the protocol's grid, and their counts; a share of 1.
Metric = Callable[[Mask, Mask, Overlap], float]

#: Further metrics of a sample by name; installed ones come beside them, see :func:`metric`.
EXTRAS: Mapping[str, Metric] = MappingProxyType(
    {
        "boundary IoU": lambda p, t, _: boundary_iou(p, t),
        "boundary IoU 0.5 %": lambda p, t, _: boundary_iou(p, t, share=0.005),
        "dice": lambda p, t, o: dice(o),
        "BF score": lambda p, t, _: bf_score(p, t),
        "accuracy": lambda p, t, o: accuracy(o, t.size),
        "precision": lambda p, t, o: precision(o),
        "recall": lambda p, t, o: recall(o),
        "specificity": lambda p, t, o: specificity(o, t.size),
    }
)


def metric_names() -> tuple[str, ...]:
    """Names that :func:`metric` knows: built-in ones, then those by entry point ``terraprompt.metrics``."""
    return tuple(dict.fromkeys((*EXTRAS, *installed(GROUP))))


def metric(name: str) -> Metric:
    """A further metric of a sample; a built-in one goes before an installed one of the same name.

    Raises:
        ConfigError: an unknown name, or an entry point that cannot be imported or called.
    """
    if name in EXTRAS:
        return EXTRAS[name]
    if name not in installed(GROUP):
        raise ConfigError("There is no such metric.", received=name, hint=f"Known: {', '.join(metric_names())}.")
    found: Metric = load_installed(GROUP, name)
    if not callable(found):
        raise ConfigError(
            f'The metric "{name}" is no function.', received=type(found).__name__, hint="See docs/extend/metric.md."
        )
    return found


@dataclass(frozen=True, slots=True)
class Summary:
    """Metrics of a set of samples (spec "evaluation", preset native).

    Attributes:
        samples: how many.
        giou: mean of per-sample IoU.
        ciou: sum of intersections over sum of unions.
        n_acc: share of no-target samples answered empty; None without such samples.
        t_acc: share of target samples not answered empty; None without such samples.
    """

    samples: int
    giou: float
    ciou: float
    n_acc: float | None
    t_acc: float | None


def summarise(overlaps: Iterable[Overlap]) -> Summary:
    """Metrics of at least one sample."""
    rows = list(overlaps)
    if not rows:
        raise ConfigError("There is nothing to summarise.", received="0 samples")
    union = sum(o.union for o in rows)
    empty = [o for o in rows if o.truth == 0]
    target = [o for o in rows if o.truth > 0]
    return Summary(
        samples=len(rows),
        giou=float(np.mean([o.iou for o in rows])),
        ciou=sum(o.intersection for o in rows) / union if union else 1.0,
        n_acc=float(np.mean([o.predicted == 0 for o in empty])) if empty else None,
        t_acc=float(np.mean([o.predicted > 0 for o in target])) if target else None,
    )
