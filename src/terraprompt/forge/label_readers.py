"""From labels as a source codes them to numbers of categories: index rasters and RGB colours, row by row."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from rasterio.transform import array_bounds
from rasterio.windows import Window

from terraprompt.errors import DatasetError
from terraprompt.forge.pixels import RollingRows, reading
from terraprompt.forge.tables import SourceClass, SourceTable
from terraprompt.language.categories import Vocabulary
from terraprompt.raster.scene import Scene

__all__ = ["UNKNOWN", "IndexLabels", "LabelContext", "Labels", "PaletteLabels", "check_pair"]

log = logging.getLogger(__name__)

#: Marks a pixel whose code the table does not name.
UNKNOWN = 255
_COUNT_ROWS = 1024


class Labels(Protocol):
    """Labels of one image.

    Attributes:
        looks: at the pixels of the image.
    """

    looks: bool

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """uint8 (height, width): numbers of categories, 0 = none, :data:`UNKNOWN`; rows never fall.

        Args:
            column: first pixel of the window.
            row: as ``column``.
            shape: (height, width).
            image: RGB uint8 (height, width, 3), the window's pixels; may be None unless it ``looks``.
        """
        ...


@dataclass(frozen=True)
class LabelContext:
    """What the labels of one image are read with.

    Attributes:
        path: of the labels, for messages.
        table: of the source.
        vocabulary: the categories.
        policy: "error" or "skip" at a code or class that the table does not name.
        note: told (what, count) of skipped ones.
        on_broken: "error" or "skip" at an annotation that cannot be used.
    """

    path: Path
    table: SourceTable
    vocabulary: Vocabulary
    policy: str
    note: Callable[[str, int], None]
    on_broken: str = "error"

    def leave_out(self, fault: str) -> None:
        """Leave one annotation out and say so.

        Args:
            fault: names the annotation.

        Raises:
            DatasetError: if told to stop.
        """
        if self.on_broken == "error":
            raise DatasetError(
                f"A file of labels cannot be used: {fault}.",
                received=self.path,
                hint="Repair the copy, or leave such annotations out with `on_broken_file: skip`.",
            )
        log.warning("left out: %s of %s", fault, self.path)
        self.note("annotation left out, broken", 1)

    def number(self, row: SourceClass) -> int:
        """Number of the category of a class; 0 = ignored."""
        return 0 if row.category is None else self.vocabulary[row.category].number

    def numbers(self, labels: Sequence[str]) -> list[int]:
        """Numbers of class names; :data:`UNKNOWN` for those the table does not name, if told to skip.

        Raises:
            DatasetError: unknown ones, counted, if told to stop.
        """
        known = {row.label: self.number(row) for row in self.table.classes}
        unknown = Counter(label for label in labels if label not in known)
        if unknown and self.policy == "error":
            raise self.unknown("classes", [f"{label!r}: {count}" for label, count in unknown.most_common(8)])
        for label, count in unknown.items():
            self.note(f"unknown class {label!r}", count)
        return [known.get(label, UNKNOWN) for label in labels]

    def unknown(self, what: str, listed: Sequence[str]) -> DatasetError:
        """The error at codes or classes that the table does not name."""
        return DatasetError(
            f"A label has {what} that the table does not name ({', '.join(listed)}).",
            received=self.path,
            hint="Add them to the table, or leave such patches out with `on_unknown_code: skip`.",
        )


class _Coded:
    """What index and colour labels share: codes read in rows, looked up, unknown ones counted.

    Args:
        file: rasterio dataset, closed by the caller.
        context: of the labels.
    """

    looks = False

    def __init__(self, file: Any, context: LabelContext, bands: list[int]) -> None:
        if file.count < len(bands):
            raise DatasetError(
                f"A label has {file.count} bands, {len(bands)} are needed.",
                received=context.path,
                hint="Set the codec of the table to index for one band, palette for three.",
            )
        self._file, self._context, self._bands = file, context, bands
        self._rows = RollingRows(self._read, file.height, file.width)

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """See :class:`Labels`."""
        height, width = shape
        return self._rows.get(row, row + height)[:, column : column + width]

    def _read(self, first: int, end: int, out: NDArray[np.uint8]) -> None:
        out[:], unknown = self._decode(self._raw(first, end))
        if unknown:
            if self._context.policy == "error":
                raise self._unknown()
            for code, count in unknown.items():
                self._context.note(f"unknown {code}", count)

    def _raw(self, first: int, end: int) -> NDArray[Any]:
        with reading(self._context.path, "label"):
            raw: NDArray[Any] = self._file.read(self._bands, window=Window(0, first, self._file.width, end - first))
        return raw

    def _decode(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], Counter[str]]:
        raise NotImplementedError

    def _unknown(self) -> DatasetError:
        """Count unknown codes in the whole file, for the message."""
        found: Counter[str] = Counter()
        for first in range(0, self._file.height, _COUNT_ROWS):
            found += self._decode(self._raw(first, min(first + _COUNT_ROWS, self._file.height)))[1]
        return self._context.unknown("codes", [f"{code}: {count} pixels" for code, count in found.most_common(8)])


class IndexLabels(_Coded):
    """Labels whose pixel values are codes."""

    def __init__(self, file: Any, context: LabelContext) -> None:
        self._lookup = np.full(65536, UNKNOWN, np.uint8)
        for row in context.table.classes:
            if row.code is not None:
                if (np.dtype(file.dtypes[0])) == np.uint8 and row.code > 255:
                    raise DatasetError(
                        f"Class {row.label!r} has code {row.code}, but the label holds 0 to 255.", received=context.path
                    )
                self._lookup[row.code] = context.number(row)
        self._bytes = self._lookup[:256].tobytes()
        super().__init__(file, context, [1])

    def _decode(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], Counter[str]]:
        codes = raw[0]
        if codes.dtype == np.uint8:  # twice as fast as an array of indexes
            numbers = np.frombuffer(codes.tobytes().translate(self._bytes), np.uint8).reshape(codes.shape)
        elif codes.dtype.kind == "f" or codes.dtype.itemsize > 2 or codes.dtype.kind == "i":
            outside = (codes < 0) | (codes > 65535) | (codes != np.round(codes))
            safe = np.where(outside, 0, codes).astype(np.uint16)
            numbers = np.where(outside, UNKNOWN, self._lookup[safe]).astype(np.uint8)
        else:
            numbers = self._lookup[codes]
        odd = numbers == UNKNOWN
        if not odd.any():
            return numbers, Counter()
        values, counts = np.unique(codes[odd], return_counts=True)
        return numbers, Counter({f"code {v:g}": int(n) for v, n in zip(values.tolist(), counts.tolist(), strict=True)})


class PaletteLabels(_Coded):
    """Labels whose RGB colours are codes; a file of one band with a colour table counts as its colours."""

    def __init__(self, file: Any, context: LabelContext) -> None:
        self._threshold = context.table.layout.threshold
        pairs = []
        for row in context.table.classes:
            if row.colour is not None:
                red, green, blue = row.colour
                pairs.append(((red << 16) | (green << 8) | blue, context.number(row)))
        pairs.sort()
        self._colours = np.array([colour for colour, _ in pairs], np.uint32)
        self._numbers = np.array([number for _, number in pairs], np.uint8)
        self._map: NDArray[np.uint8] | None = None
        bands = [1, 2, 3]
        if file.count == 1 and file.colorinterp[0].name == "palette":
            self._map = np.zeros((256, 3), np.uint8)
            for index, colour in file.colormap(1).items():
                self._map[index] = colour[:3]
            bands = [1]
        super().__init__(file, context, bands)

    def _decode(self, raw: NDArray[Any]) -> tuple[NDArray[np.uint8], Counter[str]]:
        if self._map is not None:
            raw = np.moveaxis(self._map[raw[0]], -1, 0)
        if self._threshold is not None:
            raw = np.where(raw >= self._threshold, 255, 0)
        red, green, blue = raw.astype(np.uint32)
        codes = (red << 16) | (green << 8) | blue
        place = np.minimum(np.searchsorted(self._colours, codes), len(self._colours) - 1)
        known = self._colours[place] == codes
        numbers = np.where(known, self._numbers[place], UNKNOWN).astype(np.uint8)
        if known.all():
            return numbers, Counter()
        values, counts = np.unique(codes[~known], return_counts=True)
        return numbers, Counter(
            {
                f"colour ({v >> 16}, {v >> 8 & 255}, {v & 255})": int(n)
                for v, n in zip(values.tolist(), counts.tolist(), strict=True)
            }
        )


def check_pair(image: Scene, label: Any, image_path: Path, label_path: Path) -> None:
    """A label raster lies on its image: the same size and, where both say so, the same ground.

    Raises:
        DatasetError: it does not; both are named.
    """
    if (image.width, image.height) != (label.width, label.height):
        raise DatasetError(
            "An image and its label differ in size: "
            f"{image.width} x {image.height} and {label.width} x {label.height} pixels.",
            received=f"{image_path} and {label_path}",
            hint="Repair the copy, or set `on_broken_file: skip`.",
        )
    if image.crs is None or label.crs is None:
        return
    if image.crs != label.crs:
        raise DatasetError(
            f"An image and its label have different reference systems: {image.crs} and {label.crs}.",
            received=f"{image_path} and {label_path}",
            hint="Warp one onto the other first, e.g. with rio warp --like.",
        )
    bounds = [array_bounds(raster.height, raster.width, raster.transform) for raster in (image, label)]
    shift = max(abs(a - b) for a, b in zip(*bounds, strict=True))
    if shift > 0.5 * abs(image.transform.a):
        raise DatasetError(
            f"An image and its label lie on different ground, {shift:g} units apart.",
            received=f"{image_path} and {label_path}",
            hint="Repair the copy, or set `on_broken_file: skip`.",
        )
