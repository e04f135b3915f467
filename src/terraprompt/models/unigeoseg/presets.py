"""Named members of the family."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import (
    DensePromptConfig,
    MaskDecoderConfig,
    MemoryConfig,
    PixelDecoderConfig,
    QueryHeadConfig,
    TateConfig,
    UniGeoSegConfig,
)

__all__ = ["preset", "preset_names"]

_NANO = UniGeoSegConfig(
    name="nano",
    tate=TateConfig(form="paper", residual=True),
    memory=MemoryConfig(slots=4, mix=(0.0, 0.2, 0.2)),
    query_head=QueryHeadConfig(width=256, heads=8, head_width=32),
    pixel_decoder=PixelDecoderConfig(width=96, layers=2, feedforward=256, groups=16, lateral_relu=False),
    mask_decoder=MaskDecoderConfig(layers=3, feedforward=384, presence=True),
    dense_prompt=DensePromptConfig(width=32),
)

_PRESETS = MappingProxyType(
    {
        "nano": _NANO,
        # coordinates through the text path alone, to measure what the dense map brings
        "nano-text-coordinates": replace(_NANO, name="nano-text-coordinates", dense_prompt=None),
        "nano-plain": replace(_NANO, name="nano-plain", tate=None, memory=None),
    }
)


def preset_names() -> tuple[str, ...]:
    """All names, in order."""
    return tuple(_PRESETS)


def preset(name: str) -> UniGeoSegConfig:
    """The config called ``name``; ConfigError names the known ones."""
    if name not in _PRESETS:
        raise ConfigError("Unknown model preset.", received=name, hint=f"Known: {', '.join(_PRESETS)}.")
    return _PRESETS[name]
