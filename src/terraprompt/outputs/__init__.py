"""From logits to files: the mask, its objects, rasters, vectors, pictures."""

from terraprompt.outputs.canvas import Canvas, check_refinement
from terraprompt.outputs.files import check_target
from terraprompt.outputs.result import Result, SegmentedObject, Status
from terraprompt.outputs.stac import save_stac, stac_item

__all__ = [
    "Canvas",
    "Result",
    "SegmentedObject",
    "Status",
    "check_refinement",
    "check_target",
    "save_stac",
    "stac_item",
]
