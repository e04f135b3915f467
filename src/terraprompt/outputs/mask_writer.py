"""Where a scene's answer is painted, band by band, and turned into objects once it is whole."""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import numpy as np
import rasterio
import shapely
from numpy.typing import NDArray
from rasterio import Affine
from rasterio.crs import CRS
from rasterio.errors import RasterioError
from scipy.special import expit

from terraprompt.errors import ConfigError, EngineError
from terraprompt.io.files import WorkFolder, translated
from terraprompt.io.tiff import verify_tiff
from terraprompt.outputs.result import Result, SegmentedObject, Status, WorkdirRef
from terraprompt.outputs.vectorize.runs import ObjectRuns, SizeRule, label_objects, sieve
from terraprompt.outputs.vectorize.trace import outline
from terraprompt.outputs.work_files import (
    BLOCK,
    MASK_NODATA,
    Q_NODATA,
    QUANTA,
    bands,
    create_work,
    gdal,
    read_rows,
    write_rows,
)
from terraprompt.raster.pixel_area import NO_GROUND, GroundArea, ground_area, to_map

__all__ = ["DEFAULT_MIN_PIXELS", "DEFAULT_SIMPLIFY", "MaskWriter", "check_refinement", "sieve_mask"]

# Fewer pixels than this have no shape of their own; they are noise of the threshold.
DEFAULT_MIN_PIXELS = 4
# In pixels. Takes the stairs of one pixel (triangles of half a pixel) and nothing larger.
DEFAULT_SIMPLIFY = 0.75

_MOST_PIXELS = 1 << 62  # of an int64
_NO_AREA = {"min_area_m2": "Use min_pixels instead.", "fill_holes_m2": "Leave it out."}


def check_refinement(
    has_ground: bool,
    *,
    min_area_m2: float | None = None,
    min_pixels: int | None = None,
    fill_holes_m2: float | None = None,
    simplify: float | None = None,
) -> None:
    """Check the options of :meth:`MaskWriter.finish` before any work.

    Args:
        has_ground: whether the ground area of the pixels is known.
        min_area_m2: as in :meth:`MaskWriter.finish`.
        min_pixels: as in :meth:`MaskWriter.finish`.
        fill_holes_m2: as in :meth:`MaskWriter.finish`.
        simplify: as in :meth:`MaskWriter.finish`.

    Raises:
        ConfigError: a negative or infinite value, or an area in m2 where the pixels have none.
    """
    options = {
        "min_area_m2": min_area_m2,
        "min_pixels": min_pixels,
        "fill_holes_m2": fill_holes_m2,
        "simplify": simplify,
    }
    for name, value in options.items():
        if value is not None and not (isinstance(value, int | float) and math.isfinite(value) and value >= 0):
            raise ConfigError(f"{name} must be a number that is not negative.", received=value)
        if name.endswith("_m2") and value and not has_ground:
            raise ConfigError(f"{name} is in square metres, but {NO_GROUND}.", received=value, hint=_NO_AREA[name])


def threshold_logit(threshold: float) -> np.float32:
    """The logit above which a pixel is target, of a probability in (0, 1)."""
    return np.float32(math.log(threshold / (1 - threshold)))


