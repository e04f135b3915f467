"""Promptable segmenters behind one face: an image is embedded once, prompts about it are cheap."""

from terraprompt.segmenters.base import (
    Instance,
    PromptableSegmenter,
    SegmenterAnswer,
    SegmenterEmbedding,
    SegmenterInfo,
)
from terraprompt.segmenters.from_engine import UniGeoSegSegmenter
from terraprompt.segmenters.load import load_segmenter, segmenter_names

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
