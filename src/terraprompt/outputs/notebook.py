"""A result as notebooks show it."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from terraprompt.errors import TerrapromptError
from terraprompt.io.notebook import PICTURE_SIDE, html_card
from terraprompt.outputs.provenance import as_text

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["result_html", "result_png"]

_MOST_PIXELS = 100_000_000  # drawing more takes too long for a look
_MOST_OBJECTS = 8


def result_html(result: Result) -> str:
    """Picture, facts and the first objects of a result as HTML."""
    size, area = result.describe_size()
    more = len(result.objects) - _MOST_OBJECTS
    facts = {
        "status": result.status.value.replace("_", " "),
        "reason": result.reason,
        "found": f"{size}, {area}" if area else size,
        "size": f"{result.width:,} x {result.height:,} pixels",
        "CRS": None if result.crs is None else result.crs.to_string(),
        "model": as_text(result.provenance, "model"),
        "remarks": " ".join(result.remarks),
        "no picture": _why_not(result),
        "shown below": f"the first {_MOST_OBJECTS}; {more:,} more" if more > 0 else None,
    }
    rows = [
        (o.id, f"{o.area_px:,}", "" if o.area_m2 is None else f"{o.area_m2:,.1f}", f"{o.score:.2f}", o.bbox)
        for o in result.objects[:_MOST_OBJECTS]
    ]
    return html_card(
        as_text(result.provenance, "instruction") or "Result",
        facts,
        draw=None if _why_not(result) else lambda: _draw(result),
        columns=("id", "pixels", "m²", "score", "bbox"),
        rows=rows,
    )


def result_png(result: Result) -> bytes | None:
    """The picture of :func:`result_html`, or None where it has none."""
    try:
        return None if _why_not(result) else _draw(result)
    except TerrapromptError:  # the HTML says it
        return None


def _why_not(result: Result) -> str | None:
    if not result.is_open:
        return None if result.status == "failed" else "the result is closed"
    large = result.width * result.height > _MOST_PIXELS
    return "the scene is large; save_picture() draws it" if large else None


def _draw(result: Result) -> bytes:
    from terraprompt.outputs.formats.picture import draw_picture

    out = io.BytesIO()
    draw_picture(result, max_side=PICTURE_SIDE).save(out, "PNG")
    return out.getvalue()
