"""Rasters as scenes: opening, stretching, cutting into tiles, reading by row bands.

Names are loaded when they are first used: whoever reads plain pictures needs no GDAL.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from terraprompt.raster.bands import RowBand, read_band, read_bands, read_tile
    from terraprompt.raster.pictures import read_rgb
    from terraprompt.raster.preview import ScenePreview
    from terraprompt.raster.scene import Scene, open_scene
    from terraprompt.raster.stretch import Stretch, StretchMode, estimate_stretch
    from terraprompt.raster.tiles import Tile, TilePlan, plan

__all__ = [
    "RowBand",
    "Scene",
    "ScenePreview",
    "Stretch",
    "StretchMode",
    "Tile",
    "TilePlan",
    "estimate_stretch",
    "open_scene",
    "plan",
    "read_band",
    "read_bands",
    "read_rgb",
    "read_tile",
]

_MODULES = {
    "RowBand": "bands",
    "read_band": "bands",
    "read_bands": "bands",
    "read_tile": "bands",
    "read_rgb": "pictures",
    "ScenePreview": "preview",
    "Scene": "scene",
    "open_scene": "scene",
    "Stretch": "stretch",
    "StretchMode": "stretch",
    "estimate_stretch": "stretch",
    "Tile": "tiles",
    "TilePlan": "tiles",
    "plan": "tiles",
}


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
