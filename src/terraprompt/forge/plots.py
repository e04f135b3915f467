"""Class distributions of a forged set as one SVG (UniGeoSeg, Figure 12): overall, and for each task."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

__all__ = ["distribution_svg"]

_WIDTH, _COLUMN, _PLOT, _NAMES, _TITLE = 900, 26, 130, 120, 28
_COLOURS = {"overall": "#4a6fa5", "interactive": "#6a994e", "referring": "#bc6c25", "reasoning": "#7b2d8b"}


def distribution_svg(distributions: Mapping[str, Mapping[str, int]]) -> str:
    """A panel of columns for each distribution, the most frequent category first, a height for each count.

    Args:
        distributions: title -> category -> samples.
    """
    most_columns = max((len(counts) for counts in distributions.values()), default=0)
    width = max(_WIDTH, 60 + _COLUMN * most_columns)
    panel = _TITLE + _PLOT + _NAMES
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {panel * len(distributions)}" '
        f'width="{width}" font-family="sans-serif" font-size="11" role="img">',
        f'<rect width="{width}" height="{panel * len(distributions)}" fill="white"/>',
    ]
    for number, (title, counts) in enumerate(distributions.items()):
        top, most = number * panel, max([*counts.values(), 1])
        said = f"{title}: {sum(counts.values()):,} samples, {len(counts)} categories"
        parts.append(f'<text x="10" y="{top + 18}" font-size="14">{escape(said)}</text>')
        base = top + _TITLE + _PLOT
        for place, (name, count) in enumerate(counts.items()):
            x, tall = 40 + place * _COLUMN, (_PLOT - 14) * count / most
            parts.append(
                f'<rect x="{x}" y="{base - tall:.1f}" width="{_COLUMN - 8}" height="{tall:.1f}" '
                f'fill="{_COLOURS.get(title, "#666666")}"><title>{escape(name)}: {count}</title></rect>'
                f'<text x="{x + 9}" y="{base - tall - 3:.1f}" font-size="9" text-anchor="middle">{count}</text>'
                f'<text transform="translate({x + 12},{base + 8}) rotate(-60)" text-anchor="end">{escape(name)}</text>'
            )
        parts.append(f'<line x1="36" x2="{width - 10}" y1="{base}" y2="{base}" stroke="#333333"/>')
    return "\n".join([*parts, "</svg>"]) + "\n"
