"""Reader of the image pack: ``annotations.jsonl`` with one JSON record per image, beside images and masks.

Needs numpy and Pillow only, so that training also runs on machines without GDAL. Boxes and points are continuous
pixel coordinates: x right, y down, (0, 0) the outer corner of the first pixel.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from terraprompt.errors import DatasetError
from terraprompt.geometry.types import Box
from terraprompt.io.text import decode_utf8
from terraprompt.raster.pictures import picture_size, read_rgb

__all__ = ["INDEX_NAME", "Record", "Region", "find_pack", "read_pack"]

#: Modes of Pillow for pictures of 16 bits a pixel.
_DEEP = frozenset({"I;16", "I;16B", "I;16L", "I;16N", "I"})

INDEX_NAME = "annotations.jsonl"
LABEL_KINDS = ("mask", "box", "centreline")
SPLITS = ("train", "val")


@dataclass(frozen=True, slots=True)
class Region:
    """One labelled thing: a mask of all pixels of a category, or the box of one object.

    Attributes:
        category: e.g. "building".
        mask: file of an 8-bit mask, or None for a box.
        value: the grey value in ``mask`` that means the category.
        box: ``(x0, y0, x1, y1)`` in pixels, x1 and y1 exclusive edges, or None for a mask.
    """

    category: str
    mask: Path | None
    value: int
    box: Box | None


@dataclass(frozen=True, slots=True)
class Record:
    """One image of the pack and what is known about it.

    Attributes:
        id: ``<source>/<name>``, unique in the pack.
        source: where it comes from, e.g. "fair_oam".
        split: "train" or "val".
        image: file of the RGB image.
        width: pixels.
        height: pixels.
        gsd_m: ground size of a pixel in metres, None if unknown.
        label_kind: "mask" (area), "box", or "centreline" (a buffered line, not the area of the thing).
        labelled: categories that the annotators looked for; one without a region was not found in this image.
        regions: what they found.
        licence: short licence name.
        group: location; never in both splits.
        scale_variant: the same ground is in the pack at a finer scale too.
        ignore: file of a mask and the grey value in it that means "not labelled"; None where all is labelled.
    """

    id: str
    source: str
    split: str
    image: Path
    width: int
    height: int
    gsd_m: float | None
    label_kind: str
    labelled: tuple[str, ...]
    regions: tuple[Region, ...]
    licence: str
    group: str
    scale_variant: bool
    ignore: tuple[Path, int] | None = None

    @property
    def present(self) -> tuple[str, ...]:
        """Categories with at least one region, in the order of ``regions``."""
        return tuple(dict.fromkeys(region.category for region in self.regions))

    def load_image(self) -> NDArray[np.uint8]:
        """The image as RGB uint8 (height, width, 3).

        Raises:
            DatasetError: the file is missing, damaged or of another size than the record says.
        """
        rgb, _ = read_rgb(self.image)
        _check_size((rgb.shape[1], rgb.shape[0]), (self.width, self.height), self.image, self.id)
        return rgb

    def load_mask(self, category: str) -> NDArray[np.uint8]:
        """Where ``category`` is: uint8 (height, width), 1 = yes, 0 = no; all 0 if it was looked for and not found.

        Raises:
            DatasetError: boxes only, a category nobody looked for here, or a missing, damaged or ill-sized file.
        """
        self._check_labelled(category)
        if self.label_kind == "box":
            raise DatasetError(
                f"Record {self.id} has boxes, no masks.",
                received=category,
                hint="Use Record.boxes(category).",
            )
        out = np.zeros((self.height, self.width), np.uint8)
        for region in self.regions:
            if region.category == category and region.mask is not None:
                grey = _load(region.mask, (self.width, self.height), self.id)
                out |= (grey == region.value).astype(np.uint8)
        return out

    def load_known(self) -> NDArray[np.uint8] | None:
        """Which pixels are labelled: uint8 (height, width), 1 = yes; None where all are.

        Raises:
            DatasetError: a missing, damaged or ill-sized file.
        """
        if self.ignore is None:
            return None
        path, value = self.ignore
        known: NDArray[np.uint8] = (_load(path, (self.width, self.height), self.id) != value).astype(np.uint8)
        return known

    def boxes(self, category: str) -> NDArray[np.float32]:
        """Boxes of ``category`` as float32 (n, 4), xyxy in pixels; (0, 4) if it was looked for and not found.

        Raises:
            DatasetError: masks only, or a category nobody looked for here.
        """
        self._check_labelled(category)
        if self.label_kind != "box":
            raise DatasetError(
                f"Record {self.id} has masks, no boxes.",
                received=category,
                hint="Use Record.load_mask(category).",
            )
        found = [region.box for region in self.regions if region.category == category and region.box is not None]
        return np.asarray(found, np.float32).reshape(-1, 4)

    def _check_labelled(self, category: str) -> None:
        if category not in self.labelled:
            raise DatasetError(
                f"Nobody looked for this category in {self.id}, so nothing is known about it.",
                received=category,
                hint=f"Labelled there: {', '.join(self.labelled)}.",
            )


def find_pack() -> Path | None:
    """The folder of the pack: ``$TERRAPROMPT_DATA``, else ``../shared/data`` beside the repository root, else None.

    Raises:
        DatasetError: the variable is set to something that is not a pack.
    """
    named = os.environ.get("TERRAPROMPT_DATA")
    if named:
        root = Path(named).expanduser()
        if not (root / INDEX_NAME).is_file():
            raise DatasetError(
                f"TERRAPROMPT_DATA does not hold a pack ({INDEX_NAME} is missing).",
                received=named,
                hint="Point it at the folder with annotations.jsonl, or unset it.",
            )
        return root
    for parent in Path(__file__).resolve().parents:
        if (parent / "pyproject.toml").is_file():
            root = parent.parent / "shared" / "data"
            return root if (root / INDEX_NAME).is_file() else None
    return None


def read_pack(
    root: Path | str,
    split: str | None = None,
    *,
    sources: Collection[str] | None = None,
    scale_variants: bool = True,
    skip: Callable[[DatasetError], None] | None = None,
) -> list[Record]:
    """Records of a pack in file order. Image and mask files must exist and have the recorded size; pixels stay unread.

    Args:
        root: folder with ``annotations.jsonl``.
        split: "train", "val", or None for both.
        sources: keep these sources only.
        scale_variants: keep images whose ground is also there at a finer scale.
        skip: told about each broken record, which is then left out; None raises instead.

    Raises:
        DatasetError: a missing index, a broken line, a repeated id, a missing or ill-sized file, an unknown split or
            source; the message names the file and the line.
    """
    index = Path(root) / INDEX_NAME
    if split is not None and split not in SPLITS:
        raise DatasetError("A split is train or val.", received=split)
    if not index.is_file():
        raise DatasetError("The pack has no index.", received=index, hint=f"Give the folder that holds {INDEX_NAME}.")
    records: list[Record] = []
    seen: set[str] = set()
    with index.open("rb") as lines:
        for number, data in enumerate(lines, 1):
            if not data.strip():
                continue
            try:
                record = _parse(_text(data, index, number), index, number)
                if record.id in seen:
                    raise DatasetError(f"Two records have one id in {index}, line {number}.", received=record.id)
            except DatasetError as error:
                if skip is None:
                    raise
                skip(error)
                continue
            seen.add(record.id)
            records.append(record)
    if sources is not None:
        known = {record.source for record in records}
        if unknown := sorted(set(sources) - known):
            raise DatasetError(f"Unknown source in {index}.", received=unknown, hint=f"Known: {sorted(known)}.")
    kept = [
        record
        for record in records
        if (split is None or record.split == split)
        and (sources is None or record.source in sources)
        and (scale_variants or not record.scale_variant)
    ]
    return [record for record in kept if _is_whole(record, skip)]


def _is_whole(record: Record, skip: Callable[[DatasetError], None] | None) -> bool:
    try:
        _check_files(record)
    except DatasetError as error:
        if skip is None:
            raise
        skip(error)
        return False
    return True


def _text(data: bytes, index: Path, number: int) -> str:
    try:
        return decode_utf8(data, index)
    except DatasetError as error:
        what = f"A line is not UTF-8 text in {index}, line {number}."
        raise DatasetError(what, received=repr(data[:60]), hint=error.hint) from None


def _parse(line: str, index: Path, number: int) -> Record:
    """One line of the index; every fault becomes a DatasetError with file and line."""
    where = f"{index}, line {number}"
    try:
        raw: dict[str, Any] = json.loads(line)
    except json.JSONDecodeError as error:
        raise DatasetError(f"A record is not JSON in {where}: {error.msg}.", received=line[:80]) from None
    root = index.parent
    try:
        record = Record(
            id=str(raw["id"]),
            source=str(raw["source"]),
            split=str(raw["split"]),
            image=_inside(root, raw["image"]),
            width=int(raw["width"]),
            height=int(raw["height"]),
            gsd_m=None if raw["gsd_m"] is None else float(raw["gsd_m"]),
            label_kind=str(raw["label_kind"]),
            labelled=tuple(str(name) for name in raw["labelled"]),
            regions=tuple(_region(region, root) for region in raw["regions"]),
            licence=str(raw["licence"]),
            group=str(raw["group"]),
            scale_variant=bool(raw["scale_variant"]),
            ignore=_ignore(raw, root),
        )
    except KeyError as error:
        raise DatasetError(f"A record lacks the field {error} in {where}.", received=str(raw.get("id"))) from None
    except (TypeError, ValueError, AttributeError) as error:
        raise DatasetError(f"A record has a field of the wrong kind in {where}: {error}.", received=line[:80]) from None
    fault = _fault(record)
    if fault:
        raise DatasetError(f"Record {record.id} is broken in {where}: {fault}.")
    return record


def _region(raw: dict[str, Any], root: Path) -> Region:
    box = raw["box"]
    if box is not None:
        x0, y0, x1, y1 = (float(v) for v in box)
        box = (x0, y0, x1, y1)
    mask = None if raw["mask"] is None else _inside(root, raw["mask"])
    return Region(str(raw["category"]), mask, 0 if mask is None else _grey(raw["value"] or 0, mask), box)


def _ignore(raw: dict[str, Any], root: Path) -> tuple[Path, int] | None:
    """``ignore_mask`` and ``ignore_value`` of a record, which may lack both."""
    if raw.get("ignore_mask") is None:
        return None
    path = _inside(root, raw["ignore_mask"])
    return path, _grey(raw["ignore_value"], path)


def _grey(value: Any, path: Path) -> int:
    """A value that the mask's file can hold; only for one above 255 the file is opened."""
    most = 255
    if value > most:
        try:
            with Image.open(path) as picture:
                most = 65535 if picture.mode in _DEEP else 255
        except (OSError, SyntaxError) as error:
            raise ValueError(f"mask value {value}, but its file cannot be read ({error})") from None
    if value != int(value) or not 0 <= value <= most:
        raise ValueError(f"mask value {value}, but {path.name} holds whole numbers from 0 to {most}")
    return int(value)


