"""A picture of a training's losses."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["draw_curves"]

_TERMS = ("loss", "bce", "dice", "language", "presence", "projection", "colour", "outside")


def draw_curves(metrics: Path, picture: Path, names: Sequence[str] = _TERMS) -> None:
    """Draw those of ``names`` that ``metrics`` (JSON lines with ``step``) has, smoothed over 15 entries, as a PNG."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    names = [n for n in names if any(n in r for r in rows)]
    figure, axes = plt.subplots(1, len(names), figsize=(2.6 * len(names), 2.6), layout="constrained")
    for name, axis in zip(names, np.atleast_1d(axes), strict=True):
        steps, values = np.array([(r["step"], r[name]) for r in rows if name in r], float).T
        axis.plot(steps, values, alpha=0.25, linewidth=0.7)
        if len(values) >= 15:
            smooth = np.convolve(values, np.ones(15) / 15, "valid")
            axis.plot(steps[7 : 7 + len(smooth)], smooth)
        axis.set_title(name, fontsize=9)
        axis.tick_params(labelsize=7)
        axis.set_xlabel("step", fontsize=8)
    figure.savefig(picture, dpi=110)
    plt.close(figure)