class MaskWriter:
    """Collects the logits of a whole scene in bands; memory is bounded by a band and by the objects'
    outlines.

    Use :meth:`create` as a context manager: leaving it removes the work files, unless :meth:`finish` has
    handed them to a :class:`Result`.
    """

    def __init__(
        self,
        folder: WorkFolder,
        width: int,
        height: int,
        *,
        crs: CRS | None,
        transform: Affine,
        threshold: float,
    ) -> None:
        self.width, self.height, self.crs, self.transform = width, height, crs, transform
        self._folder = folder
        self._limit = threshold_logit(threshold)
        self._written = 0
        self._finished = False
        # Whole blocks only reach the files: a block written twice is compressed twice and leaves a gap.
        self._mask_rows = np.empty((min(BLOCK, height), width), np.uint8)
        self._quanta_rows = np.empty(self._mask_rows.shape, np.uint16)
        with gdal():
            self._mask = create_work(folder.path / "raw.tif", width, height, "uint8")
            self._quanta = create_work(folder.path / "probability.tif", width, height, "uint16")

    @classmethod
    def create(
        cls, workdir: Path, width: int, height: int, *, crs: Any, transform: Affine, threshold: float = 0.5
    ) -> MaskWriter:
        """An empty canvas.

        Args:
            workdir: an existing folder with room for the work files (up to 4 bytes a pixel, compressed,
                mostly one).
            width: of the scene in pixels.
            height: of the scene in pixels.
            crs: anything rasterio accepts, or None.
            transform: affine of pixels to the CRS.
            threshold: probability above which a pixel is target, in (0, 1).

        Raises:
            ConfigError: a size or threshold out of range.
            OutputError: the work folder cannot be written.
        """
        if width < 1 or height < 1:
            raise ConfigError("A canvas must be at least 1 x 1 pixels.", received=f"{width} x {height}")
        if not 0 < threshold < 1:
            raise ConfigError("The threshold lies between 0 and 1.", received=threshold)
        checked = CRS.from_user_input(crs) if crs else None
        return cls(WorkFolder(Path(workdir)), width, height, crs=checked, transform=transform, threshold=threshold)

    def write_band(self, row_offset: int, logits: NDArray[np.float32], valid: NDArray[np.bool_]) -> None:
        """Add the next rows.

        Args:
            row_offset: first row of the band; must be the first that is still missing.
            logits: float32 (h, width); target where ``sigmoid(logit) > threshold``.
            valid: bool (h, width); False = nodata, whatever the logit.

        Raises:
            ConfigError: a band out of order or of another shape.
            EngineError: a valid logit is NaN.
            OutputError: the disk is full.
        """
        rows = len(logits)
        if row_offset != self._written or rows < 1 or row_offset + rows > self.height or self._finished:
            raise ConfigError(
                "Every row is written exactly once, from top to bottom.",
                received=f"{rows} rows at row {row_offset} of {self.height}",
                hint=f"The next row is {self._written}.",
            )
        if logits.shape != (rows, self.width) or valid.shape != logits.shape:
            raise ConfigError(
                f"A band is {self.width} pixels wide, with one logit and one validity a pixel.",
                received=f"logits {logits.shape}, valid {valid.shape}",
            )
        done = 0
        while done < rows:
            slot = self._written % BLOCK
            step = min(BLOCK - slot, rows - done)
            self._quantise(logits[done : done + step], valid[done : done + step], slice(slot, slot + step))
            done += step
            self._written += step
            if self._written % BLOCK == 0 or self._written == self.height:
                self._flush(slot + step)

    def _quantise(self, logits: NDArray[np.float32], valid: NDArray[np.bool_], slot: slice) -> None:
        if np.isnan(logits, where=valid, out=np.zeros(logits.shape, bool)).any():
            raise EngineError("The engine answered with NaN.", hint="Report it with the scene; no mask was made of it.")
        self._mask_rows[slot] = np.where(valid, logits > self._limit, np.uint8(MASK_NODATA))
        probability = expit(np.where(valid, logits, np.float32(0)).astype(np.float32, copy=False))
        probability *= QUANTA
        self._quanta_rows[slot] = np.where(valid, np.rint(probability, out=probability), Q_NODATA)

    def _flush(self, rows: int) -> None:
        with gdal(), translated(self._folder.path):
            write_rows(self._mask, self._mask_rows[:rows], self._written - rows)
            write_rows(self._quanta, self._quanta_rows[:rows], self._written - rows)

    def finish(
        self,
        provenance: Mapping[str, Any],
        *,
        min_area_m2: float | None = None,
        min_pixels: int | None = None,
        fill_holes_m2: float | None = None,
        simplify: float | None = None,
    ) -> Result:
        """Sieve the mask, fill its small holes, outline and score its objects.

        Objects are 8-connected. The sieved mask is the result's mask, so mask and objects agree; the
        probability stays as it was.

        Args:
            provenance: what made the answer; see :class:`Result`.
            min_area_m2: smallest ground area of an object; needs pixels of known ground area.
            min_pixels: smallest number of pixels of an object; the default is 4, or 1 if ``min_area_m2`` is
                given.
            fill_holes_m2: holes with less ground than this are filled; 0 = none. The default fills holes
                under 4 pixels (under ``min_pixels`` if that is less). Holes that touch nodata or the scene's
                edge stay.
            simplify: how far outlines are simplified, in metres (in pixels where their ground area is unknown); 0 =
                pixel stairs. The default is three quarters of a pixel.

        Raises:
            ConfigError: rows are missing, or an option makes no sense (:func:`check_refinement`).
            OutputError: the disk is full.
        """
        if self._written != self.height or self._finished:
            raise ConfigError(
                "A canvas is finished once, when it is whole.",
                received=f"{self._written} of {self.height} rows",
            )
        ground = ground_area(self.crs, self.transform, self.width, self.height)
        check_refinement(
            ground is not None,
            min_area_m2=min_area_m2,
            min_pixels=min_pixels,
            fill_holes_m2=fill_holes_m2,
            simplify=simplify,
        )
        keep, fill = _size_rules(ground, min_area_m2, min_pixels, fill_holes_m2)
        gsd = ground.gsd if ground else None
        tolerance = _tolerance(simplify, ground)

        self._finished = True
        with gdal(), translated(self._folder.path):
            self._close_files()
            runs = self._sieve(keep, fill)
            outlines = outline(runs, tolerance)
            scores = self._scores(runs)
        objects = _objects(runs, outlines, scores, ground, self.transform if self.crs else None)
        return Result(
            Status.FOUND if objects else Status.NO_TARGET, None, self.width, self.height, self.crs,
            self.transform, dict(provenance), objects, gsd, _workdir=WorkdirRef(self._folder, "mask.tif", runs),
        )  # fmt: skip

    def _close_files(self) -> None:
        self._mask.close()
        self._quanta.close()
        verify_tiff(self._folder.path / "raw.tif")
        verify_tiff(self._folder.path / "probability.tif")

    def _sieve(self, keep: SizeRule, fill: SizeRule) -> ObjectRuns:
        """Write the sieved mask beside the raw one, then drop the raw one."""
        raw, path = self._folder.path / "raw.tif", self._folder.path / "mask.tif"
        parts = list(bands(self.width, self.height))
        with rasterio.open(raw) as old:
            runs = sieve((read_rows(old, *part) for part in parts), self.width, self.height, keep=keep, fill=fill)
        with create_work(path, self.width, self.height, "uint8") as new:
            for first, last in parts:
                write_rows(new, runs.decode(first, last), first)
        verify_tiff(path)
        raw.unlink()
        return label_objects(runs, self.height)

    def _scores(self, runs: ObjectRuns) -> NDArray[np.float64]:
        """float64 (count,): mean probability over each object's pixels."""
        total = np.zeros(runs.count)
        with rasterio.open(self._folder.path / "probability.tif") as dataset:
            for first, last in bands(self.width, self.height):
                part = runs.band(first, last)
                if part.start == part.stop:
                    continue
                # One more element, so that a run may end where the band does.
                quanta = np.append(read_rows(dataset, first, last).reshape(-1), np.uint16(0))
                begin = runs.start[part] - first * self.width
                bounds = np.stack([begin, begin + runs.length[part]], axis=1).reshape(-1)
                sums = np.add.reduceat(quanta, bounds, dtype=np.int64)[::2]
                total += np.bincount(runs.label[part], weights=sums, minlength=runs.count)
        return np.asarray(total / (np.maximum(runs.pixels(), 1) * QUANTA))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        if not self._finished or exc[0] is not None:
            # On a full disk closing fails once more; the first error is the one to tell.
            for dataset in (self._mask, self._quanta):
                with suppress(OSError, RasterioError):
                    dataset.close()
            self._folder.remove()


