"""Stage 1: images and masks cut alike into patches; every pixel is decoded once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from terraprompt.datasets.pack import INDEX_NAME, Record, read_pack
from terraprompt.errors import DatasetError
from terraprompt.forge.annotations import Outline, read_boxes, read_labelme, read_yolo
from terraprompt.forge.fingerprints import EIGHTH, Fingerprint, eighth, fingerprint, fingerprints
from terraprompt.forge.items import Source, sources_of, starts
from terraprompt.forge.label_readers import UNKNOWN, IndexLabels, LabelContext, Labels, PaletteLabels, check_pair
from terraprompt.forge.pixels import Image, RollingRows, open_raster
from terraprompt.forge.recipe import Recipe
from terraprompt.forge.records import Row, of_item
from terraprompt.forge.stages import Job
from terraprompt.forge.vectors import BoxLabels, annotation_labels, coco_annotations, segmenter_of, vector_annotations
from terraprompt.language.categories import forge_vocabulary

__all__ = ["cut_patches", "decode_mask"]

log = logging.getLogger(__name__)


def cut_patches(rows: Iterator[Row], job: Job) -> Iterator[Row]:
    """Patches of the images of a part, row by row."""
    sources = {source.number: source for source in sources_of(job.recipe)}
    for item in rows:
        try:
            yield from _of_item(item, sources[item["number"]], job)
        except DatasetError as error:
            if job.recipe.on_broken_file == "error":
                raise
            log.warning("left out: %s", error)
            job.notes[f"{item['source']}: image left out, broken"] += 1


def _of_item(item: Row, source: Source, job: Job) -> Iterator[Row]:
    """All patches of one image; if it breaks half-way, none of them counts."""

    def note(what: str, count: int) -> None:
        job.notes[f"{source.name}: {what}"] += count

    # Kept until the image has been read to its end only if broken images are skipped: a row holds no picture.
    found = _windows(item, source, job, note)
    yield from list(found) if job.recipe.on_broken_file == "skip" else found


def _windows(item: Row, source: Source, job: Job, note: Callable[[str, int], None]) -> Iterator[Row]:
    rules = job.recipe.patches
    path = source.root / item["image"]
    with ExitStack() as stack:
        image, labels = _opened(item, source, path, job.recipe, note, stack)
        width, height = item["width"], item["height"]
        tall, wide = min(rules.size, height), min(rules.size, width)
        rows, columns = starts(height, rules.size, rules.stride), starts(width, rules.size, rules.stride)
        strip = _Strip(image, (height, width), (tall, wide), rows, columns, holds=labels.looks or image.has_gaps)
        shared = {**of_item(item), "width": wide, "height": tall}
        shared |= image.settings
        for row in rows:
            bands, prints = strip.at(row)
            for column, (sha, phash, thumb) in zip(columns, prints, strict=True):
                patch = None if bands is None else np.moveaxis(bands[:3, :, column : column + wide], 0, -1)
                numbers = labels.window(column, row, (tall, wide), patch)
                note("patches cut", 1)
                if bands is not None and image.has_gaps:
                    seen = bands[3, :, column : column + wide] > 0
                    if 1 - float(seen.mean()) > rules.max_nodata_share:
                        note("patch without data", 1)
                        continue
                    numbers = np.where(seen, numbers, 0).astype(np.uint8)
                begins, values = _runs(numbers)
                if (values == UNKNOWN).any():
                    note("patch with unknown codes", 1)
                    continue
                if not values.any():
                    note("patch with an empty mask", 1)
                    continue
                yield {
                    "patch": f"{item['item']}@{column}_{row}",
                    **shared,
                    "column": column,
                    "row": row,
                    "sha": sha,
                    "phash": phash,
                    "thumb": thumb,
                    "mask": _encoded(begins, values, wide * tall),
                }


class _Strip:
    """The pixels of a row of windows and the fingerprints of them; what rows of windows share is read once.

    Args:
        image: read from top to bottom.
        shape: of the image, (height, width).
        window: (height, width).
        rows, columns: where windows begin.
        holds: pixels are asked for. Most labels do not look at them; fingerprints need them at an eighth only.
    """

    def __init__(
        self,
        image: Image,
        shape: tuple[int, int],
        window: tuple[int, int],
        rows: list[int],
        columns: list[int],
        *,
        holds: bool,
    ) -> None:
        self._image, self._window, self._columns = image, window, columns
        self._on_grid = not any(value % EIGHTH for value in (*rows, *columns, *window))
        height, width = shape
        self._whole: RollingRows | None = None
        if holds or not self._on_grid:
            self._whole = RollingRows(image.rows, height, width, 3 + image.has_gaps)
        self._small = RollingRows(self._reduce, height // EIGHTH, -(-width // EIGHTH), 3)
        self._bands: NDArray[np.uint8] | None = None
        self._row, self._width = 0, width

    def at(self, row: int) -> tuple[NDArray[np.uint8] | None, list[Fingerprint]]:
        """Bands of :meth:`Image.rows` for a row of windows if pixels are held; and the fingerprint of each window."""
        tall, wide = self._window
        self._row = row
        bands = self._bands = None if self._whole is None else self._whole.get(row, row + tall)
        if bands is None or self._on_grid:
            small = self._small.get(row // EIGHTH, (row + tall) // EIGHTH)
            prints = fingerprints(small, [column // EIGHTH for column in self._columns], tall, wide)
        else:
            pixels = np.moveaxis(bands[:3], 0, -1)
            prints = [fingerprint(pixels[:, column : column + wide]) for column in self._columns]
        return bands, prints

    def _reduce(self, first: int, end: int, out: NDArray[np.uint8]) -> None:
        first, end = first * EIGHTH, end * EIGHTH
        if self._bands is None:
            bands = np.empty((3 + self._image.has_gaps, end - first, self._width), np.uint8)
            self._image.rows(first, end, bands)
        else:
            bands = self._bands[:, first - self._row : end - self._row]
        out[:] = eighth(bands[:3])


def _opened(
    item: Row, source: Source, path: Path, recipe: Recipe, note: Callable[[str, int], None], stack: ExitStack
) -> tuple[Image, Labels]:
    table = source.table
    image = stack.enter_context(Image(path, table.layout.bands))
    if (image.scene.width, image.scene.height) != (item["width"], item["height"]):
        raise DatasetError(
            f"An image is said to have {item['width']} x {item['height']} pixels and has "
            f"{image.scene.width} x {image.scene.height}.",
            received=path,
        )
    label = source.root / (item["label"] or item["image"])
    context = LabelContext(label, table, forge_vocabulary(), recipe.on_unknown_code, note, recipe.on_broken_file)
    if table.codec == "pack":
        record = _records(source.root, (source.root / INDEX_NAME).stat().st_mtime_ns)[item["record"]]
        return image, _pack_labels(
            record, source, LabelContext(record.image, table, forge_vocabulary(), recipe.on_unknown_code, note)
        )
    if table.codec in ("index", "palette"):
        raster = stack.enter_context(open_raster(label, "label"))
        check_pair(image.scene, raster, path, label)
        return image, (IndexLabels if table.codec == "index" else PaletteLabels)(raster, context)
    if table.codec == "boxes":
        outlines = read_boxes(label, str(table.layout.boxes), context.leave_out)
        return image, BoxLabels(outlines, segmenter_of(source.use.segmenter), context)
    if table.codec == "yolo":
        names = {row.code: row.label for row in table.classes if row.code is not None}
        found = read_yolo(label, (image.scene.width, image.scene.height), names)
    elif table.layout.polygons == "coco":
        found = coco_annotations(label, item["image"])
    elif table.layout.polygons == "labelme":
        found = read_labelme(label)
    else:
        found = vector_annotations(label, table, image.scene)
    return image, annotation_labels(found, source.use.segmenter, context)


@lru_cache(maxsize=2)
def _records(root: Path, changed: int) -> dict[str, Record]:
    return {record.id: record for record in read_pack(root, skip=lambda error: None)}


class _Fixed:
    """A mask that is there as a whole."""

    looks = False

    def __init__(self, numbers: NDArray[np.uint8]) -> None:
        self._numbers = numbers

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """See :class:`terraprompt.forge.label_readers.Labels`."""
        height, width = shape
        return self._numbers[row : row + height, column : column + width]


def _pack_labels(record: Record, source: Source, context: LabelContext) -> Labels:
    if record.label_kind == "box":
        outlines = []
        for region in record.regions:
            if region.box is not None:
                x0, y0, x1, y1 = region.box
                outlines.append(Outline(region.category, ((x0, y0), (x1, y0), (x1, y1), (x0, y1))))
        return BoxLabels(outlines, segmenter_of(source.use.segmenter), context)
    known = {row.label: context.number(row) for row in source.table.classes}
    numbers = np.zeros((record.height, record.width), np.uint8)
    for name in record.present:
        if name not in known:
            raise DatasetError(
                f"A record has a category that the table does not name ({name!r}).",
                received=record.id,
                hint="Add it to a table of your own.",
            )
        if known[name]:
            numbers[record.load_mask(name) > 0] = known[name]
    return _Fixed(numbers)


def _runs(numbers: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.uint8]]:
    """Runs along the rows: where each begins, and which number it has."""
    flat = numbers.reshape(-1)
    begins = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1])
    return begins, flat[begins]


def _encoded(begins: NDArray[np.intp], values: NDArray[np.uint8], size: int) -> bytes:
    """How many runs, how long each is, which number it has. Ten times as fast as a PNG."""
    ends = np.append(begins[1:], size)
    return np.concatenate([[len(begins)], ends - begins]).astype("<u4").tobytes() + values.tobytes()


def decode_mask(raw: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """The mask of a patch: uint8 (height, width), numbers of categories.

    Raises:
        DatasetError: it is damaged.
    """
    try:
        count = int(np.frombuffer(raw, "<u4", 1)[0])
        lengths = np.frombuffer(raw, "<u4", count, 4)
        values = np.frombuffer(raw, np.uint8, count, 4 + 4 * count)
        return np.repeat(values, lengths).reshape(height, width)
    except (ValueError, IndexError) as error:
        raise DatasetError(f"The mask of a patch is damaged ({error}).") from None