def _inside(root: Path, name: str) -> Path:
    """A file of the pack; ValueError for a path that leads out of its folder."""
    path = Path(os.path.normpath(name))
    if path.is_absolute() or ".." in path.parts:
        raise ValueError(f"the path {name!r} leads out of the folder")
    return root / name


def _fault(record: Record) -> str | None:
    if record.split not in SPLITS:
        return f"split {record.split!r} is not one of {SPLITS}"
    if record.label_kind not in LABEL_KINDS:
        return f"label_kind {record.label_kind!r} is not one of {LABEL_KINDS}"
    if record.width < 1 or record.height < 1:
        return f"size {record.width} x {record.height}"
    for region in record.regions:
        if region.category not in record.labelled:
            return f"a region of {region.category!r}, which is not among the labelled categories"
        wants_box = record.label_kind == "box"
        if (region.box is not None) != wants_box or (region.mask is None) != wants_box:
            return f"a region of {region.category!r} that does not fit label_kind {record.label_kind!r}"
        if region.box is not None and not (region.box[0] < region.box[2] and region.box[1] < region.box[3]):
            return f"an empty box {region.box}"
    return None


def _check_files(record: Record) -> None:
    """Existence and size from the file headers."""
    masks = [*(region.mask for region in record.regions if region.mask), *(record.ignore or ())[:1]]
    for path in dict.fromkeys([record.image, *masks]):
        _check_size(_size(path, record.id), (record.width, record.height), path, record.id)