def sieve_mask(
    mask: NDArray[np.uint8],
    crs: CRS | None,
    transform: Affine,
    *,
    min_area_m2: float | None = None,
    min_pixels: int | None = None,
    fill_holes_m2: float | None = None,
    simplify: float | None = None,
) -> tuple[NDArray[np.uint8], tuple[SegmentedObject, ...], NDArray[np.int32]]:
    """What :meth:`MaskWriter.finish` makes of a mask, in memory and without probabilities.

    Args:
        mask: uint8 (H, W): 1 target, 0 not, 255 nodata.
        crs: of the mask.
        transform: of the mask.
        min_area_m2: as in :meth:`MaskWriter.finish`.
        min_pixels: as in :meth:`MaskWriter.finish`.
        fill_holes_m2: as in :meth:`MaskWriter.finish`.
        simplify: as in :meth:`MaskWriter.finish`.

    Returns:
        The sieved mask, its objects with score NaN, and int32 (H, W) with the id of each pixel's object, else 0.
    """
    height, width = mask.shape
    ground = ground_area(crs, transform, width, height)
    keep, fill = _size_rules(ground, min_area_m2, min_pixels, fill_holes_m2)
    swept = sieve((mask,), width, height, keep=keep, fill=fill)
    runs = label_objects(swept, height)
    scores = np.full(runs.count, np.nan)
    outlines = outline(runs, _tolerance(simplify, ground))
    objects = _objects(runs, outlines, scores, ground, transform if crs else None)
    ids = runs.paint(0, height, np.arange(runs.count + 1, dtype=np.int32))
    return swept.decode(0, height), objects, ids


