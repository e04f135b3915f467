"""What a rendered scene is and what it knows about itself: objects, masks, labels, files."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from affine import Affine
from numpy.typing import NDArray
from shapely.geometry import Polygon

from terraprompt.errors import ConfigError, OutputError

__all__ = ["CATEGORIES", "STYLES", "Example", "RenderedObject", "RenderedScene"]

CATEGORIES = (
    "building",
    "road",
    "field",
    "forest",
    "lake",
    "car",
    "truck",
    "storage_tank",
    "sports_court",
    "solar_panel",
    "swimming_pool",
    "tree",
    "bare_ground",
)
STYLES = ("suburb", "informal", "industrial", "rural", "lakes", "downtown")


@dataclass(frozen=True, slots=True)
class RenderedObject:
    """One object of the truth.

    Attributes:
        category: one of :data:`CATEGORIES`.
        polygon: the whole footprint within the scene, also where something lies on top of it; continuous pixel
            coordinates (x right, y down, (0, 0) the outer corner of the first pixel).
        attributes: ``colour`` ("red", "grey", …), ``kind`` ("house", "tennis", …), ``area_m2`` of the polygon,
            ``height_m`` above ground, ``visible``: the share of the footprint, 0 to 1, that nothing lies on
            (fixtures do not count), ``cut``: whether the edge of the scene cuts it.
        parent: index in :attr:`RenderedScene.objects` of the building that a roof panel is fixed to, else None.
    """

    category: str
    polygon: Polygon
    attributes: dict[str, Any]
    parent: int | None = None


@dataclass(frozen=True, slots=True)
class Example:
    """One object to prompt for, in the map coordinates of the scene.

    Attributes:
        name: e.g. "building 17": category and object id.
        index: of the object in :attr:`RenderedScene.objects`.
        point: (x, y) on it.
        box: (x0, y0, x1, y1) round it, x0 < x1 and y0 < y1.
        crs: e.g. "EPSG:32633".
    """

    name: str
    index: int
    point: tuple[float, float]
    box: tuple[float, float, float, float]
    crs: str


@dataclass(frozen=True, eq=False)
class RenderedScene:
    """A rendered overhead scene with its exact truth.

    The truth is what is visible: objects are painted in the order of :attr:`objects`, so that a pixel belongs to the
    last object whose polygon covers its centre. A car on a road is car, not road; a road under a crown is tree. The
    only exception are fixtures: a solar panel on a roof belongs to itself **and** to its building, its ``parent``.
    Lawns, pavements, drives and car parks have no category.

    Attributes:
        rgb: uint8 (H, W, 3).
        objects: in painter's order; each has at least one visible pixel.
        gsd_m: size of a pixel in metres.
        seed, style: what it was made from.
        transform: pixel to map coordinates.
        crs: a UTM zone, e.g. "EPSG:32633".
        top: int32 (H, W), index of the object on top plus one, 0 = none.
        nodata: 0 if a corner has no data (all bands 0 there and nowhere else), else None.
    """

    rgb: NDArray[np.uint8]
    objects: tuple[RenderedObject, ...]
    gsd_m: float
    seed: int
    style: str
    transform: Affine
    crs: str
    top: NDArray[np.int32] = field(repr=False)
    nodata: int | None = None

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.rgb.shape[0], self.rgb.shape[1]

    @property
    def valid(self) -> NDArray[np.bool_]:
        """bool (H, W): where there is data."""
        if self.nodata is None:
            return np.ones(self.shape, bool)
        return np.asarray((self.rgb != self.nodata).any(-1))

    def labels(self, category: str) -> NDArray[np.int32]:
        """int32 (H, W): index in :attr:`objects` plus one where an object of the category is visible, else 0.

        Raises:
            ConfigError: unknown category.
        """
        if category not in CATEGORIES:
            raise ConfigError("There is no such category.", received=category, hint=f"Known: {', '.join(CATEGORIES)}.")
        table = np.zeros(len(self.objects) + 1, np.int32)
        for i, thing in enumerate(self.objects):
            if thing.category == category:
                table[i + 1] = i + 1
            elif thing.parent is not None and self.objects[thing.parent].category == category:
                table[i + 1] = thing.parent + 1
        return table[self.top]

    def mask(self, category: str) -> NDArray[np.uint8]:
        """uint8 (H, W): 1 where the category is visible, else 0.

        Raises:
            ConfigError: unknown category.
        """
        return (self.labels(category) > 0).astype(np.uint8)

    def example(self, category: str = "building", *, rank: int = 0) -> Example:
        """A good object to prompt for: wholly visible, away from the edges, of a size easily seen.

        Args:
            category: what it shall be.
            rank: 0 for the best one, 1 for the next, …

        Raises:
            ConfigError: the scene has no such object, or not that many.
        """
        height, width = self.shape
        found = []
        for i, thing in enumerate(self.objects):
            x0, y0, x1, y1 = thing.polygon.bounds
            clear = x0 > 4 and y0 > 4 and x1 < width - 4 and y1 < height - 4 and not thing.attributes["cut"]
            if thing.category == category and clear and thing.attributes["visible"] > 0.97:
                found.append((i, thing.polygon.area))
        if len(found) <= rank:
            raise ConfigError(
                f"The scene has no wholly visible {category} of rank {rank}.",
                received=f"seed {self.seed}, style {self.style}",
                hint="Render a larger scene, or another seed.",
            )
        wanted = float(np.quantile([area for _, area in found], 0.75))
        index = sorted(found, key=lambda pair: (abs(np.log(pair[1] / wanted)), pair[0]))[rank][0]
        polygon = self.objects[index].polygon
        spot = polygon.centroid if polygon.contains(polygon.centroid) else polygon.representative_point()
        x0, y0, x1, y1 = polygon.bounds
        (ax, ay), (bx, by) = self._to_map(x0, y0), self._to_map(x1, y1)
        return Example(
            name=f"{category} {index + 1}",
            index=index,
            point=self._to_map(spot.x, spot.y),
            box=(min(ax, bx), min(ay, by), max(ax, bx), max(ay, by)),
            crs=self.crs,
        )

    def _to_map(self, x: float, y: float) -> tuple[float, float]:
        t = self.transform
        return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f

    def map_polygons(self) -> NDArray[np.object_]:
        """The footprints in map coordinates, one shapely polygon an object, in the order of :attr:`objects`."""
        t = self.transform

        def to_map(xy: NDArray[np.float64]) -> NDArray[np.float64]:
            return np.column_stack([t.a * xy[:, 0] + t.b * xy[:, 1] + t.c, t.d * xy[:, 0] + t.e * xy[:, 1] + t.f])

        polygons = np.array([thing.polygon for thing in self.objects], dtype=object)
        return np.asarray(shapely.transform(polygons, to_map)) if polygons.size else polygons

    def write(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the picture as a tiled, compressed GeoTIFF with overviews.

        Raises:
            OutputError: the file exists and ``overwrite`` is not set, or cannot be written; what was there stays.
        """
        import rasterio
        from rasterio.enums import Resampling

        height, width = self.shape
        tile = min(256, max(16, min(height, width) // 16 * 16))
        with _fresh(Path(path), overwrite) as part:
            with rasterio.open(
                part,
                "w",
                driver="GTiff",
                height=height,
                width=width,
                count=3,
                dtype="uint8",
                crs=self.crs,
                transform=self.transform,
                nodata=self.nodata,
                tiled=True,
                blockxsize=tile,
                blockysize=tile,
                compress="deflate",
                predictor=2,
                photometric="rgb",
            ) as out:
                out.write(np.moveaxis(self.rgb, -1, 0))
                out.update_tags(RENDERED_SEED=self.seed, RENDERED_STYLE=self.style, RENDERED_GSD_M=self.gsd_m)
            factors = [f for f in (2, 4, 8, 16, 32) if min(height, width) // f >= 64] or [2]
            with rasterio.open(part, "r+") as out:
                out.build_overviews(factors, Resampling.average)
        return Path(path)

    def write_truth(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the footprints as a GeoPackage, layer "truth", in painter's order.

        Raises:
            OutputError: the file exists and ``overwrite`` is not set, or cannot be written; what was there stays.
        """
        import pyogrio.raw

        ids = np.arange(1, len(self.objects) + 1, dtype=np.int32)
        texts = {
            "category": [thing.category for thing in self.objects],
            "colour": [thing.attributes["colour"] for thing in self.objects],
            "kind": [thing.attributes["kind"] for thing in self.objects],
        }
        numbers = {
            key: [float(thing.attributes[key]) for thing in self.objects] for key in ("area_m2", "height_m", "visible")
        }
        parents = np.array([0 if thing.parent is None else thing.parent + 1 for thing in self.objects], np.int32)
        columns = [
            ids,
            *(np.array(v, dtype=object) for v in texts.values()),
            *(np.array(v, np.float64) for v in numbers.values()),
            parents,
        ]
        with _fresh(Path(path), overwrite) as part:
            pyogrio.raw.write(
                part,
                shapely.to_wkb(self.map_polygons()),
                columns,
                ["id", *texts, *numbers, "parent_id"],
                driver="GPKG",
                layer="truth",
                geometry_type="Polygon",
                crs=self.crs,
                layer_metadata={"made": json.dumps({"seed": self.seed, "style": self.style, "gsd_m": self.gsd_m})},
            )
        return Path(path)


@contextmanager
def _fresh(path: Path, overwrite: bool) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place once it is complete."""
    if path.exists() and not overwrite:
        raise OutputError("The output exists.", received=path, hint="Choose another name or allow overwriting.")
    if not path.parent.is_dir():
        raise OutputError("The folder of the output does not exist.", received=path.parent, hint="Make it first.")
    try:
        with tempfile.TemporaryDirectory(prefix=".terraprompt-", dir=path.parent) as folder:
            part = Path(folder) / path.name
            yield part
            part.replace(path)
    except (OSError, RuntimeError) as error:
        raise OutputError(
            f"The output cannot be written: {error}", received=path, hint="Check the disk and the rights."
        ) from error
