"""From logits to files: the mask, its objects, rasters, vectors, pictures."""

from terraprompt.outputs.formats.stac import save_stac, stac_item
from terraprompt.outputs.formats.table import FORMATS, Format, check_target
from terraprompt.outputs.mask_writer import MaskWriter, check_refinement
from terraprompt.outputs.result import Result, SegmentedObject, Status

__all__ = [
    "FORMATS",
    "Format",
    "MaskWriter",
    "Result",
    "SegmentedObject",
    "Status",
    "check_refinement",
    "check_target",
    "save_stac",
    "stac_item",
]
