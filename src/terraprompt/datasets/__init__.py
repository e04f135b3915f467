"""Labelled imagery: records, and the points and boxes that masks give. Needs numpy, scipy and Pillow only."""

from terraprompt.datasets.pack import Record, Region, find_pack, read_pack
from terraprompt.datasets.sampling import jitter_box, sample_points, tight_box

__all__ = ["Record", "Region", "find_pack", "jitter_box", "read_pack", "sample_points", "tight_box"]
