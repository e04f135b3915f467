"""Rasters as scenes: opening, stretching, cutting into tiles, reading by row bands."""

from terraprompt.raster.bands import RowBand, read_band, read_bands, read_tile
from terraprompt.raster.scene import Scene, open_scene
from terraprompt.raster.stretch import Stretch, StretchMode, estimate_stretch
from terraprompt.raster.tiles import Tile, TilePlan, plan

__all__ = [
    "RowBand",
    "Scene",
    "Stretch",
    "StretchMode",
    "Tile",
    "TilePlan",
    "estimate_stretch",
    "open_scene",
    "plan",
    "read_band",
    "read_bands",
    "read_tile",
]
