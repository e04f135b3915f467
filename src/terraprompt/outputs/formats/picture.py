"""A picture of a result for people: the scene, the mask over it, and one line that says what it is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont, PngImagePlugin

from terraprompt.errors import ConfigError
from terraprompt.outputs.formats.style import FILL
from terraprompt.outputs.formats.style import LINE as CASING
from terraprompt.outputs.provenance import PROVENANCE_KEYS, as_text
from terraprompt.outputs.result import Status
from terraprompt.outputs.work_files import MASK_NODATA, gdal
from terraprompt.raster.mapping import north_up
from terraprompt.raster.pixel_area import to_map

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result
    from terraprompt.prompt import Prompt

__all__ = ["SUFFIXES", "blend", "draw_picture", "fitted", "font", "mark", "noted", "write_picture"]

_LINE = (255, 255, 255)
_GIVEN, _REFUSED = (90, 220, 255), (255, 90, 60)
_OPACITY = 0.25  # a roof still shows below its mask; the outline says what is masked
_PAPER, _INK, _FAINT = (24, 28, 33), (245, 247, 250), (170, 178, 189)
_BACKDROP, _HATCH = (96, 102, 110), (60, 64, 70)
_STATUS_INK = {
    Status.FOUND: (120, 220, 160),
    Status.NO_TARGET: (255, 200, 90),
    Status.FAILED: (255, 120, 110),
}
# Outlines of more objects than this would hide what they outline.
_MAX_OUTLINES = 20000
_LINES = 4  # of reasoning

# Of the formats that a picture is written to.
SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")

SceneRGB = NDArray[np.uint8] | Callable[[int, int], NDArray[np.uint8]]


def draw_picture(
    result: Result, *, scene_rgb: SceneRGB | None = None, prompt: Prompt | None = None, max_side: int = 1600
) -> Image.Image:
    """Draw the mask over the scene: translucent fill, outlines, the points and boxes that were given or that the
    engine noted, and a strip with instruction, status, scale bar and, if the engine says it, its reasoning.

    Args:
        result: whose mask is drawn.
        scene_rgb: uint8 (h, w, 3) of the whole scene at any size, or a function of (height, width) that
            returns such an array; None for the scene that the result came from, or a plain backdrop.
        prompt: whose points and boxes are drawn, in pixels of the mask; None for those that were asked.
        max_side: longer side of the scene in the picture, pixels; a smaller scene is enlarged by a whole
            factor.

    Raises:
        ConfigError: an array that is no RGB image.
        SceneError: the scene cannot be read again.
    """
    if max_side < 16:
        raise ConfigError("A picture needs at least 16 pixels a side.", received=max_side)
    scale = _scale(result.width, result.height, max_side)
    size = max(1, round(result.height * scale)), max(1, round(result.width * scale))
    cover, nodata = _coverage(result, size)
    image = Image.fromarray(blend(_scene(result.backdrop if scene_rgb is None else scene_rgb, size), cover, nodata))
    _outline(image, result, (size[1] / result.width, size[0] / result.height))
    for marks in (noted(result.notes), result.prompt if prompt is None else prompt):
        if marks is not None:
            mark(image, marks, (size[1] / result.width, size[0] / result.height))
    image = Image.fromarray(north_up(result.crs, result.transform).array(np.asarray(image)))
    return _caption(image, result, size[1] / result.width)


def write_picture(result: Result, path: Path, **options: Any) -> None:
    """Write a picture with the provenance in it.

    Args:
        result: whose mask is drawn.
        path: with one of the extensions of ``SUFFIXES``.
        **options: of :func:`draw_picture`.
    """
    framed = draw_picture(result, **options)
    notes = PngImagePlugin.PngInfo()
    for key in PROVENANCE_KEYS:
        if text := as_text(result.provenance, key):
            notes.add_itxt(f"terraprompt:{key}", text)
    how: dict[str, Any] = {"pnginfo": notes} if path.suffix == ".png" else {"quality": 92}
    framed.save(path, **how)


def _scale(width: int, height: int, max_side: int) -> float:
    """Picture pixels per scene pixel: shrink large scenes, enlarge small ones by a whole factor up to 8."""
    fit = max_side / max(width, height)
    return float(min(8, math.floor(fit))) if fit >= 1 else fit


def _coverage(result: Result, size: tuple[int, int]) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """float32 (h, w) share of target in each picture pixel, and bool (h, w) whether it is mostly nodata."""
    with gdal(), rasterio.open(result.work_file("mask")) as dataset:
        # Read by bands of picture rows: averaging a whole scene at once would hold it in memory.
        cover = np.empty(size, np.float32)
        nodata = np.empty(size, bool)
        step = max(1, (1 << 22) * size[0] // (result.width * result.height)) if result.height > size[0] else size[0]
        for top in range(0, size[0], step):
            bottom = min(top + step, size[0])
            first, last = top * result.height // size[0], max(-(-bottom * result.height // size[0]), 1)
            rows = dataset.read(1, window=((first, last), (0, result.width)))
            shape = (bottom - top, size[1])
            cover[top:bottom] = _resized(rows == 1, shape)
            nodata[top:bottom] = _resized(rows == MASK_NODATA, shape) > 0.5
    return cover, nodata


def _resized(flags: NDArray[np.bool_], shape: tuple[int, int]) -> NDArray[np.float32]:
    if flags.shape == shape:
        return flags.astype(np.float32)
    grows = flags.shape[0] < shape[0]
    image = Image.fromarray(flags.view(np.uint8) * np.uint8(255))
    how = Image.Resampling.NEAREST if grows else Image.Resampling.BOX
    return np.asarray(image.resize((shape[1], shape[0]), how), np.float32) / np.float32(255)


def _scene(scene_rgb: SceneRGB | None, size: tuple[int, int]) -> NDArray[np.uint8]:
    if scene_rgb is None:
        return np.full((*size, 3), _BACKDROP, np.uint8)
    array = scene_rgb(*size) if callable(scene_rgb) else scene_rgb
    array = np.asarray(array)
    if array.ndim != 3 or array.shape[2] != 3 or array.dtype != np.uint8:
        raise ConfigError(
            "The backdrop must be a uint8 array (height, width, 3).", received=f"{array.dtype} {array.shape}"
        )
    if array.shape[:2] == size:
        return array
    how = Image.Resampling.NEAREST if array.shape[0] < size[0] else Image.Resampling.BOX
    return np.asarray(Image.fromarray(array).resize((size[1], size[0]), how))


def blend(
    scene: NDArray[np.uint8],
    cover: NDArray[np.float32],
    nodata: NDArray[np.bool_],
    *,
    fill: tuple[int, int, int] = FILL,
) -> NDArray[np.uint8]:
    """A mask laid over a picture.

    Args:
        scene: uint8 (h, w, 3).
        cover: float32 (h, w), share of target in each picture pixel.
        nodata: bool (h, w), pixels to be hatched.
        fill: colour of the mask.
    """
    # A thin object still shows when it covers little of a picture pixel: the square root lifts small shares.
    weight = (_OPACITY * np.sqrt(cover))[..., None]
    picture = scene * (1 - weight) + np.asarray(fill, np.float32) * weight
    y, x = np.nonzero(nodata)
    picture[y, x] = np.where(((x + y) % 8 < 2)[:, None], _HATCH, _PAPER)
    return np.asarray(np.rint(picture).astype(np.uint8))


def _outline(image: Image.Image, result: Result, scale: tuple[float, float]) -> None:
    """Draw outlines with a dark casing, so that they show on any ground."""
    if not result.objects or len(result.objects) > _MAX_OUTLINES:
        return
    polygons = shapely.get_parts(np.array([o.polygon for o in result.objects], object))
    if result.crs is not None:
        polygons = shapely.transform(
            polygons, lambda xy: np.stack(to_map(~result.transform, xy[:, 0], xy[:, 1]), axis=1)
        )
    polygons = shapely.transform(polygons, lambda xy: xy * scale)
    draw = ImageDraw.Draw(image)
    rings = [
        shapely.get_coordinates(ring).reshape(-1).tolist()
        for polygon in polygons
        for ring in (polygon.exterior, *polygon.interiors)
    ]
    for width, colour in ((3, CASING), (1, _LINE)):
        for ring in rings:
            draw.line(ring, fill=colour, width=width, joint="curve" if width > 1 else None)


def mark(image: Image.Image, prompt: Prompt, scale: tuple[float, float]) -> None:
    """Draw boxes as frames, points as discs: on the target, or with a bar where they are not.

    ``scale`` is (x, y) picture pixels per pixel of the prompt's coordinates.
    """
    draw = ImageDraw.Draw(image)
    radius = max(4, min(9, min(image.size) // 80))
    for box in prompt.boxes:
        corners = [v * scale[i % 2] for i, v in enumerate(box)]
        for width, colour in ((5, _PAPER), (3, _GIVEN)):
            draw.rectangle(corners, outline=colour, width=width)
    for (x, y), label in zip(prompt.points, prompt.labels, strict=True):
        cx, cy = x * scale[0], y * scale[1]
        disc = (cx - radius, cy - radius, cx + radius, cy + radius)
        draw.ellipse(disc, fill=_GIVEN if label == 1 else _REFUSED, outline=_PAPER, width=2)
        if label != 1:
            draw.line((cx - radius / 2, cy, cx + radius / 2, cy), fill=_LINE, width=2)


def noted(notes: Mapping[str, Any]) -> Prompt | None:
    """What an engine noted that it pointed at, see :class:`.result.Result`; None if nothing."""
    from terraprompt.prompt import Prompt

    points, boxes = notes.get("points") or (), notes.get("boxes") or ()
    if not points and not boxes:
        return None
    return Prompt(
        points=tuple((x, y) for x, y, _ in points),
        labels=tuple(label for *_, label in points),
        boxes=tuple((x0, y0, x1, y1) for x0, y0, x1, y1 in boxes),
    )


def font(size: int) -> Any:
    """A font of about ``size`` pixels."""
    # The built-in font knows Latin letters only; a system font, where there is one, knows the rest.
    try:
        return ImageFont.truetype("DejaVuSans.ttf", size)
    except OSError:
        return ImageFont.load_default(size)


def _caption(image: Image.Image, result: Result, scale: float) -> Image.Image:
    """Put the picture on a sheet with a strip of text below it."""
    unit = max(13, min(22, image.width // 55))
    pad = unit
    width = max(image.width, 22 * unit)
    big, small = font(round(unit * 1.25)), font(unit)
    words = _wrapped(str(result.notes.get("think", "")), small, width - 2 * pad)
    height = round(unit * 4.6) + (round(unit * (0.5 + 1.4 * len(words))) if words else 0)
    sheet = Image.new("RGB", (width, image.height + height), _PAPER)
    sheet.paste(image, ((width - image.width) // 2, 0))
    draw = ImageDraw.Draw(sheet)

    bar = _bar(result.gsd, scale, width // 4)
    room = width - 2 * pad - (round(bar[0]) + 2 * pad if bar else 0)
    top = image.height + round(unit * 0.8)
    title = as_text(result.provenance, "instruction") or "(no instruction)"
    draw.text((pad, top), fitted(draw, title, big, room), font=big, fill=_INK)
    second = top + round(unit * 1.9)
    status = result.status.value.replace("_", " ")
    draw.text((pad, second), status, font=small, fill=_STATUS_INK[result.status])
    left = pad + draw.textlength(status + "  ", font=small)
    draw.text((left, second), fitted(draw, _facts(result), small, room + pad - left), font=small, fill=_FAINT)
    for number, line in enumerate(words):
        draw.text((pad, second + round(unit * (1.9 + 1.4 * number))), line, font=small, fill=_FAINT)
    if bar:
        length, label = bar
        right, y = width - pad, second + round(unit * 0.9)
        draw.line([(right - length, y - 5), (right - length, y), (right, y), (right, y - 5)], fill=_INK, width=2)
        draw.text((right - length / 2, y - 8), label, font=small, fill=_INK, anchor="ms")
    return sheet


def _facts(result: Result) -> str:
    facts = [size for size in result.describe_size() if size]
    model = as_text(result.provenance, "model") or as_text(result.provenance, "engine")
    return " · ".join([*facts, *([model] if model else [])])


def _wrapped(text: str, font: Any, room: float) -> list[str]:
    """Text in lines of at most ``room`` pixels; the last of at most :data:`_LINES` is cut with an ellipsis."""
    draw = ImageDraw.Draw(Image.new("L", (1, 1)))
    words, lines = text.split(), list[str]()
    words = [*words[: 40 * _LINES], *("…" for _ in words[40 * _LINES :][:1])]
    while words and len(lines) < _LINES - 1:
        count = 1
        while count < len(words) and draw.textlength(" ".join(words[: count + 1]), font=font) <= room:
            count += 1
        lines.append(fitted(draw, " ".join(words[:count]), font, room))
        words = words[count:]
    return [*lines, fitted(draw, " ".join(words), font, room)] if words else lines


def fitted(draw: ImageDraw.ImageDraw, text: str, font: Any, room: float) -> str:
    """The text, cut with an ellipsis where it is wider than ``room``."""
    if draw.textlength(text, font=font) <= room:
        return text
    low, high = 0, len(text)
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if draw.textlength(text[:middle] + "…", font=font) <= room else (low, middle - 1)
    return text[:low].rstrip() + "…"


def _bar(gsd: float | None, scale: float, room: float) -> tuple[float, str] | None:
    """(length in picture pixels, label) of a round scale bar of at most ``room`` pixels."""
    if gsd is None or room * gsd / scale <= 0:
        return None
    most = room * gsd / scale
    power = 10.0 ** math.floor(math.log10(most))
    metres = power * max(step for step in (1, 2, 5) if step * power <= most)
    label = f"{metres / 1000:g} km" if metres >= 1000 else f"{metres:g} m" if metres >= 1 else f"{metres * 100:g} cm"
    return metres * scale / gsd, label
