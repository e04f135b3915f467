"""Polygon labels: COCO JSON in pixels, GeoJSON and GeoPackage on the ground; and boxes turned into masks."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyogrio
import pyproj
import shapely
from numpy.typing import NDArray
from rasterio.features import rasterize
from shapely import affinity

from terraprompt.errors import DatasetError
from terraprompt.forge.annotations import Annotation, Outline, polygon
from terraprompt.forge.label_readers import LabelContext, Labels
from terraprompt.forge.tables import SourceTable
from terraprompt.io.rle import RunLengths
from terraprompt.io.text import decode_utf8
from terraprompt.prompt import Prompt
from terraprompt.raster.scene import Scene

if TYPE_CHECKING:  # its package loads torch, which other codecs do not need
    from terraprompt.segmenters.base import PromptableSegmenter

__all__ = [
    "BoxLabels",
    "PolygonLabels",
    "annotation_labels",
    "coco_annotations",
    "read_coco",
    "segmenter_of",
    "vector_annotations",
]

#: Pixels that a mask may reach over its rotated box.
_OVERHANG = 2.0


class PolygonLabels:
    """Polygons of one image, burnt window by window; later ones lie on top.

    Args:
        shapes: (class, shapely geometry in pixels of the image).
        context: of the labels.
    """

    looks = False

    def __init__(self, shapes: Sequence[tuple[str, Any]], context: LabelContext) -> None:
        self._numbers = context.numbers([label for label, _ in shapes])
        self._shapes = [shape for _, shape in shapes]
        self._tree = shapely.STRtree(self._shapes)

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """See :class:`terraprompt.forge.label_readers.Labels`."""
        height, width = shape
        hits = np.sort(self._tree.query(shapely.box(column, row, column + width, row + height)))
        burnt = [
            (affinity.translate(self._shapes[i], -column, -row), self._numbers[i])
            for i in hits
            if not self._shapes[i].is_empty
        ]
        if not burnt:
            return np.zeros((height, width), np.uint8)
        out: NDArray[np.uint8] = rasterize(burnt, out_shape=(height, width), dtype="uint8")
        return out


class BoxLabels:
    """Boxes of one image turned into masks (the SAMRS procedure, arXiv 2305.02034): each box is a prompt.

    Larger objects first, smaller ones on top. A mask is cut at its box, a rotated one with a little room.

    Args:
        outlines: of the image.
        segmenter: None fills the boxes.
        context: of the labels.
    """

    def __init__(
        self, outlines: Sequence[Outline], segmenter: PromptableSegmenter | None, context: LabelContext
    ) -> None:
        numbers = context.numbers([outline.label for outline in outlines])
        shapes = [shapely.make_valid(shapely.Polygon(outline.corners)) for outline in outlines]
        order = sorted(range(len(shapes)), key=lambda i: (-shapes[i].area, i))
        self._shapes = [shapes[i] for i in order if numbers[i] and shapes[i].area > 0]
        self._numbers = [numbers[i] for i in order if numbers[i] and shapes[i].area > 0]
        self._tree = shapely.STRtree(self._shapes)
        self._segmenter, self._note = segmenter, context.note
        self.looks = segmenter is not None

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """See :class:`terraprompt.forge.label_readers.Labels`."""
        height, width = shape
        frame = shapely.box(column, row, column + width, row + height)
        out = np.zeros((height, width), np.uint8)
        asked = []
        for i in np.sort(self._tree.query(frame)).tolist():
            inside = self._shapes[i].intersection(frame)
            if inside.area > 0:  # also a sliver: what is left out here would make "the only one" a lie
                asked.append((affinity.translate(inside, -column, -row), self._numbers[i]))
        masks = self._masks([shape for shape, _ in asked], (height, width), image)
        for (_, number), mask in zip(asked, masks, strict=True):
            out[mask] = number
            if not mask.any():
                self._note("a box whose mask is empty", 1)
        return out

    def _masks(
        self, shapes: Sequence[Any], size: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> list[NDArray[np.bool_]]:
        if not shapes:
            return []
        if self._segmenter is None:
            return [rasterize([shape], out_shape=size, dtype="uint8").astype(np.bool_) for shape in shapes]
        if image is None:
            raise ValueError("a segmenter needs the pixels")
        embedding = self._segmenter.embed([np.ascontiguousarray(image)])[0]
        out = []
        for shape in shapes:
            (answer,) = self._segmenter.predict(embedding, [Prompt(boxes=(shape.bounds,))])
            room = rasterize([shape.buffer(_OVERHANG)], out_shape=size, dtype="uint8").astype(np.bool_)
            out.append((answer.logits > 0) & room)
        return out


@lru_cache(maxsize=2)
def segmenter_of(name: str | None) -> PromptableSegmenter | None:
    """The segmenter of a source; None for "fill".

    Raises:
        DatasetError: boxes without one.
        EngineError: an unknown one.
    """
    if name == "fill":
        return None
    if name is None:
        raise DatasetError(
            "A source of boxes needs a segmenter.",
            hint='Set `segmenter: nano`, another segmenter, or "fill" for the boxes themselves.',
        )
    from terraprompt.segmenters import load_segmenter  # torch, which other codecs do not need

    return load_segmenter(name)


class StackedLabels:
    """Outlines over the masks of boxes."""

    def __init__(self, outlines: PolygonLabels, boxes: BoxLabels) -> None:
        self._outlines, self._boxes, self.looks = outlines, boxes, boxes.looks

    def window(
        self, column: int, row: int, shape: tuple[int, int], image: NDArray[np.uint8] | None
    ) -> NDArray[np.uint8]:
        """See :class:`terraprompt.forge.label_readers.Labels`."""
        top = self._outlines.window(column, row, shape, image)
        return np.where(top > 0, top, self._boxes.window(column, row, shape, image))


def annotation_labels(found: Sequence[Annotation], segmenter: str | None, context: LabelContext) -> Labels:
    """Labels of annotations that are outlines or boxes; what cannot be used is left out one by one.

    Args:
        found: of the image.
        segmenter: of a source; see :func:`segmenter_of`. Without one an annotation that is only a box cannot be used.
        context: of the labels.

    Raises:
        DatasetError: an annotation that cannot be used, if told to stop.
    """
    boxes, outlines = [], []
    for annotation in found:
        fault = annotation.fault
        if not fault and annotation.is_box and segmenter is None:
            fault = (
                f"{annotation.name} has a box but no outline (set `segmenter: fill` for the box itself, or a segmenter "
                "such as nano)"
            )
        if fault:
            context.leave_out(fault)
        elif annotation.is_box:
            boxes.append(Outline(annotation.label, tuple(annotation.shape.exterior.coords)[:-1]))
        else:
            outlines.append((annotation.label, annotation.shape))
    polygons = PolygonLabels(outlines, context)
    return StackedLabels(polygons, BoxLabels(boxes, segmenter_of(segmenter), context)) if boxes else polygons


@lru_cache(maxsize=4)
def _coco(file: Path, changed: int) -> tuple[dict[str, list[Annotation]], list[str]]:
    """File name -> annotations of a COCO file; and what is wrong with those of no image."""
    try:
        raw = json.loads(decode_utf8(file.read_bytes(), file))
        names = {row["id"]: str(row["name"]) for row in raw["categories"]}
        files = {row["id"]: (str(row["file_name"]), row) for row in raw["images"]}
        found: dict[str, list[Annotation]] = {name: [] for name, _ in files.values()}
        orphans: list[str] = []
        for number, row in enumerate(raw["annotations"], 1):
            name = f"annotation {row.get('id', f'number {number}')}" if isinstance(row, dict) else f"entry {number}"
            try:
                image = files.get(row["image_id"])
                if image is None:
                    orphans.append(f"{name} belongs to image {row['image_id']!r}, which is not listed")
                    continue
            except (KeyError, TypeError) as error:
                orphans.append(f"{name} names no image ({error!r})")
                continue
            found[image[0]].append(_coco_annotation(row, image[1], names, name))
        return found, orphans
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise DatasetError(f"A COCO file cannot be read ({error!r}).", received=file) from None


def _coco_annotation(row: dict[str, Any], image: dict[str, Any], names: dict[Any, str], name: str) -> Annotation:
    try:
        if row["category_id"] not in names:
            raise ValueError(f"category {row['category_id']!r}, which is not listed")
        label, raw = names[row["category_id"]], row.get("segmentation")
        if isinstance(raw, dict):
            return Annotation(label, _coco_mask(raw, image, name))
        if raw:
            return Annotation(label, shapely.make_valid(shapely.union_all([polygon(ring) for ring in raw])))
        x, y, w, h = (float(v) for v in row["bbox"])
        if not (w > 0 and h > 0):
            raise ValueError(f"neither an outline nor a box with an area ({row['bbox']})")
        return Annotation(label, polygon([(x, y), (x + w, y), (x + w, y + h), (x, y + h)]), is_box=True, name=name)
    except DatasetError as error:
        return Annotation("", fault=error.what.rstrip("."))
    except ValueError as error:
        return Annotation("", fault=f"{name} has {error}")
    except (KeyError, TypeError) as error:
        return Annotation("", fault=f"{name} lacks or breaks a field ({error!r})")


def _coco_mask(raw: dict[str, Any], image: dict[str, Any], name: str) -> Any:
    from rasterio.features import shapes as outlines

    mask = RunLengths.of(raw, name=name).load()
    size = (image.get("height", mask.shape[0]), image.get("width", mask.shape[1]))
    if mask.shape != size:
        raise ValueError(f"a mask of {mask.shape[1]} x {mask.shape[0]} pixels, its image {size[1]} x {size[0]}")
    return shapely.union_all(
        [shapely.geometry.shape(shape) for shape, value in outlines(mask, mask=mask != 0, connectivity=8) if value]
    )


def read_coco(path: Path) -> tuple[dict[str, list[Annotation]], list[str]]:
    """``file_name`` -> annotations of a COCO file, and what is wrong with those that belong to no image.

    Raises:
        DatasetError: a broken file.
    """
    try:
        return _coco(path, path.stat().st_mtime_ns)
    except OSError as error:
        raise DatasetError(f"A COCO file cannot be read ({error!r}).", received=path) from None


def coco_annotations(path: Path, image: str) -> list[Annotation]:
    """Annotations of an image of a COCO file.

    Args:
        path: of the JSON file.
        image: its ``file_name`` there: the path relative to the root, or the name of the file alone.

    Raises:
        DatasetError: a broken file, or an image that it does not list.
    """
    found = read_coco(path)[0]
    for name in (image, Path(image).name):
        if name in found:
            return found[name]
    raise DatasetError("A COCO file does not list this image.", received=f"{image} in {path}")


def vector_annotations(path: Path, table: SourceTable, image: Scene) -> list[Annotation]:
    """Annotations, in pixels of the image, of a GeoJSON, GeoPackage or Shapefile.

    Raises:
        DatasetError: broken, without the field of classes, without a reference system, or on other ground.
    """
    if image.crs is None:
        raise DatasetError("An image has no reference system, so polygons cannot be laid on it.", received=image.source)
    try:
        layers = [str(name) for name in pyogrio.list_layers(path)[:, 0]]
        if len(layers) > 1 and table.layout.layer is None:
            raise DatasetError(
                "A vector file has several layers.",
                received=f"{', '.join(layers)} in {path}",
                hint="Name one in the table: layout.layer.",
            )
        info, _, shapes, fields = pyogrio.raw.read(path, layer=table.layout.layer, columns=[table.layout.attribute])
    except (pyogrio.errors.DataSourceError, pyogrio.errors.DataLayerError, OSError, ValueError) as error:
        raise DatasetError(f"A vector file cannot be read: {error}.", received=path) from None
    if not fields or table.layout.attribute not in list(info["fields"]):
        raise DatasetError(
            f"A vector file has no field {table.layout.attribute!r} with the classes.",
            received=path,
            hint="Name it in the table: layout.attribute.",
        )
    if info["crs"] is None:
        raise DatasetError("A vector file has no reference system.", received=path, hint="Set it with ogr2ogr -a_srs.")
    geometries = shapely.from_wkb(shapes)
    if pyproj.CRS(info["crs"]) != pyproj.CRS(image.crs.to_wkt()):
        move = pyproj.Transformer.from_crs(info["crs"], image.crs.to_wkt(), always_xy=True)
        geometries = shapely.transform(
            geometries, lambda points: np.stack(move.transform(points[:, 0], points[:, 1]), axis=1)
        )
    back = ~image.transform
    placed = shapely.transform(
        geometries,
        lambda points: np.stack(
            [
                back.a * points[:, 0] + back.b * points[:, 1] + back.c,
                back.d * points[:, 0] + back.e * points[:, 1] + back.f,
            ],
            axis=1,
        ),
    )
    found = []
    for number, (label, shape) in enumerate(zip(fields[0].tolist(), placed, strict=True), 1):
        if shape is None or shape.is_empty:
            found.append(Annotation("", fault=f"feature {number} has no geometry"))
        elif shape.geom_type not in ("Polygon", "MultiPolygon"):
            found.append(Annotation("", fault=f"feature {number} is a {shape.geom_type}, which is no area"))
        elif label is None or label != label:
            found.append(Annotation("", fault=f"feature {number} has no class"))
        else:
            found.append(Annotation(str(label), shapely.make_valid(shape)))
    return found
