"""What a segmentation gives back: a status, a mask, objects, and files of them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self

import numpy as np
import rasterio
from numpy.typing import NDArray
from rasterio import Affine
from shapely import MultiPolygon, Polygon
from shapely.geometry import mapping

from terraprompt.errors import ConfigError, OutputError
from terraprompt.io.atomic import atomic_path
from terraprompt.io.files import WorkFolder, check_writable, replacing, translated
from terraprompt.io.text import sanitize_text, unique_names
from terraprompt.io.tiff import verify_tiff
from terraprompt.outputs.provenance import as_text
from terraprompt.outputs.vectorize.runs import ObjectRuns
from terraprompt.outputs.work_files import (
    Q_NODATA,
    QUANTA,
    bands,
    create_work,
    gdal,
    read_rows,
    write_rows,
)

if TYPE_CHECKING:
    from geopandas import GeoDataFrame

    from terraprompt.prompt import Prompt

__all__ = ["Kind", "Result", "SegmentedObject", "Status"]

Kind = Literal["mask", "vector", "picture"]


class Status(StrEnum):
    """How a segmentation ended."""

    FOUND = "found"
    NO_TARGET = "no_target"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, repr=False)
class SegmentedObject:
    """One 8-connected region of the mask.

    Attributes:
        id: from 1, in raster order of the objects' first pixels.
        polygon: simplified outline in the scene's CRS; in pixel coordinates (x right, y down) without a CRS. A
            MultiPolygon where parts touch by corners alone.
        bbox: ``(x0, y0, x1, y1)`` pixels of the mask, x1 and y1 exclusive.
        area_px: pixels of the mask.
        area_m2: ground area of these pixels: planar where the projection keeps areas (UTM), on the ellipsoid
            where it does not (EPSG:4326, EPSG:3857); None without a CRS.
        score: mean probability of these pixels.
        category: what it is, by the one category that was understood from the text; None where none or several were, or
            the engine has no vocabulary.
        prompt_id: of the point or box that it answers: the id of the feature that this comes from, else the number of
            the point from 1; boxes go on after the points. None for a text.
        attributes: of that feature, by their own names.
    """

    id: int
    polygon: Polygon | MultiPolygon
    bbox: tuple[int, int, int, int]
    area_px: int
    area_m2: float | None
    score: float
    category: str | None = None
    prompt_id: int | str | None = None
    attributes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        """A GeoJSON-like Feature in the CRS of the scene, of which nothing is said here: see that of the result."""
        names = ("area_px", "area_m2", "score", "category", "prompt_id")
        properties = {"id": self.id, **{name: getattr(self, name) for name in names}}
        properties |= zip(unique_names(self.attributes, properties), self.attributes.values(), strict=True)
        geometry = mapping(self.polygon)
        return {
            "type": "Feature",
            "id": self.id,
            "bbox": self.polygon.bounds,
            "geometry": geometry,
            "properties": properties,
        }

    def __repr__(self) -> str:
        area = "" if self.area_m2 is None else f", {self.area_m2:,.1f} m2"
        return f"SegmentedObject({self.id}, {self.area_px:,} px{area}, score {self.score:.2f}, bbox {self.bbox})"


class Objects(tuple[SegmentedObject, ...]):
    """Objects of a result; a tuple that prints the first three."""

    __slots__ = ()

    def __repr__(self) -> str:
        more = f", … {len(self) - 3:,} more" if len(self) > 3 else ""
        return f"({', '.join(map(repr, self[:3]))}{more})"


class WorkdirRef:
    """Reference of one result to a work folder, which goes with its last reference."""

    def __init__(self, folder: WorkFolder, mask_name: str, runs: ObjectRuns) -> None:
        self.folder, self.mask_name, self.runs = folder, mask_name, runs
        self.is_open = True
        folder.join()

    def close(self) -> None:
        if self.is_open:
            self.is_open = False
            self.folder.leave()


@dataclass(frozen=True, eq=False, repr=False)
class Result:
    """The answer to one prompt on one scene; pixels stay on disk until they are asked for.

    Use it as a context manager, or call :meth:`close`, to remove the work files early; they go with the
    object anyway.

    Attributes:
        status: found (at least one object), no_target or failed; mask and objects always agree.
        reason: why it failed, or a remark on "no target"; required if failed.
        width, height: of the mask in pixels.
        crs: rasterio CRS of the scene, or None.
        transform: affine of the mask's pixels to the CRS.
        provenance: what made it: instruction, task, engine, model, revision, checksum, settings, source,
            version, bands, stretch, created; any may be missing.
        objects: in raster order; empty unless found.
        gsd: metres a pixel in the middle of the scene, or None without a CRS.
        notes: evidence of the engine on its way to the mask, as JSON values; empty where it says nothing. "boxes"
            ``[[x0, y0, x1, y1], …]`` and "points" ``[[x, y, label], …]`` are what it pointed at, in pixels of the mask,
            "think" is its reasoning; :meth:`save_picture` shows these.
        remarks: what the user must know: what was left out, what the engine cannot do, what was guessed.
        backdrop: reads the scene that was asked about, (height, width) -> uint8 (height, width, 3), also after it was
            closed; None if it is not known.
        prompt: what was asked, in pixels of the mask.
    """

    status: Status
    reason: str | None
    width: int
    height: int
    crs: Any
    transform: Affine
    provenance: Mapping[str, Any]
    objects: tuple[SegmentedObject, ...] = ()
    gsd: float | None = None
    notes: Mapping[str, Any] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()
    backdrop: Callable[[int, int], NDArray[np.uint8]] | None = None
    prompt: Prompt | None = None
    _workdir: WorkdirRef | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "objects", Objects(self.objects))
        if self.status is Status.FAILED and not self.reason:
            raise ConfigError("A failed result needs a reason.", hint="Say what went wrong.")

    @classmethod
    def failure(
        cls,
        reason: str,
        *,
        width: int,
        height: int,
        crs: Any,
        transform: Affine,
        provenance: Mapping[str, Any],
        notes: Mapping[str, Any] | None = None,
        remarks: tuple[str, ...] = (),
    ) -> Result:
        """A result that says why there is none; it has no mask to read or to save."""
        return cls(
            Status.FAILED, reason, width, height, crs, transform, dict(provenance), notes=dict(notes or {}),
            remarks=remarks,
        )  # fmt: skip

    # For people

    def describe_size(self) -> tuple[str, str]:
        """("41 objects", "2.1 ha"); the area is "" where it is not known of every object."""
        count, areas = len(self.objects), [o.area_m2 for o in self.objects]
        known = [area for area in areas if area is not None]
        total = sum(known)
        area = f"{total / 1e4:,.1f} ha" if total >= 1e4 else f"{total:,.0f} m²"
        return f"{count:,} object{'' if count == 1 else 's'}", area if known and len(known) == count else ""

    def __repr__(self) -> str:
        asked = self._asked(60)
        size, area = self.describe_size() if self.status is Status.FOUND else ("", "")
        reason = sanitize_text(self.reason or "", 120)
        parts = (
            self.status.value,
            size,
            area,
            reason,
            repr(asked) if asked else "",
            f"{self.width} x {self.height} px",
        )
        return f"Result({', '.join(part for part in parts if part)})"

    def _asked(self, limit: int) -> str:
        return sanitize_text(as_text(self.provenance, "instruction"), limit)

    def _repr_html_(self) -> str:
        """A small picture, the facts and the first objects, for notebooks."""
        from terraprompt.outputs.notebook import result_html

        return result_html(self)

    def _repr_png_(self) -> bytes | None:
        """The small picture as PNG; None where there is none."""
        from terraprompt.outputs.notebook import result_png

        return result_png(self)

    @property
    def is_open(self) -> bool:
        """Whether there are pixels to read: the result did not fail and is not closed."""
        return self._workdir is not None and self._workdir.is_open

    # For other packages

    @property
    def __geo_interface__(self) -> dict[str, Any]:
        """The objects as a FeatureCollection: see :func:`.features.geo_interface`.

        Raises:
            OutputError: the result failed.
        """
        from terraprompt.outputs.features import geo_interface

        self._refuse_failure()
        return geo_interface(self)

    def to_geodataframe(self) -> GeoDataFrame:
        """The objects as a GeoDataFrame, also of a closed result: see :func:`.features.to_geodataframe`.

        Raises:
            OutputError: the result failed.
            ConfigError: GeoPandas is not installed (extra "geopandas").
        """
        from terraprompt.outputs.features import to_geodataframe

        self._refuse_failure()
        return to_geodataframe(self)

    def _refuse_failure(self) -> None:
        if self.status is Status.FAILED:
            raise OutputError("There is no mask because the segmentation failed.", received=self.reason)

    # Pixels

    def mask(self) -> NDArray[np.uint8]:
        """uint8 (height, width): 1 target, 0 not, 255 nodata. Takes one byte a pixel."""
        return np.asarray(self._read("mask"), np.uint8)

    def probability(self) -> NDArray[np.float32]:
        """float32 (height, width) in steps of 1/65534, NaN = nodata; ``select`` does not change it."""
        quanta = self._read("probability")
        probability = quanta.astype(np.float32)
        probability /= QUANTA
        probability[quanta == Q_NODATA] = np.nan
        return probability

    def work_file(self, kind: Literal["mask", "probability"]) -> Path:
        """The tiled work GeoTIFF behind the mask (uint8) or the probability (uint16); read it, do not change
        it.

        Raises:
            OutputError: the result failed or is closed.
        """
        self._refuse_failure()
        if self._workdir is None or not self._workdir.is_open:
            raise OutputError("The result is closed.", hint="Read or save it before closing it.")
        return self._workdir.folder.path / (self._workdir.mask_name if kind == "mask" else "probability.tif")

    def _read(self, kind: Literal["mask", "probability"]) -> NDArray[Any]:
        path = self.work_file(kind)
        with gdal(), translated(path), rasterio.open(path) as dataset:
            return np.asarray(dataset.read(1))

    # Parts

    def select(self, ids: Iterable[int]) -> Result:
        """Keep only the objects with these ids, in mask and objects; they keep their ids.

        The status becomes no_target if nothing is kept. Both results may be used and closed in any order.

        Raises:
            ConfigError: an id that is not there.
        """
        wanted = {int(i) for i in ids}
        unknown = wanted - {o.id for o in self.objects}
        if unknown:
            raise ConfigError("There is no object with this id.", received=sorted(unknown)[:5])
        source = self.work_file("mask")
        assert self._workdir is not None
        runs, folder = self._workdir.runs, self._workdir.folder
        keep = np.zeros(runs.count + 1, bool)
        keep[np.fromiter(wanted, np.int64)] = True
        target = _unused(folder.path)
        with gdal(), translated(target), rasterio.open(source) as old:
            with create_work(target, self.width, self.height, "uint8") as new:
                for first, last in bands(self.width, self.height):
                    rows = read_rows(old, first, last)
                    rows[(rows == 1) & ~runs.paint(first, last, keep)] = 0
                    write_rows(new, rows, first)
            verify_tiff(target)
        return dataclasses.replace(
            self,
            status=Status.FOUND if wanted else Status.NO_TARGET,
            objects=tuple(o for o in self.objects if o.id in wanted),
            _workdir=WorkdirRef(folder, target.name, runs),
        )

    # Files

    def save_mask(
        self,
        path: str | Path,
        *,
        probability: bool = False,
        overwrite: bool = False,
        creation_options: Mapping[str, Any] | None = None,
        style: bool = False,
        others: Sequence[Result] = (),
    ) -> Path:
        """Write a cloud-optimised GeoTIFF, or for ``.png`` a PNG: see :func:`.raster.write_raster`.

        Args:
            path: of the file to be.
            probability: write the probability in place of the mask.
            overwrite: replace a file that is there.
            creation_options: of GDAL's COG or PNG driver.
            style: also write a style for QGIS of the mask, ``.qml`` beside it.
            others: further results of the same scene: a GeoTIFF with a band each, named by their instructions.

        Raises:
            OutputError: as :meth:`save_vector`; a PNG of a probability; an unknown creation option.
        """
        from terraprompt.outputs.formats.style import mask_qml

        options: dict[str, Any] = {"probability": probability, "creation_options": creation_options}
        if others:
            options["others"] = others
        qml = mask_qml(self._asked(100)) if style and not probability else ""
        return self._save("mask", path, overwrite, options, qml=qml)

    def save_vector(
        self,
        path: str | Path,
        *,
        overwrite: bool = False,
        driver: str | None = None,
        layer: str | None = None,
        style: bool = False,
    ) -> Path:
        """Write the polygons: see :func:`.vector.write_vector`.

        A GeoPackage that is there gets one more layer; whatever else it holds stays, also with ``overwrite``.

        Args:
            path: of the file to be; its extension tells the format.
            overwrite: replace a file that is there; of a GeoPackage, the layer of this name alone.
            driver: name of a format (:data:`terraprompt.outputs.FORMATS`) if the extension shall not decide.
            layer: name of the layer; None = made from the instruction (:func:`.layer_name`).
            style: also write a style for QGIS: into a GeoPackage, else ``.qml`` beside the file.

        Raises:
            OutputError: the result failed or is closed; unknown format; see :func:`.check_target`; a full disk.
            ConfigError: a name that no layer can have.
        """
        from terraprompt.outputs.formats.geopackage import check_layer_name, layer_name
        from terraprompt.outputs.formats.style import vector_qml

        name = layer_name(as_text(self.provenance, "instruction")) if layer is None else check_layer_name(layer)
        qml = vector_qml() if style else ""
        return self._save("vector", path, overwrite, {"layer": name}, driver, named=layer is not None, qml=qml)

    def save_picture(
        self,
        path: str | Path,
        *,
        scene_rgb: NDArray[np.uint8] | Callable[[int, int], NDArray[np.uint8]] | None = None,
        prompt: Prompt | None = None,
        max_side: int = 1600,
        overwrite: bool = False,
    ) -> Path:
        """Write an overlay picture for people, over the scene that was asked about: see :func:`.picture.draw_picture`.

        Raises:
            OutputError: as :meth:`save_vector`.
            SceneError: the scene was closed and is another one now, or is gone.
            ConfigError: an array that is no RGB image, or too small a picture.
        """
        return self._save("picture", path, overwrite, {"scene_rgb": scene_rgb, "prompt": prompt, "max_side": max_side})

    def _save(
        self,
        kind: Kind,
        path: str | Path,
        overwrite: bool,
        options: dict[str, Any],
        name: str | None = None,
        *,
        named: bool = False,
        qml: str = "",
    ) -> Path:
        """Write with the format that the table has for the extension, to a temporary name until it is whole."""
        from terraprompt.outputs.formats.style import embed_style, style_path
        from terraprompt.outputs.formats.table import find_format

        source = self.provenance.get("source")
        if isinstance(source, str) and Path(source).exists() and os.path.realpath(source) == os.path.realpath(path):
            raise OutputError("The output is the scene itself.", received=path, hint="Choose another name.")
        mask = self.work_file("mask")  # a failed or closed result has nothing to write
        chosen = find_format(kind, path, name)
        if (database := chosen.find_database(path)) is not None:
            database.check(options["layer"], overwrite=overwrite, named=named)
            with translated(database.path), atomic_path(mask.with_name("layer.gpkg"), durable=False) as written:
                chosen.write(self, written, **options)
                database.add(written, options["layer"])
                if qml:
                    embed_style(database.path, options["layer"], qml)
            return Path(path)
        beside = style_path(Path(path)) if qml and chosen.name != "GPKG" else None
        if beside is not None:
            check_writable(beside, overwrite, kind="style")
        with replacing(path, overwrite, parts=chosen.parts) as temporary:
            own = temporary  # some drivers write something else where the extension is another's
            if temporary.suffix not in chosen.suffixes:
                own = temporary.with_name(temporary.name + chosen.suffixes[0])
            chosen.write(self, own, **options)
            own.replace(temporary)
            if qml and beside is None:
                embed_style(temporary, options["layer"], qml)
        if beside is not None:
            with replacing(beside, overwrite, kind="style") as temporary:
                temporary.write_text(qml, encoding="utf-8")
        return Path(path)

    def close(self) -> None:
        """Remove the work files unless another selection of the same result still needs them."""
        if self._workdir is not None:
            self._workdir.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _unused(folder: Path) -> Path:
    """A file name for one more mask in the work folder."""
    number = 1
    while (path := folder / f"mask-{number}.tif").exists():
        number += 1
    return path
