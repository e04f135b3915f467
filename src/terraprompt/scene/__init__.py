"""Rasters as scenes: opening, stretching, cutting into tiles, reading by row bands."""

from terraprompt.scene.bands import RowBand, read_band, read_bands, read_tile
from terraprompt.scene.scene import Scene, open_scene
from terraprompt.scene.stretch import Stretch, StretchMode, estimate_stretch
from terraprompt.scene.tiles import Tile, TilePlan, plan

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
