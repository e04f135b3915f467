"""Prompt the Earth: a raster and an instruction in, a georeferenced mask and polygons out."""

__version__ = "0.1.0"
