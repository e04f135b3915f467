"""A STAC item of a result, for catalogues; plain JSON, no library needed."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import shapely.geometry
from numpy.typing import NDArray
from pyproj import CRS
from shapely import Polygon

from terraprompt.errors import OutputError
from terraprompt.io.files import JSON_SUFFIXES, replacing
from terraprompt.outputs.formats.lonlat import lonlat_bounds, to_lonlat, unwrapped_lonlat
from terraprompt.outputs.formats.table import media_type
from terraprompt.outputs.provenance import PROVENANCE_KEYS, as_text
from terraprompt.raster.pixel_area import to_map

if TYPE_CHECKING:
    from terraprompt.outputs.result import Result

__all__ = ["save_stac", "stac_item"]

_PROJECTION = "https://stac-extensions.github.io/projection/v2.0.0/schema.json"


def stac_item(result: Result, assets: Mapping[str, str | Path], *, item_id: str | None = None) -> dict[str, Any]:
    """Describe a result's files as a STAC 1.0.0 item with the projection extension.

    Args:
        result: what the files hold.
        assets: role to path, e.g. ``{"mask": "m.tif", "vector": "m.gpkg", "picture": "m.png"}``; paths go
            into the item as they are given.
        item_id: the item's id; the name of the first asset by default.

    Returns:
        The item as a dict. Without a CRS its geometry is null, as STAC asks of an item without a place.
    """
    first = next(iter(assets.values()), "terraprompt")
    created = as_text(result.provenance, "created") or datetime.now(UTC).isoformat(timespec="seconds")
    properties: dict[str, Any] = {"datetime": created}
    properties |= {f"terraprompt:{key}": as_text(result.provenance, key) for key in PROVENANCE_KEYS}
    properties |= {"terraprompt:status": result.status.value, "terraprompt:objects": len(result.objects)}
    if result.reason:
        properties["terraprompt:reason"] = result.reason
    if result.remarks:
        properties["terraprompt:remarks"] = list(result.remarks)
    item: dict[str, Any] = {
        "type": "Feature",
        "stac_version": "1.0.0",
        "stac_extensions": [],
        "id": item_id or Path(first).stem,
        "geometry": None,
        "properties": properties,
        "links": [],
        "assets": {
            role: {
                "href": str(path),
                "roles": ["overview"] if role == "picture" else ["data"],
                **({"type": kind} if (kind := media_type(path)) else {}),
            }
            for role, path in assets.items()
        },
    }
    if result.crs is not None:
        item["stac_extensions"] = [_PROJECTION]
        properties["proj:shape"] = [result.height, result.width]
        properties["proj:transform"] = list(result.transform)[:6]
        epsg = result.crs.to_epsg()
        if epsg is not None:
            properties["proj:code"] = f"EPSG:{epsg}"
        else:
            properties["proj:projjson"] = CRS.from_user_input(result.crs).to_json_dict()
        place = _footprint(result)
        if place is not None:
            item["geometry"] = shapely.geometry.mapping(to_lonlat(place)[0])
            item["bbox"] = lonlat_bounds(place)
    return item


def _footprint(result: Result) -> NDArray[np.object_] | None:
    """The scene's edge in EPSG:4326, one polygon; None where the CRS has no place on the Earth."""
    # Corners counter-clockwise for a north-up scene; each side in steps, since it may bend in longitude and
    # latitude.
    side = np.linspace(0, 1, 9)[:-1]
    along = np.concatenate([side, np.ones(8), 1 - side, np.zeros(8)])
    x, y = np.roll(along, 8) * result.width, along * result.height
    with suppress(OutputError):
        return unwrapped_lonlat(Polygon(np.stack(to_map(result.transform, x, y), axis=1)), result.crs)
    return None


def save_stac(result: Result, path: str | Path, assets: Mapping[str, str | Path], *, overwrite: bool = False) -> Path:
    """Write :func:`stac_item` as JSON; assets in the same folder are referred to by their names alone.

    Raises:
        OutputError: see :func:`terraprompt.io.files.check_writable`.
    """
    folder = Path(path).resolve().parent
    local = {
        role: Path(p).name if Path(p).resolve().parent == folder else str(Path(p).resolve())
        for role, p in assets.items()
    }
    with replacing(path, overwrite, kind="json", suffixes=JSON_SUFFIXES) as temporary:
        item = stac_item(result, local, item_id=Path(path).stem)
        temporary.write_text(json.dumps(item, indent=2, ensure_ascii=False), encoding="utf-8")
    return Path(path)
