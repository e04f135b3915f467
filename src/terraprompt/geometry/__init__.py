"""Boxes, frames and resampling between pixel grids."""
