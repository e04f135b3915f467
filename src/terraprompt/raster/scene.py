"""A lazy raster: any GDAL source, the bands to look at, its valid pixels, its place and scale on the ground."""

from __future__ import annotations

import functools
import math
import os
import threading
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from rasterio.enums import ColorInterp, MaskFlags, Resampling
from rasterio.errors import RasterioError
from rasterio.transform import Affine
from rasterio.windows import Window

from terraprompt.errors import ConfigError, PromptError, SceneError
from terraprompt.geometry.flip import Flip
from terraprompt.geometry.types import Box
from terraprompt.io.redact import redact_source
from terraprompt.prompt import Prompt
from terraprompt.raster import mapping
from terraprompt.raster.pixel_area import GroundArea, ground_area, ground_size
from terraprompt.raster.placement import Placement, is_unplaced, place, warp_line
from terraprompt.raster.source import (
    Bands,
    choose_bands,
    default_bands,
    gdal_env,
    open_dataset,
    read_palette,
    source_label,
    source_version,
)

__all__ = ["Scene", "open_scene"]


#: A row of tiles of the widest scene takes some 4 GB; more pixels than a map of the land at 40 cm are a mistake.
_WIDEST, _LARGEST, _LARGEST_BLOCK = 1_000_000, 10**12, 1 << 30
_CRS_HINT = "Name it like EPSG:4326, or say pixel."


def open_scene(
    src: str | os.PathLike[str],
    bands: Bands = None,
    *,
    bbox: Box | None = None,
    bbox_crs: str | None = None,
    nodata: float | Literal["none"] | None = None,
    allow_remote: bool = False,
    warp: bool = True,
    dem: str | os.PathLike[str] | float | None = None,
) -> Scene:
    """Open a raster for prompting; use it as a context manager.

    Args:
        src: a path or anything else that GDAL opens.
        bands: one or three 1-based indexes, band descriptions or colour names. None: the bands marked red, green and
            blue, else the first three that are not alpha, else the first.
        bbox: (x0, y0, x1, y1): look at this part alone. In ``bbox_crs``, else in the scene's CRS; in pixels of the
            file if the scene has no CRS or ``bbox_crs`` is "pixel". Widened to whole pixels, clipped to the scene.
        bbox_crs: anything that pyproj accepts; x = longitude.
        nodata: the value that means no data, in place of the declared one; "none": every pixel is data, whatever the
            file's nodata, mask or alpha band says (NaN stays no data). None: as the file says.
        allow_remote: whether a VRT may name hosts, folders other than its own, and raw files. A host that ``src``
            itself names is asked in any case.
        warp: a scene that RPCs or ground control points alone place is warped to a north-up grid in metres while it is
            read, see :func:`.placement.place`; False: it is read in its own pixels, without a place.
        dem: ground heights for RPCs: a raster, or one height in metres. None: the height that the RPCs name.

    Raises:
        SceneError: missing, damaged or unusable raster, unknown bands, or a bbox that misses the scene.
    """
    dataset = open_dataset(src, allow_remote=allow_remote)
    scene = None
    try:
        scene = Scene(dataset, source=os.fspath(src), bands=choose_bands(dataset, bands), nodata=nodata)
        scene._how = {"bands": bands, "nodata": nodata, "allow_remote": allow_remote, "warp": warp, "dem": dem}
        scene._refuse_large_blocks()
        scene._judge_alpha(strict=bands is not None)
        scene._remark_on_source(named=bands is not None)
        if warp and is_unplaced(dataset):
            scene = scene._warped(dem)
        elif dem is not None:
            scene.remarks.append("The DEM was not used: no RPCs place this scene.")
        scene._remark_on_place()
        if bbox is not None:
            scene = scene.clip(bbox, bbox_crs)
        scene._refuse_giants()
        return scene
    except BaseException:
        (dataset if scene is None else scene).close()
        raise


def _checked_nodata(nodata: Any) -> Any:
    """A number, "none" or None.

    Raises:
        ConfigError: anything else.
    """
    number = isinstance(nodata, int | float | np.number) and not isinstance(nodata, bool)
    if nodata is not None and nodata != "none" and not number:
        raise ConfigError(
            'nodata is a number, or "none" where every pixel is data.',
            received=nodata,
            hint="Leave it out to use the file's.",
        )
    return float(nodata) if number else nodata


