"""Promptable segmenters behind one face: an image is embedded once, prompts about it are cheap."""

from terraprompt.models.promptable.base import (
    Instance,
    PromptableSegmenter,
    SegmenterAnswer,
    SegmenterEmbedding,
    SegmenterInfo,
)
from terraprompt.models.promptable.engine import UniGeoSegSegmenter
from terraprompt.models.promptable.load import load_segmenter, segmenter_names

__all__ = [
    "Instance",
    "PromptableSegmenter",
    "SegmenterAnswer",
    "SegmenterEmbedding",
    "SegmenterInfo",
    "UniGeoSegSegmenter",
    "load_segmenter",
    "segmenter_names",
]
