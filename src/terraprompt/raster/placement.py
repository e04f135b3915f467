"""Scenes placed by RPCs or ground control points alone: warped to a north-up grid while they are read."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import numpy as np
import pyproj
import rasterio
from numpy.typing import NDArray
from rasterio._err import CPLE_BaseError  # what GDAL says; rasterio lets it through here
from rasterio.errors import NotGeoreferencedWarning, RasterioError
from rasterio.transform import Affine, GCPTransformer, RPCTransformer
from rasterio.warp import calculate_default_transform

from terraprompt.errors import SceneError
from terraprompt.geometry.types import Box
from terraprompt.raster import mapping
from terraprompt.raster.source import gdal_env, open_dataset, source_label

__all__ = ["Placement", "is_unplaced", "place"]

#: Up to so many control points a thin plate spline goes through all of them; more are fitted by a polynomial.
_MOST_SPLINE = 500
_LONLAT = "EPSG:4326"


@dataclass(frozen=True)
class Placement:
    """Where the pixels of a file lie on the ground, and the grid that it is warped to.

    Attributes:
        crs: of the grid.
        transform: of the grid, pixel to map; square pixels, north up.
        size: (height, width) of the grid.
        file_size: (height, width) of the file.
        remark: how the scene was placed.
        files: read besides the scene.
        settings: for provenance, as JSON values.
    """

    crs: Any
    transform: Affine
    size: tuple[int, int]
    file_size: tuple[int, int]
    remark: str
    files: tuple[str, ...]
    settings: dict[str, Any]
    _ground_crs: pyproj.CRS
    _transformer: Any
    _xml: ET.Element

    def to_pixels(self, xy: NDArray[np.float64]) -> NDArray[np.float64]:
        """Pixels (n, 2) of the file to pixels of the grid; infinite outside the file and where there is no way."""
        if not len(xy):
            return xy
        outside = ((xy < -1e-6) | (xy > np.array(self.file_size[::-1]) + 1e-6)).any(axis=1)
        try:
            with gdal_env():
                ground = self._transformer.xy(xy[:, 1], xy[:, 0], zs=np.zeros(len(xy)), offset="ul")
        except (RasterioError, CPLE_BaseError):
            return np.full_like(xy, np.inf)
        target = mapping.parse_crs(self.crs)
        frame = (self.transform, *self.size[::-1])
        found = mapping.to_pixels(np.stack(ground, axis=1), self._ground_crs, target, frame)
        found[outside] = np.inf
        return found

    def box_to_pixels(self, box: Box, offset: tuple[float, float] = (0.0, 0.0)) -> Box:
        """Bounds on the grid, less ``offset``, of a box in pixels of the file; infinite where there is no way."""
        height, width = self.file_size
        inside = (max(box[0], 0.0), max(box[1], 0.0), min(box[2], float(width)), min(box[3], float(height)))
        if not (inside[2] > inside[0] and inside[3] > inside[1]):
            return (math.inf,) * 4
        return mapping.bounds(self.to_pixels(mapping.outline(inside)) - offset)

    @property
    def uses_dem(self) -> bool:
        """Whether heights matter."""
        return bool(self.settings["placed_by"] == "RPCs")

    def open(self, dataset: Any, name: str, nodata: float | None, alpha: int | None) -> Any:
        """The warped dataset: as many bands as the file, and an alpha band that is 0 where nothing lies.

        Args:
            dataset: of the file.
            name: of the file, for GDAL.
            nodata: value without data in all bands, or None.
            alpha: 1-based band that is the file's mask, or None.
        """
        root = _warped_vrt(dataset, name, self, nodata, alpha)
        with gdal_env(), warnings.catch_warnings():
            warnings.simplefilter("ignore", NotGeoreferencedWarning)
            return rasterio.open(ET.tostring(root, encoding="unicode"))


def is_unplaced(dataset: Any) -> bool:
    """Whether RPCs or ground control points alone say where a dataset lies."""
    return bool(dataset.crs is None and dataset.transform.is_identity and (dataset.rpcs or dataset.gcps[0]))


def warp_line(dataset: Any, name: str) -> str:
    """The gdalwarp command that places a scene."""
    label = source_label(name)
    if dataset.rpcs:
        return f"gdalwarp -rpc -t_srs EPSG:4326 {label} warped.tif"
    srs = "" if dataset.gcps[1] else "-s_srs EPSG:CODE "
    return f"gdalwarp -tps {srs}{label} warped.tif"


def place(dataset: Any, name: str, dem: str | os.PathLike[str] | float | None = None) -> Placement:
    """How to warp a dataset for which :func:`is_unplaced` holds.

    RPCs are preferred to control points, which beside them are mostly rounded corners.

    Args:
        dataset: open.
        name: for messages.
        dem: heights under RPCs: a raster of metres above the ellipsoid, or one height. None: the RPCs' own mean.

    Raises:
        SceneError: no usable control points, a DEM that cannot be read, or no way to the ground; the hint is the line
            of gdalwarp.
    """
    try:
        with gdal_env():
            return _by_rpcs(dataset, dem) if dataset.rpcs else _by_points(dataset)
    except (RasterioError, CPLE_BaseError, ValueError, ArithmeticError) as error:
        raise SceneError(
            f"The scene cannot be placed on the ground ({' '.join(str(error).split()).rstrip('.')}).",
            received=source_label(name),
            hint=f"Warp it first: {warp_line(dataset, name)}; or read it in pixels: --no-warp (Python: warp=False).",
        ) from error


def _by_rpcs(dataset: Any, dem: str | os.PathLike[str] | float | None) -> Placement:
    rpcs = dataset.rpcs
    options: dict[str, Any] = {"RPC_HEIGHT": rpcs.height_off}
    said = f"at the one height of {rpcs.height_off:g} m that they name; give --dem where the ground is not flat"
    files: tuple[str, ...] = ()
    if isinstance(dem, int | float):
        if not math.isfinite(dem):
            raise ValueError(f"a height must be finite, not {dem}")
        options, said = {"RPC_HEIGHT": float(dem)}, f"at a height of {dem:g} m"
    elif dem is not None:
        path = str(Path(dem).resolve()) if Path(dem).exists() else os.fspath(dem)
        with open_dataset(path) as heights:
            if heights.crs is None:
                raise SceneError("The DEM has no CRS.", received=dem, hint="Give a DEM with a place on the Earth.")
            files = tuple(heights.files)
        options = {"RPC_DEM": path, "RPC_DEM_MISSING_VALUE": rpcs.height_off}
        said = f"on the heights of {source_label(path)}, and at {rpcs.height_off:g} m where it has none"
    crs = _metric_crs(rpcs.long_off, rpcs.lat_off)
    transform, width, height = calculate_default_transform(
        _LONLAT, crs, dataset.width, dataset.height, rpcs=rpcs, **{k: str(v) for k, v in options.items()}
    )
    element = ET.Element("SrcRPCTransformer")
    inner = ET.SubElement(element, "RPCTransformer")
    _add(inner, "Reversed", 0)
    _add(inner, "HeightOffset", options.get("RPC_HEIGHT", 0))
    if "RPC_DEM" in options:
        _add(inner, "DEMPath", options["RPC_DEM"])
        _add(inner, "DEMMissingValue", rpcs.height_off)
    metadata = ET.SubElement(inner, "Metadata")
    for key, value in rpcs.to_gdal().items():
        _add(metadata, "MDI", value, key=key)
    remark = f"The scene is placed by RPCs only: it was warped to {crs} {said}."
    heights = source_label(options["RPC_DEM"]) if "RPC_DEM" in options else options["RPC_HEIGHT"]
    settings = {"placed_by": "RPCs", "heights": heights}
    transformer = RPCTransformer(rpcs, **options)
    return Placement(
        crs,
        transform,
        (height, width),
        dataset.shape,
        remark,
        files,
        settings,
        mapping.parse_crs(_LONLAT),
        transformer,
        element,
    )


def _by_points(dataset: Any) -> Placement:
    points, points_crs = dataset.gcps
    if not points_crs:
        raise ValueError("its control points have no CRS")
    if len(points) < 3:
        raise ValueError(f"it has {len(points)} control points; three are needed")
    source = mapping.parse_crs(points_crs)
    crs: Any = points_crs
    if source.is_geographic:
        lon, lat = np.mean([(p.x, p.y) for p in points], axis=0)
        crs = _metric_crs(float(lon), float(lat))
    transform, width, height = calculate_default_transform(points_crs, crs, dataset.width, dataset.height, gcps=points)
    spline = 4 <= len(points) <= _MOST_SPLINE
    element = ET.Element("SrcTPSTransformer" if spline else "SrcGCPTransformer")
    inner = ET.SubElement(element, "TPSTransformer" if spline else "GCPTransformer")
    if not spline:
        _add(inner, "Order", 1 if len(points) < 6 else 2)
    _add(inner, "Reversed", 0)
    listed = ET.SubElement(inner, "GCPList")
    for number, p in enumerate(points, 1):
        at = {"Pixel": p.col, "Line": p.row, "X": p.x, "Y": p.y, "Z": p.z or 0.0}
        _add(listed, "GCP", None, Id=str(number), **{key: repr(float(v)) for key, v in at.items()})
    how = "a spline through them" if spline else "a polynomial fitted to them"
    name = crs if isinstance(crs, str) else source.name
    remark = f"The scene is placed by {len(points)} ground control points only: it was warped to {name} by {how}."
    settings = {"placed_by": "GCPs"}
    transformer = GCPTransformer(points, tps=spline)
    return Placement(crs, transform, (height, width), dataset.shape, remark, (), settings, source, transformer, element)


def _metric_crs(lon: float, lat: float) -> str:
    """The UTM zone, or polar stereographic projection, of a place."""
    if not (math.isfinite(lon) and abs(lat) <= 90):
        raise ValueError(f"it lies at longitude {lon:g}, latitude {lat:g}")
    if not -80 <= lat <= 84:
        return "EPSG:5041" if lat > 0 else "EPSG:5042"  # UPS, easting first
    zone = int((lon + 180) % 360 // 6) + 1
    return f"EPSG:{32600 + zone if lat >= 0 else 32700 + zone}"


def _add(parent: ET.Element, tag: str, text: object, **attributes: str) -> ET.Element:
    element = ET.SubElement(parent, tag, attributes)
    element.text = None if text is None else str(text)
    return element


def _warped_vrt(dataset: Any, name: str, placed: Placement, nodata: float | None, alpha: int | None) -> ET.Element:
    """GDAL's description of a raster that is warped when it is read."""
    target = mapping.parse_crs(placed.crs).to_wkt("WKT1_GDAL")
    root = ET.Element(
        "VRTDataset", rasterXSize=str(placed.size[1]), rasterYSize=str(placed.size[0]), subClass="VRTWarpedDataset"
    )
    _add(root, "SRS", target)
    _add(root, "GeoTransform", _numbers(placed.transform.to_gdal()))
    count, mask = dataset.count, alpha or dataset.count + 1
    palette = any(colour.name == "palette" for colour in dataset.colorinterp)
    for band in range(1, max(count, mask) + 1):
        source = min(band, count)
        element = _add(
            root, "VRTRasterBand", None, dataType=_gdal_type(dataset.dtypes[source - 1]), band=str(band),
            subClass="VRTWarpedRasterBand",
        )  # fmt: skip
        if band == mask:
            _add(element, "ColorInterp", "Alpha")
            continue
        if dataset.descriptions[band - 1]:
            _add(element, "Description", dataset.descriptions[band - 1])
        colour = dataset.colorinterp[band - 1].name
        _add(element, "ColorInterp", "Undefined" if colour in ("alpha", "undefined") else colour.capitalize())
        if colour == "palette":
            table = ET.SubElement(element, "ColorTable")
            for _, rgba in sorted(dataset.colormap(band).items()):
                _add(table, "Entry", None, **{f"c{i}": str(v) for i, v in enumerate(rgba, 1)})
    options = ET.SubElement(root, "GDALWarpOptions")
    _add(options, "WarpMemoryLimit", 1 << 26)
    _add(options, "ResampleAlg", "NearestNeighbour" if palette else "Bilinear")
    for key, value in (
        ("UNIFIED_SRC_NODATA", "YES"), ("INIT_DEST", "0"), ("ERROR_OUT_IF_EMPTY_SOURCE_WINDOW", "FALSE")
    ):  # fmt: skip
        _add(options, "Option", value, name=key)
    _add(options, "SourceDataset", name, relativeToVRT="0")
    approximate = ET.SubElement(ET.SubElement(options, "Transformer"), "ApproxTransformer")
    _add(approximate, "MaxError", 0.125)
    general = ET.SubElement(ET.SubElement(approximate, "BaseTransformer"), "GenImgProjTransformer")
    general.append(placed._xml)
    _add(general, "DstGeoTransform", _numbers(placed.transform.to_gdal()))
    _add(general, "DstInvGeoTransform", _numbers((~placed.transform).to_gdal()))
    reproject = ET.SubElement(ET.SubElement(general, "ReprojectTransformer"), "ReprojectionTransformer")
    _add(reproject, "SourceSRS", placed._ground_crs.to_wkt("WKT1_GDAL"))
    _add(reproject, "TargetSRS", target)
    mapped = ET.SubElement(options, "BandList")
    for band in range(1, count + 1):
        if band != mask:
            element = _add(mapped, "BandMapping", None, src=str(band), dst=str(band))
            if nodata is not None:
                _add(element, "SrcNoDataReal", nodata)
                _add(element, "SrcNoDataImag", 0)
    if alpha:
        _add(options, "SrcAlphaBand", alpha)
    _add(options, "DstAlphaBand", mask)
    return root


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(repr(float(v)) for v in values)


def _gdal_type(dtype: str) -> str:
    return {"uint8": "Byte"}.get(dtype, dtype.replace("uint", "UInt").replace("int", "Int").replace("float", "Float"))
