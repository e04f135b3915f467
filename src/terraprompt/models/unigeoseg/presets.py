"""Named members of the family."""

from __future__ import annotations

from dataclasses import replace
from types import MappingProxyType

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.config import (
    CausalConfig,
    ConnectorConfig,
    DensePromptConfig,
    MaskDecoderConfig,
    MemoryConfig,
    PixelDecoderConfig,
    QueryHeadConfig,
    TateConfig,
    UniGeoSegConfig,
    VisionConfig,
)

__all__ = ["preset", "preset_names"]

_NANO = UniGeoSegConfig(
    name="nano",
    tate=TateConfig(form="paper", residual=True),
    memory=MemoryConfig(slots=4, lambda_=(0.0, 0.2, 0.2)),
    query_head=QueryHeadConfig(width=256, heads=8, head_width=32),
    pixel_decoder=PixelDecoderConfig(width=96, layers=2, feedforward=256, groups=16, lateral_relu=False),
    mask_decoder=MaskDecoderConfig(layers=3, feedforward=384, presence=True),
    dense_prompt=DensePromptConfig(width=32),
)

_IMAGENET = {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)}
_SWIN_B = VisionConfig(
    name="swin", channels=(128, 256, 512, 1024), size=512, depths=(2, 2, 18, 2), heads=(4, 8, 16, 32), window=12,
    **_IMAGENET,
)  # fmt: skip


def _phi(width: int, layers: int, heads: int, vocabulary: int, positions: int = 2048) -> CausalConfig:
    """Phi-1.5 at any size: parallel attention and MLP, half of each head rotated."""
    return CausalConfig(
        "phi",
        {
            "hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": layers,
            "num_attention_heads": heads, "vocab_size": vocabulary, "hidden_act": "gelu_new", "layer_norm_eps": 1e-5,
            "max_position_embeddings": positions, "partial_rotary_factor": 0.5,
        },
    )  # fmt: skip


# What the released weights compute.
_OFFICIAL = UniGeoSegConfig(
    name="unigeoseg-official",
    vision=_SWIN_B,
    language="causal",
    language_width=2048,
    causal=_phi(2048, 24, 32, 50297),
    connector=ConnectorConfig("sparseconv", strides=(1, 2)),
    tate=TateConfig(form="official", scope="template"),
    memory=MemoryConfig(slots=4, scope="pooled", lambda_=(0.0, 0.2, 0.2)),
)

# Eq. 1-7 as written, in the same vision and language.
_PAPER = replace(
    _OFFICIAL,
    name="unigeoseg-paper",
    tate=TateConfig(form="paper", scope="instruction"),
    memory=MemoryConfig(slots=4, scope="tokens", lambda_=(0.2, 0.2, 0.2)),
)

# Section 13 of the paper: DeepSeek-7B-Chat reads instead of Phi-1.5 (its published configuration).
_DEEPSEEK = replace(
    _OFFICIAL,
    name="unigeoseg-deepseek7b",
    language_width=4096,
    causal=CausalConfig(
        "llama",
        {
            "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 30, "num_attention_heads": 32,
            "num_key_value_heads": 32, "vocab_size": 102400, "rms_norm_eps": 1e-6, "max_position_embeddings": 4096,
        },
    ),
)  # fmt: skip

_SEGEARTH = replace(
    _OFFICIAL,
    name="segearth-r1",
    vision=replace(_SWIN_B, size=1024),
    connector=ConnectorConfig("sparseconv", strides=(2, 2)),
    pool="mean",
    tate=None,
    memory=None,
)

# The official member with few and narrow layers, for tests.
_TINY = replace(
    _OFFICIAL,
    name="tiny",
    vision=replace(
        _SWIN_B, channels=(16, 32, 64, 128), size=128, depths=(2, 2, 2, 2), heads=(1, 2, 4, 8), window=4
    ),
    language_width=64,
    causal=_phi(64, 2, 4, 512),
    query_head=QueryHeadConfig(width=64, heads=4, head_width=16),
    pixel_decoder=PixelDecoderConfig(width=64, layers=2, feedforward=128, groups=8),
    mask_decoder=MaskDecoderConfig(layers=3, feedforward=128),
)  # fmt: skip

_PRESETS = MappingProxyType(
    {
        "nano": _NANO,
        # coordinates through the text path alone, to measure what the dense map brings
        "nano-text-coordinates": replace(_NANO, name="nano-text-coordinates", dense_prompt=None),
        "nano-plain": replace(_NANO, name="nano-plain", tate=None, memory=None),
        **{member.name: member for member in (_OFFICIAL, _PAPER, _DEEPSEEK, _SEGEARTH, _TINY)},
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
