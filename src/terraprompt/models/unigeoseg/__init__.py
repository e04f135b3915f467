"""The UniGeoSeg family: one model, parts chosen by a frozen config."""

from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.model import Context, Dialogue, Instructions, PixelFeatures, Prediction, UniGeoSeg
from terraprompt.models.unigeoseg.presets import preset, preset_names

__all__ = [
    "Context",
    "Dialogue",
    "Instructions",
    "PixelFeatures",
    "Prediction",
    "UniGeoSeg",
    "UniGeoSegConfig",
    "preset",
    "preset_names",
]
