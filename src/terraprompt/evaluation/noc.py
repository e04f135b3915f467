"""Number of clicks (NoC): how many simulated clicks an interactive system needs to reach an IoU.

The simulated person sees the truth, clicks into the middle of the worst mistake, looks at the new mask, clicks again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from terraprompt.errors import ConfigError
from terraprompt.evaluation.intervals import bootstrap
from terraprompt.evaluation.metrics import Overlap
from terraprompt.evaluation.scores import Estimate
from terraprompt.geometry.interior import interior_distance
from terraprompt.geometry.types import Bools

__all__ = ["LIMIT", "Rule", "next_click", "noc", "simulate", "summarise_clicks"]

#: Most clicks per target; a target that is not reached counts as this many.
LIMIT = 20

Rule = Literal["pixels", "depth"]
#: Mask (H, W) for clicks: float64 (K, 2) points xy, and int64 (K,) labels, 1 = on the target, 0 = beside it.
Predict = Callable[[NDArray[np.float64], NDArray[np.int64]], NDArray[np.generic]]


def simulate(
    predict: Predict, truth: NDArray[np.generic], *, limit: int = LIMIT, target_iou: float = 1.0, rule: Rule = "pixels"
) -> list[float]:
    """IoU after each click of a simulated person, the first click from an empty mask.

    Args:
        predict: called with all clicks so far, as points (K, 2) in continuous pixel coordinates xy (a click lies at the
            centre of a pixel) and labels (K,); gives the mask (H, W), non-zero = target.
        truth: mask (H, W) with a target.
        limit: most clicks.
        target_iou: no click more once this IoU is reached.
        rule: see :func:`next_click`.

    Returns:
        One IoU a click; fewer than ``limit`` if ``target_iou`` was reached or every wrong pixel was clicked.

    Raises:
        ConfigError: no target, no click allowed, or a mask of another size.
    """
    wanted = truth != 0
    if not wanted.any():
        raise ConfigError("Clicks can be counted only towards a target; this truth is empty.", received=truth.shape)
    if limit < 1:
        raise ConfigError("At least one click must be allowed.", received=limit)
    mask = np.zeros_like(wanted)
    clicked = np.zeros_like(wanted)
    points: list[tuple[float, float]] = []
    labels: list[int] = []
    ious: list[float] = []
    while len(ious) < limit and not (ious and ious[-1] >= target_iou):
        click = next_click(mask, wanted, clicked=clicked, rule=rule)
        if click is None:
            break
        row, column, label = click
        clicked[row, column] = True
        points.append((column + 0.5, row + 0.5))
        labels.append(label)
        mask = np.asarray(predict(np.asarray(points, np.float64), np.asarray(labels, np.int64))) != 0
        ious.append(Overlap.of(mask, wanted).iou)
    return ious


def next_click(
    mask: Bools, truth: Bools, *, clicked: Bools | None = None, rule: Rule = "pixels"
) -> tuple[int, int, int] | None:
    """Where the simulated person clicks: the farthest interior point of the larger error region.

    The two regions are the missed target and the false alarm, each as a whole; the depth of a pixel is the distance of
    its centre to the nearest pixel centre outside of its region, the image's edge being outside. Of equally deep pixels
    the first, row by row; of equally large regions the missed target.

    Args:
        mask: bool (H, W).
        truth: as ``mask``.
        clicked: bool (H, W), pixels that were clicked before and are not clicked again.
        rule: which region is larger: the one with more "pixels", or the one with more "depth", as the evaluations of
            interactive segmentation after RITM (Sofiiuk et al. 2021) have it.

    Returns:
        (row, column, label) with label 1 on a missed target and 0 on a false alarm; None if nothing wrong is left to
        click.
    """
    free = np.ones_like(truth) if clicked is None else ~clicked
    regions = [(truth & ~mask, 1), (mask & ~truth, 0)]
    found = [(region, interior_distance(region) * free, label) for region, label in regions if (region & free).any()]
    if not found:
        return None
    _, depth, label = max(found, key=lambda f: np.count_nonzero(f[0]) if rule == "pixels" else f[1].max())
    row, column = np.unravel_index(int(depth.argmax()), depth.shape)
    return int(row), int(column), label


def noc(ious: Sequence[float], threshold: float, *, limit: int = LIMIT) -> int:
    """Clicks until the IoU is at least ``threshold``; ``limit`` if it never is.

    Args:
        ious: of :func:`simulate`.
        threshold: 0.85 for NoC@85, 0.9 for NoC@90.
        limit: the one that the clicks were simulated with.
    """
    return next((i for i, iou in enumerate(ious[:limit], start=1) if iou >= threshold), limit)


def summarise_clicks(
    curves: Iterable[Sequence[float]],
    *,
    thresholds: Sequence[float] = (0.85, 0.9),
    limit: int = LIMIT,
    seed: int = 0,
) -> dict[str, Estimate]:
    """Mean clicks and failures over targets, with seeded 95 % intervals.

    Args:
        curves: the IoUs of :func:`simulate`, of each target, at least one.
        thresholds: see :func:`noc`.
        limit: see :func:`noc`.
        seed: of the intervals.

    Returns:
        "NoC@85": mean clicks, and "NoF@85": share of targets that were not reached within the limit; the same for every
        threshold.
    """
    rows = [list(curve) for curve in curves]
    out = {}
    for threshold in thresholds:
        clicks = [float(noc(row, threshold, limit=limit)) for row in rows]
        failures = [float(max(row[:limit], default=0.0) < threshold) for row in rows]
        for name, values in ((f"NoC@{100 * threshold:g}", clicks), (f"NoF@{100 * threshold:g}", failures)):
            low, high = bootstrap(values, seed=seed)
            out[name] = Estimate(float(np.mean(values)), low, high, len(values))
    return out