def _size_rules(
    ground: GroundArea | None, min_area_m2: float | None, min_pixels: int | None, fill_holes_m2: float | None
) -> tuple[SizeRule, SizeRule]:
    """Rules of the smallest object and the smallest hole."""
    if min_pixels is None:
        min_pixels = DEFAULT_MIN_PIXELS if min_area_m2 is None else 1
    fill = SizeRule(min(min_pixels, DEFAULT_MIN_PIXELS))
    if fill_holes_m2 is not None:
        fill = SizeRule(0, fill_holes_m2, ground)
    return SizeRule(min(min_pixels, _MOST_PIXELS), min_area_m2 or 0.0, ground), fill


def _tolerance(simplify: float | None, ground: GroundArea | None) -> float:
    return DEFAULT_SIMPLIFY if simplify is None else simplify / ((ground.gsd if ground else None) or 1.0)


def _objects(
    runs: ObjectRuns,
    outlines: NDArray[np.object_],
    scores: NDArray[np.float64],
    ground: GroundArea | None,
    transform: Affine | None,
) -> tuple[SegmentedObject, ...]:
    """Records of all objects; ``transform`` takes outlines from pixels to the CRS."""
    if runs.count == 0:
        return ()
    pixels = runs.pixels()
    areas: list[float] | list[None] = [None] * runs.count
    if ground is not None:
        areas = ground.of_runs(runs.label, runs.count, runs.start, runs.length).tolist()
    if transform is not None:
        outlines = shapely.transform(outlines, lambda xy: np.stack(to_map(transform, xy[:, 0], xy[:, 1]), axis=1))
    columns = zip(outlines, runs.boxes().tolist(), pixels.tolist(), areas, scores.tolist(), strict=True)
    return tuple(
        SegmentedObject(number, polygon, tuple(box), area_px, area_m2, score)
        for number, (polygon, box, area_px, area_m2, score) in enumerate(columns, start=1)
    )
