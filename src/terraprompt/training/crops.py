"""Training crops: an augmented cut of an image with instructions about it and what the answer is."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from terraprompt.datasets.sampling import jitter_box, sample_points, tight_box
from terraprompt.geometry.interior import interior_distance
from terraprompt.geometry.types import Box
from terraprompt.language.absence import draw_absent
from terraprompt.language.interactive import spatial_instruction
from terraprompt.language.object_geometry import clear_selectors, components, empty_selectors
from terraprompt.language.writer import (
    category_instruction,
    contextual_instruction,
    selector_instruction,
)
from terraprompt.prompt import Task
from terraprompt.training.augment import CropMap, change_light
from terraprompt.training.labeled_image import LabeledImage

__all__ = [
    "Crop",
    "CropRecipe",
    "TrainingExample",
    "make_crop",
    "no_points",
    "no_rows",
    "object_crop",
    "presence_of",
    "single_crop",
]

_ROWS = 3
_POINTS = 6
_MIN_PIXELS = 16


@dataclass(frozen=True, slots=True)
class TrainingExample:
    """One instruction about a crop, with its truth.

    Attributes:
        text, task: the instruction.
        target: uint8 (S, S) 0/1; for box-labelled images 1 inside any box of the category.
        coordinates: float32 (3, 4) in [0, 1] of the crop, a box or points; zero where absent.
        presence: 1 target visible, 0 not, -1 too little of it to say.
        known: uint8 (S, S), 0 where nothing is known, or None.
        boxes: float (K, 4) of the category's objects for box-labelled images, else None.
        answer: what a language model learns to say.
    """

    text: str
    task: Task
    target: NDArray[np.uint8]
    coordinates: NDArray[np.float32]
    presence: int
    known: NDArray[np.uint8] | None = None
    boxes: NDArray[np.float32] | None = None
    answer: str = ""


@dataclass(frozen=True, slots=True)
class Crop:
    """An image (S, S, 3) uint8, the points (6, 3) and box (4,) drawn on it in pixels, and its items."""

    image: NDArray[np.uint8]
    points: NDArray[np.float32]
    box: NDArray[np.float32]
    items: tuple[TrainingExample, ...]
    source: str = ""


def single_crop(image: NDArray[np.uint8], example: TrainingExample, source: str = "") -> Crop:
    """An image on which nothing is drawn, with one example."""
    return Crop(image, no_points(), np.zeros(4, np.float32), (example,), source)


@dataclass(frozen=True, slots=True)
class CropRecipe:
    """How crops are cut.

    Attributes:
        size: side in pixels, a multiple of 32.
        items: instructions per text crop.
        scales: of text crops, crop pixels per source pixel; log-uniform.
        object_share: side of the prompted object over the crop's side in interactive crops; log-uniform.
        zoom: limits of the interactive crop's scale.
        selectors: share of the later texts of a crop that use words of size or place, where these are clear.
        light: change brightness, contrast, colour.
    """

    size: int = 224
    items: int = 3
    scales: tuple[float, float] = (0.5, 1.6)
    object_share: tuple[float, float] = (0.12, 0.8)
    zoom: tuple[float, float] = (0.35, 4.0)
    selectors: float = 0.55
    light: bool = True


def _log_uniform(low: float, high: float, rng: np.random.Generator) -> float:
    return float(np.exp(rng.uniform(np.log(low), np.log(high)))) if high > low else high


def _turn(labeled: LabeledImage, rng: np.random.Generator) -> float:
    quarter = float(rng.integers(4)) * np.pi / 2
    free = 0.0 if labeled.weak or rng.random() < 0.6 else float(rng.uniform(-0.6, 0.6))
    return quarter + free


def presence_of(target: NDArray[np.uint8]) -> int:
    """1 where enough of a target is in a crop, 0 where nothing is, -1 between."""
    pixels = int(target.sum())
    return 1 if pixels >= _MIN_PIXELS else 0 if pixels == 0 else -1


def make_crop(
    labeled: LabeledImage, task: Task, reasoning: float, recipe: CropRecipe, rng: np.random.Generator
) -> Crop:
    """Cut one crop.

    Args:
        labeled: the image.
        task: interactive gives a crop round one object with points or a box; otherwise a crop with several texts,
            the first of this task. Images without objects always give texts.
        reasoning: share of reasoning among the other texts.
        recipe: how crops are cut.
        rng: decides everything.
    """
    if task is Task.INTERACTIVE:
        crop = object_crop(labeled, recipe, rng)
        if crop is not None:
            return crop
        task = Task.REASONING if rng.random() < reasoning else Task.REFERRING
    return _text_crop(labeled, task, reasoning, recipe, rng)


def _text_crop(
    labeled: LabeledImage, first: Task, reasoning: float, recipe: CropRecipe, rng: np.random.Generator
) -> Crop:
    height, width = labeled.image.shape[:2]
    fit = 0.85 * recipe.size / min(height, width)
    low, high = recipe.scales
    scale = _log_uniform(max(low, fit), max(high, fit * 1.2), rng)
    reach = recipe.size / 2 / scale
    category = _pick_category(labeled, rng)
    centre = (
        _centre(width, reach, rng),
        _centre(height, reach, rng),
    )
    if category is not None and rng.random() < 0.6:
        centre = _towards(labeled, category, reach, centre, rng)
    crop_map = CropMap.make(recipe.size, centre, scale, _turn(labeled, rng), bool(rng.random() < 0.5))
    items: list[TrainingExample] = []
    tasks = [first] + [Task.REASONING if rng.random() < reasoning else Task.REFERRING for _ in range(recipe.items - 1)]
    for i, task in enumerate(tasks):
        if labeled.absent and (category is None or 0 < i == recipe.items - 1):
            name = draw_absent(labeled.absent, rng)
            target = np.zeros((recipe.size, recipe.size), np.uint8)
            text = category_instruction(name, rng, task=task)
            items.append(TrainingExample(text, task, target, no_rows(), 0))
        elif category is not None:
            chosen = category if i == 0 else (_pick_category(labeled, rng) or category)
            items.append(_category_item(labeled, chosen, task, crop_map, i, recipe, rng))
    image = crop_map.image(labeled.image)
    if recipe.light:
        image = change_light(image, rng)
    return Crop(image, no_points(), np.zeros(4, np.float32), tuple(items), labeled.source)


def _category_item(
    labeled: LabeledImage,
    category: str,
    task: Task,
    crop_map: CropMap,
    order: int,
    recipe: CropRecipe,
    rng: np.random.Generator,
) -> TrainingExample:
    size = crop_map.size
    if labeled.weak:
        boxes = crop_map.boxes(labeled.boxes[category])
        boxes = boxes[((boxes[:, 2:] - boxes[:, :2]) >= 2).all(1)]
        target = np.zeros((size, size), np.uint8)
        for x0, y0, x1, y1 in boxes.round().astype(int):
            target[y0:y1, x0:x1] = 1
        text = category_instruction(category, rng, task=task)
        return TrainingExample(text, task, target, no_rows(), presence_of(target), boxes=boxes.astype(np.float32))
    ids = crop_map.labels(labeled.labels[category])
    target = (ids > 0).astype(np.uint8)
    known = _known(labeled, crop_map)
    if labeled.centreline:
        near = ndimage.binary_dilation(target, iterations=max(2, round(14 * crop_map.scale)))
        known = (target | ~near).astype(np.uint8)
    elif order > 0 and rng.random() < recipe.selectors:
        single = _selected_item(category, task, ids, known, rng)
        if single is not None:
            return single
    text = category_instruction(category, rng, task=task)
    presence = presence_of(target)
    if presence == 0 and known is not None and known.mean() < 0.9:
        presence = -1
    return TrainingExample(text, task, target, no_rows(), presence, known=known)


def _selected_item(
    category: str, task: Task, ids: NDArray[np.int32], known: NDArray[np.uint8] | None, rng: np.random.Generator
) -> TrainingExample | None:
    """An instruction with words of size or place, if the crop allows one beyond doubt."""
    found = components(ids, min_area=_MIN_PIXELS)
    chances = clear_selectors(found)
    if rng.random() < 0.1:
        chances = empty_selectors(found) or chances
    if not chances:
        return None
    kinds = sorted({s.kind for s in chances})
    kind = kinds[int(rng.integers(len(kinds)))]
    same = [s for s in chances if s.kind == kind]
    selector = same[int(rng.integers(len(same)))]
    kept = selector.select(found.items, ids.shape[1], ids.shape[0])
    write = contextual_instruction if task is Task.REASONING else selector_instruction
    target = found.mask(kept)
    text = write(selector, category, rng, selected=len(kept))
    return TrainingExample(text, task, target, no_rows(), 1 if kept else 0, known=known)


def _known(labeled: LabeledImage, crop_map: CropMap) -> NDArray[np.uint8] | None:
    """Which pixels of a crop are labelled; None where all are."""
    if labeled.known is None:
        return None
    return np.asarray(crop_map.labels(1 - labeled.known.astype(np.int32)) == 0, np.uint8)


def object_crop(
    labeled: LabeledImage, recipe: CropRecipe, rng: np.random.Generator, *, named: bool = True
) -> Crop | None:
    """A crop round one object with points, a box or both drawn on it; None where no object suits.

    Args:
        labeled: the image.
        recipe: how crops are cut.
        rng: decides everything.
        named: now and then the sentence says what the object is.
    """
    category = None if labeled.centreline else _pick_category(labeled, rng)
    if category is None:
        return None
    size = recipe.size
    if labeled.weak:
        every = labeled.boxes[category]
        source_box = every[int(rng.integers(len(every)))]
        ids = None
    else:
        ids = labeled.labels[category]
        slices = ndimage.find_objects(ids)
        big = [i for i, s in enumerate(slices) if s and min(s[0].stop - s[0].start, s[1].stop - s[1].start) >= 4]
        if not big:
            return None
        index = big[int(rng.integers(len(big)))]
        rows, cols = slices[index]
        source_box = np.array([cols.start, rows.start, cols.stop, rows.stop], np.float64)
    side = max(source_box[2] - source_box[0], source_box[3] - source_box[1])
    height, width = labeled.image.shape[:2]
    low, high = recipe.zoom
    low = max(low, 0.8 * size / max(height, width))  # not much smaller than the image itself
    scale = float(np.clip(_log_uniform(*recipe.object_share, rng) * size / side, low, max(low, high)))
    reach = size / 2 / scale
    slack = max(reach - side / 2, 0.15 * reach) * 0.8
    centre = (
        float((source_box[0] + source_box[2]) / 2 + rng.uniform(-slack, slack)),
        float((source_box[1] + source_box[3]) / 2 + rng.uniform(-slack, slack)),
    )
    if ids is not None and side * scale > size:  # larger than the crop: stay on the object
        ys, xs = np.nonzero(ids == index + 1)
        pick = int(rng.integers(len(xs)))
        centre = (float(xs[pick]), float(ys[pick]))
    centre = (_inside(centre[0], width, reach), _inside(centre[1], height, reach))
    crop_map = CropMap.make(size, centre, scale, _turn(labeled, rng), bool(rng.random() < 0.5))
    weak_boxes = None
    if ids is None:
        weak_boxes = crop_map.boxes(source_box[None]).astype(np.float32)
        x0, y0, x1, y1 = weak_boxes[0].round().astype(int)
        target = np.zeros((size, size), np.uint8)
        target[y0:y1, x0:x1] = 1
    else:
        target = (crop_map.labels(ids) == index + 1).astype(np.uint8)
    if presence_of(target) != 1:
        return None
    tight = tight_box(target)
    # the middle of a box is nearly always on the object; elsewhere in it is not known
    inner = _middle(target) if ids is None else target
    others = np.zeros_like(target) if ids is None else ((crop_map.labels(ids) > 0) & (target == 0)).astype(np.uint8)
    points, box, rows_ = _prompt(target, inner, others, tight, rng)
    name = category if rng.random() < 0.25 and named else None
    text = spatial_instruction(rng, box=box is not None, name=name)
    item = TrainingExample(text, Task.INTERACTIVE, target, rows_, 1, _known(labeled, crop_map), weak_boxes)
    image = crop_map.image(labeled.image)
    if recipe.light:
        image = change_light(image, rng)
    packed = no_points()
    packed[: len(points)] = np.asarray(points, np.float32).reshape(-1, 3)
    return Crop(
        image, packed, np.zeros(4, np.float32) if box is None else np.asarray(box, np.float32), (item,), labeled.source
    )


def _prompt(
    target: NDArray[np.uint8],
    inner: NDArray[np.uint8],
    others: NDArray[np.uint8],
    tight: Box,
    rng: np.random.Generator,
) -> tuple[list[tuple[float, float, int]], Box | None, NDArray[np.float32]]:
    """Points (x, y, 1 inside or 0 outside), a box or both, in pixels of the crop, and the rows of the sentence.

    Args:
        target: uint8 (S, S), the object.
        inner: where points may be set on it.
        others: uint8 (S, S), objects of the same category; half of the outside points are on one of them.
        tight: the object's box.
        rng: decides everything.
    """
    size, kind = len(target), rng.random()
    box = jitter_box(tight, rng, width=size, height=size) if kind < 0.55 else None
    points: list[tuple[float, float, int]] = []
    if kind > 0.45:
        points = [(float(x), float(y), 1) for x, y in sample_points(inner, rng)]
        if rng.random() < 0.4:
            ring = ndimage.binary_dilation(target, iterations=12) & (target == 0)
            outside = others if others.any() and rng.random() < 0.5 else ring
            if outside.any():
                ys, xs = np.nonzero(outside)
                for k in rng.integers(len(xs), size=int(rng.integers(1, 3))):
                    points.append((float(xs[k]) + 0.5, float(ys[k]) + 0.5, 0))
    rows = no_rows()
    if box is not None:
        rows[0] = np.asarray(box) / size
    else:
        for i, (x, y, _) in enumerate([p for p in points if p[2] == 1][:_ROWS]):
            rows[i, :2] = x / size, y / size
    return points[:_POINTS], box, rows


def _middle(target: NDArray[np.uint8]) -> NDArray[np.uint8]:
    distance = interior_distance(target)
    inner: NDArray[np.uint8] = (distance > 0.7 * distance.max()).astype(np.uint8)
    return inner


def _pick_category(labeled: LabeledImage, rng: np.random.Generator) -> str | None:
    """A category with objects: rarer ones on box-labelled images are not drowned by cars."""
    present = labeled.present
    if not present:
        return next(iter(labeled.labels), None) if labeled.labels else None
    return present[int(rng.integers(len(present)))]


def _centre(length: int, reach: float, rng: np.random.Generator) -> float:
    return length / 2 if 2 * reach >= length else float(rng.uniform(reach, length - reach))


def _inside(centre: float, length: int, reach: float) -> float:
    """Shift a crop of half side ``reach`` into an image of ``length``."""
    return length / 2 if 2 * reach >= length else float(np.clip(centre, reach, length - reach))


def _towards(
    labeled: LabeledImage, category: str, reach: float, centre: tuple[float, float], rng: np.random.Generator
) -> tuple[float, float]:
    """Move the crop so that some of the category is in it."""
    if labeled.weak:
        boxes = labeled.boxes[category]
        if not len(boxes):
            return centre
        x0, y0, x1, y1 = boxes[int(rng.integers(len(boxes)))]
        spot = (x0 + x1) / 2, (y0 + y1) / 2
    else:
        ys, xs = np.nonzero(labeled.labels[category][::4, ::4])
        if not len(xs):
            return centre
        k = int(rng.integers(len(xs)))
        spot = 4.0 * xs[k], 4.0 * ys[k]
    height, width = labeled.image.shape[:2]
    moved = []
    for s, length in zip(spot, (width, height), strict=True):
        near = float(s + rng.uniform(-0.8, 0.8) * reach)
        moved.append(_inside(near, length, reach))
    return moved[0], moved[1]


def no_rows() -> NDArray[np.float32]:
    """:attr:`TrainingExample.coordinates` of an item without points and boxes."""
    return np.zeros((_ROWS, 4), np.float32)


def no_points() -> NDArray[np.float32]:
    """:attr:`Crop.points` of a crop on which none are drawn."""
    points = np.zeros((_POINTS, 3), np.float32)
    points[:, 2] = -1
    return points
