"""Overlap of masks under the default protocol ``native``: native grid, GRES rule for empty masks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError

__all__ = ["Overlap", "Summary", "bootstrap", "summarise"]


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


def bootstrap(values: Sequence[float], *, seed: int = 0, rounds: int = 2000) -> tuple[float, float]:
    """95 % percentile interval of the mean of at least one of ``values``, seeded."""
    if not len(values):
        raise ConfigError("An interval needs at least one value.", received="0 values")
    array = np.asarray(values, np.float64)
    picks = np.random.default_rng(seed).integers(len(array), size=(rounds, len(array)))
    low, high = np.percentile(array[picks].mean(1), (2.5, 97.5))
    return float(low), float(high)