class Scene:
    """One raster, or a rectangle of it, seen as pixels with an origin at its upper left corner.

    Reading is safe from several threads: they share one handle and take turns.

    Attributes:
        source: what was opened, fit for messages and outputs: secrets in it are replaced.
        bands: 1-based indexes in use: one (grey) or three (red, green, blue).
        left, top: offset of this scene in the file, pixels (not 0 only after a bbox).
        width, height: pixels.
        dtype: of the values that :meth:`read` returns.
        nodata: the declared nodata value, or None.
        crs: rasterio CRS, or None.
        transform: affine, pixel to map, of this scene.
        gsd_m: ground metres per pixel at the centre, or None.
        flip: how the picture is turned over to be north up; engines see it so, :meth:`read` gives it as it is stored.
        files: that the scene is read from: the raster, its sidecars, the sources of a VRT.
        remarks: what the user must know of this file: what was guessed, what was not followed.
        read_options: what the user decided about reading, as JSON values; empty by default.
    """

    def __init__(
        self,
        dataset: Any,
        *,
        source: str,
        bands: tuple[int, ...],
        window: tuple[int, int, int, int] | None = None,
        nodata: float | Literal["none"] | None = None,
        placement: Placement | None = None,
    ) -> None:
        self._dataset = dataset
        self._placement = placement
        self._files: tuple[str, ...] = (*dataset.files, *(placement.files if placement else ()))
        self.files: tuple[Path, ...] = tuple(Path(name) for name in self._files)
        self._how: dict[str, Any] = {}
        self._lock: threading.Lock = threading.Lock()
        self._opened = source
        self.source = source_label(source)
        self.bands = bands
        self.width: int
        self.height: int
        self.left, self.top, self.width, self.height = window or (0, 0, dataset.width, dataset.height)
        self._palette = read_palette(dataset, bands)
        types = {np.dtype(dataset.dtypes[band - 1]) for band in bands}
        self.dtype: np.dtype[Any] = np.dtype(np.uint8) if self._palette is not None else np.result_type(*types)
        self.remarks: list[str] = []
        self._nodata_option, self._no_mask = _checked_nodata(nodata), False
        self.read_options: dict[str, Any] = {} if nodata is None else {"nodata": self._nodata_option}
        declared = [dataset.nodatavals[band - 1] for band in bands]
        given = self._nodata_option
        self._nodatas = declared if nodata is None else [None if given == "none" else given] * len(bands)
        self.nodata: float | None = self._nodatas[0]
        self.crs = dataset.crs
        t = dataset.transform
        x, y = t.a * self.left + t.b * self.top + t.c, t.d * self.left + t.e * self.top + t.f
        self.transform: Affine = Affine(t.a, t.b, x, t.d, t.e, y)
        self._crs = mapping.parse_crs(self.crs) if self.crs is not None else None
        self.gsd_m: float | None = (
            ground_size(self._crs, self.transform, self.width, self.height) if self._crs is not None else None
        )
        self.flip = mapping.north_up(self._crs, self.transform)
        self._validity = self._how_valid()

    def _judge_alpha(self, *, strict: bool) -> None:
        """An "alpha" band that holds measurements (the infrared of NAIP, say) is no mask.

        Args:
            strict: more than two values are enough; else a tenth of the pixels must be neither clear nor opaque.
        """
        data = self._dataset
        marked = [i + 1 for i, colour in enumerate(data.colorinterp) if colour is ColorInterp.alpha]
        if not marked or self._validity != "mask" or self._palette is not None:
            return
        band, factor = marked[0], max(1.0, (data.width * data.height / 1_000_000) ** 0.5)
        with self._lock, gdal_env():
            if data.width * data.height <= 16_000_000 or data.overviews(band):
                shape = (max(1, round(data.height / factor)), max(1, round(data.width / factor)))
                alpha = data.read(band, out_shape=shape).reshape(-1)
            else:
                side_x, side_y = min(64, data.width), min(64, data.height)
                places = [
                    Window(int(x), int(y), side_x, side_y)
                    for y in np.linspace(0, data.height - side_y, 8)
                    for x in np.linspace(0, data.width - side_x, 8)
                ]
                alpha = np.concatenate([data.read(band, window=place).reshape(-1) for place in places])
        values = np.unique(alpha)
        between = np.mean((alpha != 0) & (alpha != values[-1]))
        name = (data.descriptions[band - 1] or "").casefold()
        if "nir" in name or "infrared" in name or (len(values) > 2 and (strict or between > 0.1)):
            self._no_mask = True
            self._validity = self._how_valid()
            self.remarks.append(
                f"Band {band} is marked as alpha but holds {len(values)} values like a measured band (infrared?): "
                "it is not used as a mask."
            )

    def _remark_on_source(self, *, named: bool) -> None:
        """Say how the bands were found, and what of the given nodata cannot be."""
        bands, why = default_bands(self._dataset) if not named else ((), "")
        if why.startswith("named") or "though" in why:
            self.remarks.append(f"Bands {','.join(map(str, bands))} are seen as red, green, blue: {why}.")
        if isinstance(self._nodata_option, int | float):
            impossible = [self._dataset.dtypes[b - 1] for b in self.bands if not self._can_hold(b, self._nodata_option)]
            if impossible:
                self.remarks.append(
                    f"No pixel can be {self._nodata_option:g}, the given nodata value: the values are {impossible[0]}."
                )

    def _warped(self, dem: str | os.PathLike[str] | float | None) -> Scene:
        """This file on the grid that its RPCs or control points lead to; takes the handle over."""
        data = self._dataset
        placement = place(data, self._opened, dem)
        colours = data.colorinterp
        alpha = colours.index(ColorInterp.alpha) + 1 if ColorInterp.alpha in colours and not self._no_mask else None
        if self._nodata_option == "none":
            alpha = None
        name = data.files[0] if data.files else self._opened
        warped = Scene(
            placement.open(data, name, self.nodata, alpha), source=self._opened, bands=self.bands, placement=placement
        )
        data.close()
        warped.remarks = [*self.remarks, f"{placement.remark} Pixel coordinates of prompts are those of the file."]
        if placement.uses_dem is False and dem is not None:
            warped.remarks.append("The DEM was not used: no RPCs place this scene.")
        warped._how = self._how
        warped.read_options = {**self.read_options, **placement.settings}
        return warped

    def _remark_on_place(self) -> None:
        """Say where the scene is turned over, and where it has no place that results could have."""
        if self.flip:
            how = "south up" if self.flip == Flip(False, True) else "turned over"
            self.remarks.append(f"The raster is stored {how}; the model sees it north up, outputs are as it is stored.")
        if is_unplaced(self._dataset):
            self.remarks.append(
                "The scene is placed by RPCs or control points only; results are in pixels, without a place. "
                f"For a place: {warp_line(self._dataset, self.source)}"
            )
        if self._crs is not None and (self.ground is None or not mapping.has_place(self._crs)):
            how = "in square metres of its own grid" if self.ground is not None else "unknown"
            self.remarks.append(
                f"In the CRS {self._crs.name} the scene has no known place on the Earth: areas are {how}."
            )

    def _can_hold(self, band: int, value: float) -> bool:
        dtype = np.dtype(self._dataset.dtypes[band - 1])
        if dtype.kind == "f":
            return True
        return float(value).is_integer() and np.iinfo(dtype).min <= value <= np.iinfo(dtype).max

    def _refuse_giants(self) -> None:
        """Refuse what cannot be held, before anything is read."""
        if self.width > _WIDEST or self.width * self.height > _LARGEST:
            raise SceneError(
                "The scene is too large to be looked at at once.",
                received=f"{self.width} x {self.height} pixels",
                hint=f"Choose a part with --bbox; up to {_WIDEST:,} pixels wide and {_LARGEST:.0e} in all.",
            )

    def _refuse_large_blocks(self) -> None:
        """Refuse a file of which a single pixel could not be read within memory."""
        rows, columns = self.block_shape
        size = rows * columns * np.dtype(self._dataset.dtypes[self.bands[0] - 1]).itemsize * self._dataset.count
        if size > _LARGEST_BLOCK:
            raise SceneError(
                "The scene is stored in blocks too large to be read.",
                received=f"{columns} x {rows} pixels a block, {size / 1e9:.1f} GB",
                hint=f"Rewrite it in tiles: gdal_translate -co TILED=YES {self.source} tiled.tif",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        place = "no CRS" if self.crs is None else self.crs.to_string()
        place = f"{self._crs.name!r}" if self._crs is not None and len(place) > 40 else place
        ground = "" if self.gsd_m is None else f", {self.gsd_m:.3g} m"
        size = f"{self.width} x {self.height} px"
        return f"Scene({self.source!r}, {size}, bands {self.bands}, {self.dtype}, {place}{ground})"

    def _repr_html_(self) -> str:
        """A small picture and the facts, for notebooks."""
        from terraprompt.raster.notebook import scene_html

        return scene_html(self)

    @property
    def is_open(self) -> bool:
        """Whether :meth:`read` works."""
        return not self._dataset.closed

    def reopened(self) -> Scene:
        """The same part of the same file, opened again; the caller closes it.

        Raises:
            SceneError: it cannot be opened, or is of another size now.
        """
        whole = open_scene(self._opened, **self._how)
        if self.left + self.width > whole.width or self.top + self.height > whole.height:
            whole.close()
            raise SceneError("The file is smaller than it was.", received=self.source, hint="Open it anew.")
        return whole._part(self.left, self.top, self.width, self.height)

    def close(self) -> None:
        """Close the file; reading afterwards fails. Parts of the same file are closed with it."""
        with self._lock:
            self._dataset.close()

    @property
    def path(self) -> Path:
        """The source as a path."""
        return Path(self._opened)

    @property
    def block_shape(self) -> tuple[int, int]:
        """(height, width) of the blocks in which the file is stored."""
        height, width = self._dataset.block_shapes[self.bands[0] - 1]
        return int(height), int(width)

    @functools.cached_property
    def ground(self) -> GroundArea | None:
        """Ground area of the pixels; None where nothing is known of it (:func:`.pixel_area.ground_area`)."""
        return ground_area(self.crs, self.transform, self.width, self.height)

    @property
    def has_overviews(self) -> bool:
        """Whether a reduced read is cheap."""
        return bool(self._dataset.overviews(self.bands[0]))

    @property
    def channels(self) -> int:
        """Planes that :meth:`read` returns: 1 or 3."""
        return 3 if self._palette is not None else len(self.bands)

    @property
    def always_valid(self) -> bool:
        """True if every pixel is known to be valid without reading it."""
        return self._validity == "all"

    def version(self) -> str:
        """Name and version of the content, for cache keys; see :func:`.source.source_version`. May ask a server."""
        return f"{self._opened}\n{self.read_options} {self._no_mask}\n{source_version(self._files)}"

    def whole(self) -> Scene:
        """The whole file, whatever the bbox; shares this scene's handle."""
        return self._part(0, 0, self._dataset.width, self._dataset.height)

    def _part(self, left: int, top: int, width: int, height: int) -> Scene:
        window = (left, top, width, height)
        part = Scene(
            self._dataset, source=self._opened, bands=self.bands, window=window, nodata=self._nodata_option,
            placement=self._placement,
        )  # fmt: skip
        part._lock = self._lock
        part.remarks, part._no_mask, part._validity = self.remarks, self._no_mask, self._validity
        part.read_options, part._how = self.read_options, self._how
        return part

    def clip(self, bbox: Box, bbox_crs: str | None = None) -> Scene:
        """The part of the file inside ``bbox``, see :func:`open_scene`; shares this scene's handle."""
        whole = self.whole()
        if len(bbox) != 4 or not all(math.isfinite(v) for v in bbox):
            raise SceneError(
                "A bbox must hold four finite numbers x0,y0,x1,y1.",
                received=bbox,
                hint=whole._extent_hint(bbox_crs if bbox_crs == "pixel" else None),
            )
        if bbox_crs == "pixel" and self._placement is not None:
            pixels = self._placement.box_to_pixels(bbox)
        elif bbox_crs == "pixel" or (bbox_crs is None and self._crs is None):
            pixels = (min(bbox[::2]), min(bbox[1::2]), max(bbox[::2]), max(bbox[1::2]))
        elif self._crs is None:
            raise SceneError(
                "The scene has no CRS, so its bbox must be in pixels.",
                received=bbox_crs,
                hint="Leave out the bbox CRS.",
            )
        else:
            try:
                crs = self._crs if bbox_crs is None else mapping.parse_crs(bbox_crs)
            except ValueError as error:
                raise SceneError(
                    f"The CRS of the bbox is unknown ({error}).", received=bbox_crs, hint=_CRS_HINT
                ) from error
            pixels = mapping.box_to_pixels(bbox, crs, self._crs, whole._frame)
        # A bbox made from pixel edges comes back with rounding errors; they must not add a row.
        slack = 1e-4
        x0, y0 = max(0.0, pixels[0] + slack), max(0.0, pixels[1] + slack)
        x1, y1 = min(float(whole.width), pixels[2] - slack), min(float(whole.height), pixels[3] - slack)
        if not (x1 > x0 and y1 > y0):
            raise SceneError("The bbox does not overlap the scene.", received=bbox, hint=whole._extent_hint(bbox_crs))
        left, top = math.floor(x0), math.floor(y0)
        return self._part(left, top, math.ceil(x1) - left, math.ceil(y1) - top)

    @property
    def _frame(self) -> mapping.Frame:
        return self.transform, self.width, self.height

    def extent(self, crs: str | None = None) -> Box:
        """Bounds (x0, y0, x1, y1) in ``crs``; None = pixels of this scene."""
        if self._placement is not None and crs == "pixel":
            return (0.0, 0.0, float(self._placement.file_size[1]), float(self._placement.file_size[0]))
        if crs is None or crs == "pixel" or self._crs is None:
            return (0.0, 0.0, float(self.width), float(self.height))
        return mapping.extent(self.width, self.height, self.transform, self._crs, mapping.parse_crs(crs))

    def _extent_hint(self, crs: str | None) -> str:
        named = crs or (self.crs.to_string() if self._crs is not None else None)
        x0, y0, x1, y1 = self.extent(named)
        unit = "pixels" if self._crs is None or crs == "pixel" else named
        return f"The scene spans x {x0:.9g} to {x1:.9g}, y {y0:.9g} to {y1:.9g} ({unit})."

    def inside(self, prompt: Prompt) -> tuple[Prompt, tuple[str, ...]]:
        """The points and boxes of a prompt that lie in this scene, in its CRS; and a sentence on each of the others.

        Points that are not on a target are left out with it when all points on it are outside.

        Raises:
            PromptError: none is left, or as of :meth:`to_pixels`.
        """
        try:
            self.to_pixels(prompt)
            return prompt, ()
        except PromptError as error:
            reason = error
        fits = [self._fits(Prompt(points=(at,), crs=prompt.crs)) for at in prompt.points]
        keeps = [self._fits(Prompt(boxes=(box,), crs=prompt.crs)) for box in prompt.boxes]
        groups = prompt.groups or (0,) * len(fits)
        lost = {g for g, label in zip(groups, prompt.labels, strict=True) if label} - {
            g for g, label, ok in zip(groups, prompt.labels, fits, strict=True) if label and ok
        }
        kept = [i for i, ok in enumerate(fits) if ok and groups[i] not in lost]
        boxes = tuple(box for box, ok in zip(prompt.boxes, keeps, strict=True) if ok)
        indices = [*kept, *(len(fits) + i for i, ok in enumerate(keeps) if ok)]
        if not boxes and not kept:
            raise reason
        remarks = [
            f"{what} {number} of {len(all_)} lies outside the scene and was left out: {at}."
            for what, all_, oks in (("Point", prompt.points, fits), ("Box", prompt.boxes, keeps))
            for number, (at, ok) in enumerate(zip(all_, oks, strict=True), 1)
            if not ok
        ]
        return replace(
            prompt,
            points=tuple(prompt.points[i] for i in kept),
            labels=tuple(prompt.labels[i] for i in kept),
            groups=tuple(prompt.groups[i] for i in kept) if prompt.groups else (),
            boxes=boxes,
            features=tuple(prompt.features[i] for i in indices) if prompt.features else (),
        ), tuple(remarks)

    def _fits(self, prompt: Prompt) -> bool:
        try:
            self.to_pixels(prompt)
        except PromptError:
            return False
        return True

    def to_pixels(self, prompt: Prompt) -> Prompt:
        """The prompt in pixel coordinates of this scene (``crs=None``), checked against its extent.

        Pixel coordinates count from this scene's upper left corner; where the scene is warped while it is read, they
        are those of the file as it is stored.

        A map box becomes its pixel bounds (its edges followed densely, so a rotated or curved grid cuts nothing off);
        a box that reaches outside is clipped.

        Raises:
            PromptError: a point outside, a box that misses the scene, an unknown CRS, or map coordinates on a raster
                without CRS.
        """
        if not prompt.is_spatial:
            return replace(prompt, crs=None)
        points = np.asarray(prompt.points, np.float64).reshape(-1, 2)
        boxes = list(prompt.boxes)
        if prompt.crs is None and self._placement is not None:
            offset = (self.left, self.top)
            points = self._placement.to_pixels(points) - offset
            boxes = [self._placement.box_to_pixels(box, offset) for box in boxes]
        elif prompt.crs is not None:
            if self._crs is None:
                raise PromptError(
                    "The prompt is in map coordinates, but the scene has no CRS.",
                    received=prompt.crs,
                    hint=f"Give pixel coordinates. {self._extent_hint(None)}",
                )
            try:
                crs = mapping.parse_crs(prompt.crs)
            except ValueError as error:
                raise PromptError(
                    f"The CRS of the prompt is unknown ({error}).", received=prompt.crs, hint=_CRS_HINT
                ) from error
            points = mapping.to_pixels(points, crs, self._crs, self._frame)
            boxes = [mapping.box_to_pixels(box, crs, self._crs, self._frame) for box in boxes]
        return self._clipped(prompt, points, boxes)

    def clip_prompt(self, prompt: Prompt) -> Prompt:
        """A prompt in pixels of this scene, checked and clipped like that of :meth:`to_pixels`."""
        return self._clipped(prompt, np.asarray(prompt.points, np.float64).reshape(-1, 2), list(prompt.boxes))

    def _clipped(self, prompt: Prompt, points: NDArray[np.float64], boxes: list[Box]) -> Prompt:
        # Coordinates that were pixel edges before reprojection may come back a hair outside.
        slack = 1e-6 if prompt.crs is None and self._placement is None else 1e-3
        size = np.array([self.width, self.height], np.float64)
        for xy, at in zip(points, prompt.points, strict=True):
            if not ((xy >= -slack).all() and (xy <= size + slack).all()):
                raise PromptError("A point lies outside the scene.", received=at, hint=self._prompt_hint(prompt.crs))
        clipped: list[Box] = []
        for (x0, y0, x1, y1), given in zip(boxes, prompt.boxes, strict=True):
            box = (max(x0, 0.0), max(y0, 0.0), min(x1, float(self.width)), min(y1, float(self.height)))
            if not (box[2] > box[0] and box[3] > box[1]):
                raise PromptError("A box lies outside the scene.", received=given, hint=self._prompt_hint(prompt.crs))
            clipped.append(box)
        inside = np.clip(points, 0.0, size)
        return replace(
            prompt,
            points=tuple((float(x), float(y)) for x, y in inside),
            boxes=tuple(clipped),
            crs=None,
        )

    def _prompt_hint(self, crs: str | None) -> str:
        hint = self._extent_hint(crs or "pixel")
        return hint if crs or self._crs is None else f"{hint} Name the CRS if these are map coordinates."

    def _how_valid(self) -> str:
        """ "all": no need to look; "values": from the values themselves; "mask": from a mask or alpha band."""
        kinds = {np.dtype(self._dataset.dtypes[band - 1]).kind for band in self.bands}
        if self._nodata_option == "none" or self._no_mask:
            return "values" if "f" in kinds or any(v is not None for v in self._nodatas) else "all"
        if self._palette is not None and (self._palette[:, 3] == 0).any():
            return "palette"
        flags = [self._dataset.mask_flag_enums[band - 1] for band in self.bands]
        if any(MaskFlags.per_dataset in f or MaskFlags.alpha in f for f in flags):
            return "mask"
        if self._nodata_option is None and any(MaskFlags.all_valid in f for f in flags) and "f" not in kinds:
            return "all"  # a pixel is valid where any of its bands is
        return "values"

    def read(
        self,
        left: int,
        top: int,
        width: int,
        height: int,
        *,
        shape: tuple[int, int] | None = None,
        average: bool = True,
    ) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        """Read a rectangle.

        Args:
            left: inside this scene, pixels.
            top: as ``left``.
            width: as ``left``.
            height: as ``left``.
            shape: (height, width) to reduce to; None = as it is. Overviews are used where the file has them.
            average: reduce by averaging; False picks single pixels, which keeps their values.

        Returns:
            Values (1 or 3, height, width) in :attr:`dtype`, and which pixels are valid (height, width): those where
            at least one band is neither nodata nor NaN and the mask or alpha band, if there is one, is not 0.

        Raises:
            SceneError: the file is damaged there; the message names the window.
        """
        if not (0 <= left < left + width <= self.width and 0 <= top < top + height <= self.height):
            raise SceneError("A window reaches outside the scene.", received=(left, top, width, height))
        if self._dataset.closed:
            raise SceneError("The scene is closed.", received=self.source, hint="Read inside its with block.")
        window = Window(self.left + left, self.top + top, width, height)
        reduced = shape is not None and shape != (height, width)
        options: dict[str, Any] = {"window": window}
        if reduced:
            options["out_shape"] = shape
        smooth = average and reduced and self._palette is None
        how = Resampling.average if smooth else Resampling.nearest
        try:
            with self._lock, gdal_env():
                values = self._read_bands(how, options)
                mask = None
                if self._validity == "mask":
                    mask = self._read_mask(options)
        except RasterioError as error:
            cause = redact_source(str(error.__cause__ or error))
            raise SceneError(
                f"The scene is damaged or truncated: pixels x {window.col_off}..{window.col_off + width}, "
                f"y {window.row_off}..{window.row_off + height} cannot be read ({cause}).",
                received=self.source,
                hint="Fetch or write the file again; gdalinfo -checksum finds damage.",
            ) from (error if self.source == self._opened else None)
        return self._finish(values, mask)

    def _read_bands(self, how: Resampling, options: dict[str, Any]) -> NDArray[Any]:
        if self._palette is not None:  # indexes, in the type in which they are stored
            stored: NDArray[Any] = self._dataset.read(self.bands[0], **options)
            return stored[None]
        if len({self._dataset.dtypes[band - 1] for band in self.bands}) > 1:  # bands of a VRT may differ
            planes = [self._dataset.read(band, resampling=how, **options) for band in self.bands]
            return np.stack(planes).astype(self.dtype)
        shape = options.get("out_shape")
        sized = {**options, "out_shape": (len(self.bands), *shape)} if shape else options
        values: NDArray[Any] = self._dataset.read(list(self.bands), resampling=how, **sized)
        return values

    def _read_mask(self, options: dict[str, Any]) -> NDArray[np.bool_]:
        shared = all(MaskFlags.per_dataset in self._dataset.mask_flag_enums[band - 1] for band in self.bands)
        bands = [self.bands[0]] if shared else list(self.bands)
        shape = options.get("out_shape")
        sized = {**options, "out_shape": (len(bands), *shape)} if shape else options
        mask: NDArray[np.bool_] = (self._dataset.read_masks(bands, **sized) > 0).any(axis=0)
        return mask

    def _finish(self, values: NDArray[Any], mask: NDArray[np.bool_] | None) -> tuple[NDArray[Any], NDArray[np.bool_]]:
        if mask is not None:
            valid = mask & np.isfinite(values).any(axis=0) if values.dtype.kind == "f" else mask
            if self._nodata_option is not None:
                valid = valid & self._not_nodata(values)
        elif self._validity == "all":
            valid = np.ones(values.shape[1:], bool)
        else:
            valid = self._not_nodata(values)
        if self._palette is None:
            return values, valid
        rgba = self._palette[values[0]]
        return np.moveaxis(rgba[..., :3], -1, 0), valid & (rgba[..., 3] > 0)

    def _not_nodata(self, values: NDArray[Any]) -> NDArray[np.bool_]:
        """Where at least one band holds a value that is finite and not nodata."""
        valid = np.zeros(values.shape[1:], bool)
        for plane, nodata in zip(values, self._nodatas, strict=True):
            good = np.isfinite(plane) if plane.dtype.kind == "f" else np.ones(plane.shape, bool)
            if nodata is not None and math.isfinite(nodata):
                # GDAL compares in the type of the band: -3.4e38 in a text header is not exactly the float32 stored.
                good &= plane != (plane.dtype.type(nodata) if plane.dtype.kind == "f" else nodata)
            valid |= good
        return valid
