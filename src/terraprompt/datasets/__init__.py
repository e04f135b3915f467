"""Labelled imagery: public data sets as samples, records, and the points and boxes that masks give.

Importing needs numpy, scipy and Pillow only; GDAL, pyarrow and the hub client are imported where they are used.
"""

from terraprompt.datasets.layouts import Faults, Layout, by_stem
from terraprompt.datasets.pack import Record, Region, find_pack, read_pack
from terraprompt.datasets.registry import Dataset, Problem, dataset_names, open_dataset
from terraprompt.datasets.sample import MaskFile, NoTarget, Polygons, RunLengths, Sample
from terraprompt.datasets.sampling import jitter_box, sample_points, tight_box

__all__ = [
    "Dataset",
    "Faults",
    "Layout",
    "MaskFile",
    "NoTarget",
    "Polygons",
    "Problem",
    "Record",
    "Region",
    "RunLengths",
    "Sample",
    "by_stem",
    "dataset_names",
    "find_pack",
    "jitter_box",
    "open_dataset",
    "read_pack",
    "sample_points",
    "tight_box",
]
