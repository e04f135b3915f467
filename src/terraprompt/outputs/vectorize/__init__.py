"""Polygons from masks, row by row."""
