"""What an engine noted on its way to each target, as a sheet of pictures: box before and after, similarity map and
clicks, what each route drew, and what they became."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from terraprompt.io.files import replacing
from terraprompt.io.rle import RunLengths
from terraprompt.outputs.formats.picture import SUFFIXES, blend, fitted, font
from terraprompt.outputs.provenance import as_text
from terraprompt.outputs.result import Result
from terraprompt.raster import Tile

__all__ = ["write_evidence"]

_SIDE = 232  # of a panel, pixels
_GAP = 10
_LINE = 22
_MOST = 24  # targets on a sheet
_PAPER, _INK, _FAINT = (24, 28, 33), (245, 247, 250), (170, 178, 189)
_BEFORE, _AFTER, _CLICK = (255, 120, 90), (90, 220, 255), (255, 235, 80)
_ROUTES = {"A": ((255, 190, 60), "clicks"), "B": ((120, 140, 255), "text")}
_FUSED = (255, 64, 129)
_RULES = {
    "intersection": "A and B",
    "union": "A or B",
    "points": "A",
    "text": "B",
    "points_scored_higher": "A",
    "text_scored_higher": "B",
    "empty": "nothing",
}

Panel = tuple[Image.Image, str]


def write_evidence(
    result: Result, path: str | Path, look: Callable[[Tile], NDArray[np.uint8]], *, overwrite: bool = False
) -> Path:
    """Draw the notes of a result: one row a target, at most 24.

    Drawn is what the notes hold (see :class:`terraprompt.engines.base.Answer` and
    :meth:`terraprompt.engines.routes.Routes.answer`), also of a result that failed or found nothing.

    Args:
        result: of an engine that keeps notes.
        path: picture file.
        look: the stretched pixels of a window of the scene (:meth:`terraprompt.flow.session.Session.look_at`).
        overwrite: replace a file that is there.

    Raises:
        OutputError: see :func:`terraprompt.io.files.check_writable`.
    """
    targets = result.notes.get("targets") or []
    grounded = result.notes.get("grounded") or []
    rows: list[list[Panel]] = []
    for number in range(min(max(len(targets), len(grounded)), _MOST)):
        target = targets[number] if number < len(targets) else {}
        before = grounded[number] if number < len(grounded) else {}
        if (target.get("boxes") or before.get("box")) is not None:
            rows.append(_row(target, before, result, look))
    sheet = _sheet(rows, _words(result, max(len(targets), len(grounded))))
    with replacing(path, overwrite, kind="picture", suffixes=SUFFIXES) as temporary:
        sheet.save(temporary)
    return Path(path)


def _row(
    target: Mapping[str, Any], before: Mapping[str, Any], result: Result, look: Callable[[Tile], NDArray[np.uint8]]
) -> list[Panel]:
    after = (target.get("boxes") or [(before.get("refined") or {}).get("box")])[0]
    answered = before.get("box")
    tile = _around([box for box in (after, answered) if box is not None], result.width, result.height)
    image = look(tile)
    view = _View(tile, image.shape[:2])
    panels = [(_framed(image, view, answered, after), f"{before.get('phrase') or target.get('phrase', '')}: box")]
    if (similar := target.get("similarity")) is not None:
        clicks = target.get("points", [])
        panels.append((_heat(image, view, similar, clicks), f"similarity, {len(clicks)} clicks"))
    for name, route in (target.get("routes") or {}).items():
        colour, what = _ROUTES.get(name, (_FUSED, name))
        score = "" if route.get("score") is None else f" {route['score']:.2f}"
        told = name == "B" and route.get("presence") is not None  # Route A's is not used: it is given a box
        sure = f", presence {route['presence']:.2f}" if told else ""
        panels.append((_masked(image, view, route, colour), f"{name}: {what}{score}{sure}"))
    if (fusion := target.get("fusion")) is not None:
        rule = str(fusion["rule"])
        shared = "" if fusion.get("agreement") is None else f", agreement {fusion['agreement']:.2f}"
        panels.append((_masked(image, view, fusion, _FUSED), f"result: {_RULES.get(rule, rule)}{shared}"))
    return panels


class _View:
    """From scene pixels to those of a panel."""

    def __init__(self, tile: Tile, size: tuple[int, ...]) -> None:
        self.left, self.top, self.size = tile.left, tile.top, (size[0], size[1])
        self.scale = (size[1] / tile.width, size[0] / tile.height)

    def place(self, numbers: Sequence[float]) -> list[float]:
        """x, y, … of the scene in the panel."""
        origin = (self.left, self.top)
        return [(value - origin[i % 2]) * self.scale[i % 2] for i, value in enumerate(numbers)]

    def filled(self, values: NDArray[np.float32], box: Sequence[float]) -> NDArray[np.float32]:
        """An array (h, w) that covers a box of the scene, nearest neighbour, on the panel (H, W); 0 beside it."""
        x0, y0, x1, y1 = self.place(box)
        at = []
        for first, last, count, side in ((y0, y1, values.shape[0], 0), (x0, x1, values.shape[1], 1)):
            places = (np.arange(self.size[side]) + 0.5 - first) / max(last - first, 1e-9) * count
            at.append(np.where((places >= 0) & (places < count), np.floor(places), -1).astype(int))
        out: NDArray[np.float32] = values[at[0][:, None], at[1]].astype(np.float32)
        out[(at[0] < 0)[:, None] | (at[1] < 0)] = 0
        return out


def _around(boxes: Sequence[Sequence[float]], width: int, height: int) -> Tile:
    """A square window, where the scene has room, of twice what it is for."""
    x0, y0 = min(box[0] for box in boxes), min(box[1] for box in boxes)
    x1, y1 = max(box[2] for box in boxes), max(box[3] for box in boxes)
    side = max(16, math.ceil(1.6 * max(x1 - x0, y1 - y0)))
    across, down = min(side, width), min(side, height)
    left = min(max(round((x0 + x1 - across) / 2), 0), width - across)
    top = min(max(round((y0 + y1 - down) / 2), 0), height - down)
    scale = _SIDE / max(across, down)
    return Tile(left, top, across, down, (max(1, round(down * scale)), max(1, round(across * scale))))


def _framed(
    image: NDArray[np.uint8], view: _View, before: Sequence[float] | None, after: Sequence[float] | None
) -> Image.Image:
    picture = Image.fromarray(image)
    draw = ImageDraw.Draw(picture)
    for box, colour, width in ((before, _BEFORE, 2), (after, _AFTER, 2)):
        if box is not None:
            x0, y0, x1, y1 = view.place(box)
            draw.rectangle((min(x0, x1), min(y0, y1), max(x0, x1), max(y0, y1)), outline=colour, width=width)
    return picture


def _heat(
    image: NDArray[np.uint8], view: _View, similar: Mapping[str, Any], clicks: Sequence[Sequence[float]]
) -> Image.Image:
    heat = view.filled(np.asarray(similar["cells"], np.float32) / np.float32(255), similar["box"])
    inside = view.filled(np.ones((1, 1), np.float32), similar["box"]) > 0
    cold, warm = np.array((20, 30, 90), np.float32), np.array((255, 90, 20), np.float32)
    colours = cold + (warm - cold) * heat[..., None]
    mixed = np.where(inside[..., None], 0.45 * image + 0.55 * colours, image)
    picture = Image.fromarray(np.rint(mixed).astype(np.uint8))
    draw = ImageDraw.Draw(picture)
    for x, y, *_ in clicks:
        cx, cy = view.place((x, y))
        draw.ellipse((cx - 2.5, cy - 2.5, cx + 2.5, cy + 2.5), fill=_CLICK, outline=_PAPER)
    return picture


def _masked(
    image: NDArray[np.uint8], view: _View, noted: Mapping[str, Any], colour: tuple[int, int, int]
) -> Image.Image:
    mask = RunLengths.of(noted["mask"]).load().astype(np.float32)
    cover = view.filled(mask, noted["box"])
    return Image.fromarray(blend(image, cover, np.zeros(cover.shape, bool), fill=colour))


def _words(result: Result, count: int) -> list[str]:
    status = result.status.value.replace("_", " ")
    cost = result.notes.get("cost") or {}
    spent = f", {cost['calls']} calls of models, {cost['seconds']:.1f} s" if cost else ""
    more = f" (the first {_MOST} are shown)" if count > _MOST else ""
    lines = [
        as_text(result.provenance, "instruction") or "(no instruction)",
        f"{status}{f': {result.reason}' if result.reason else ''}",
        f"{count} target{'' if count == 1 else 's'}{more}{spent}. Red: the box as answered; blue: as corrected; "
        "yellow: clicks.",
    ]
    return lines if count else lines[:2]


def _sheet(rows: Sequence[Sequence[Panel]], words: Sequence[str]) -> Image.Image:
    columns = max((len(row) for row in rows), default=3)
    width = columns * (_SIDE + _GAP) + _GAP
    tall = [max(panel.height for panel, _ in row) + _LINE + _GAP for row in rows]
    sheet = Image.new("RGB", (width, len(words) * _LINE + 2 * _GAP + sum(tall)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    letters = font(14)
    for i, line in enumerate(words):
        ink = _FAINT if i else _INK
        draw.text((_GAP, _GAP + i * _LINE), fitted(draw, line, letters, width - 2 * _GAP), font=letters, fill=ink)
    y = len(words) * _LINE + 2 * _GAP
    for row, height in zip(rows, tall, strict=True):
        for i, (panel, title) in enumerate(row):
            x = _GAP + i * (_SIDE + _GAP)
            draw.text((x, y), fitted(draw, title, letters, _SIDE), font=letters, fill=_FAINT)
            sheet.paste(panel, (x, y + _LINE - 2))
        y += height
    return sheet
