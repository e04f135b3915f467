"""Small inline SVG charts that need nothing but the page they stand on; colours come from its style sheet."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

__all__ = ["BINS", "bar", "bin_counts", "histogram"]

BINS = 20


def bin_counts(values: Sequence[float]) -> list[int]:
    """How many of the values in [0, 1] fall into each of :data:`BINS` equal bins; 1 belongs to the last."""
    counts, _ = np.histogram(np.clip(np.asarray(values, np.float64), 0, 1), BINS, (0.0, 1.0))
    return [int(count) for count in counts]


def histogram(counts: Sequence[int], *, label: str) -> str:
    """Columns of counts over 0 to 1 as SVG.

    Args:
        counts: one a bin, from left to right.
        label: what the picture shows, for those who hear it; plain text, escaped by the caller.
    """
    width, height, left, bottom, top = 360, 170, 34, 22, 14
    most = max([*counts, 1])
    step = (width - left - 6) / max(len(counts), 1)
    parts = [f'<svg class="chart" viewBox="0 0 {width} {height}" role="img" aria-label="{label}">']
    for share in (0.5, 1.0):
        y = height - bottom - share * (height - bottom - top)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 6}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{left - 4}" y="{y + 4:.1f}" text-anchor="end">{round(share * most)}</text>')
    for i, count in enumerate(counts):
        tall = count / most * (height - bottom - top)
        x, y = left + i * step, height - bottom - tall
        low, high = i / len(counts), (i + 1) / len(counts)
        parts.append(
            f'<rect class="column" x="{x + 0.5:.1f}" y="{y:.1f}" width="{step - 1:.1f}" height="{tall:.1f}">'
            f"<title>{low:.2f} to {high:.2f}: {count}</title></rect>"
        )
    for at in (0.0, 0.5, 1.0):
        x = left + at * step * len(counts)
        parts.append(f'<text x="{x:.1f}" y="{height - 6}" text-anchor="middle">{at:g}</text>')
    parts.append(
        f'<line class="axis" x1="{left}" x2="{width - 6}" y1="{height - bottom}" y2="{height - bottom}"/></svg>'
    )
    return "".join(parts)


def bar(value: float, low: float | None, high: float | None) -> str:
    """A share of 1 as a horizontal bar with its interval as a line, SVG that stretches to the width it is given."""
    at = _percent(value)
    parts = [
        '<svg class="bar" viewBox="0 0 100 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="ground" width="100" height="10"/><rect class="column" width="{at}" height="10"/>'
    ]
    if low is not None and high is not None:
        first, last = _percent(low), _percent(high)
        parts.append(f'<rect class="interval" x="{first}" y="4" width="{max(last - first, 0.6):.2f}" height="2"/>')
    return "".join([*parts, "</svg>"])


def _percent(value: float) -> float:
    return round(100 * min(max(value, 0.0), 1.0), 2)