def _size(path: Path, owner: str) -> tuple[int, int]:
    if not path.is_file():
        raise DatasetError(f"A file of record {owner} is missing.", received=path)
    try:
        return picture_size(path)
    except DatasetError as error:
        raise DatasetError(f"A file of record {owner} cannot be read: {error}") from None


def _check_size(size: tuple[int, int], expected: tuple[int, int], path: Path, owner: str) -> None:
    if size != expected:
        raise DatasetError(
            f"{path} of record {owner} has the wrong size: expected {expected[0]} x {expected[1]} pixels.",
            received=f"{size[0]} x {size[1]}",
        )


def _load(path: Path, size: tuple[int, int], owner: str) -> NDArray[np.uint8 | np.uint16]:
    """The grey values of a mask of 8 or 16 bits, (height, width)."""
    try:
        with Image.open(path) as picture:
            _check_size(picture.size, size, path, owner)
            if picture.mode in _DEEP:
                return np.array(picture).astype(np.uint16)
            return np.array(picture.convert("L"), np.uint8)
    except FileNotFoundError:
        raise DatasetError(f"A file of record {owner} is missing.", received=path) from None
    except (OSError, SyntaxError) as error:
        raise DatasetError(f"A file of record {owner} cannot be read: {error}.", received=path) from None
