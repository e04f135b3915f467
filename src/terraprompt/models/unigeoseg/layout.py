"""The released checkpoint's names, shapes and fused tensors, as a function of our config (spec 11)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

import torch
from accelerate import init_empty_weights
from torch import Tensor

from terraprompt.errors import CheckpointError
from terraprompt.models.unigeoseg.config import CausalConfig, ConnectorConfig, UniGeoSegConfig
from terraprompt.models.unigeoseg.model import UniGeoSeg

__all__ = ["Account", "account", "config_of", "is_dropped", "official_layout", "split", "to_official"]

Shape = tuple[int, ...]

# Ours to theirs; the first that matches is taken. "{n}" in a result is the n-th group.
_RENAMES = tuple(
    (re.compile(ours), theirs)
    for ours, theirs in (
        (r"reader\.connector\.(.+)", "model.mm_projector.{0}"),
        (r"reader\.lm_head\.(.+)", "lm_head.{0}"),
        (r"reader\.language\.(.+)", "model.{0}"),
        (r"vision\.patch\.(\w+)", "model.vision_tower.patch_embed.proj.{0}"),
        (r"vision\.patch_norm\.(\w+)", "model.vision_tower.patch_embed.norm.{0}"),
        (
            r"vision\.stages\.(\d+)\.blocks\.(\d+)\.attn\.bias_table",
            "model.vision_tower.layers.{0}.blocks.{1}.attn.relative_position_bias_table",
        ),
        (r"vision\.stages\.(\d+)\.blocks\.(\d+)\.(fc\d\..+)", "model.vision_tower.layers.{0}.blocks.{1}.mlp.{2}"),
        (r"vision\.stages\.(\d+)\.blocks\.(.+)", "model.vision_tower.layers.{0}.blocks.{1}"),
        (r"vision\.stages\.(\d+)\.merge\.(.+)", "model.vision_tower.layers.{0}.downsample.{1}"),
        (r"vision\.norms\.(\d+)\.(\w+)", "model.vision_tower.norm{0}.{1}"),
        (r"pixel_decoder\.level_embed", "pixel_decoder.transformer.level_embed"),
        (r"pixel_decoder\.layers\.(.+)", "pixel_decoder.transformer.encoder.layers.{0}"),
        (r"pixel_decoder\.lateral\.(.+)", "pixel_decoder.adapter_1.{0}"),
        (r"pixel_decoder\.output\.(.+)", "pixel_decoder.layer_1.{0}"),
        (r"(pixel_decoder\..+)", "{0}"),
        (
            r"mask_decoder\.layers\.(\d+)\.cross_attn\.in_proj\.(\w+)",
            "predictor.transformer_cross_attention_layers.{0}.multihead_attn.in_proj_{1}",
        ),
        (
            r"mask_decoder\.layers\.(\d+)\.cross_attn\.(.+)",
            "predictor.transformer_cross_attention_layers.{0}.multihead_attn.{1}",
        ),
        (
            r"mask_decoder\.layers\.(\d+)\.cross_norm\.(\w+)",
            "predictor.transformer_cross_attention_layers.{0}.norm.{1}",
        ),
        (
            r"mask_decoder\.layers\.(\d+)\.self_attn\.in_proj\.(\w+)",
            "predictor.transformer_self_attention_layers.{0}.self_attn.in_proj_{1}",
        ),
        (
            r"mask_decoder\.layers\.(\d+)\.self_attn\.(.+)",
            "predictor.transformer_self_attention_layers.{0}.self_attn.{1}",
        ),
        (r"mask_decoder\.layers\.(\d+)\.self_norm\.(\w+)", "predictor.transformer_self_attention_layers.{0}.norm.{1}"),
        (r"mask_decoder\.layers\.(\d+)\.ffn_norm\.(\w+)", "predictor.transformer_ffn_layers.{0}.norm.{1}"),
        (r"mask_decoder\.layers\.(\d+)\.(.+)", "predictor.transformer_ffn_layers.{0}.{1}"),
        (r"mask_decoder\.norm\.(\w+)", "predictor.decoder_norm.{0}"),
        (r"mask_decoder\.mask_embed\.0\.(\w+)", "predictor.mask_embed.layers.0.{0}"),
        (r"mask_decoder\.mask_embed\.2\.(\w+)", "predictor.mask_embed.layers.1.{0}"),
        (r"mask_decoder\.mask_embed\.4\.(\w+)", "predictor.mask_embed.layers.2.{0}"),
        (r"mask_decoder\.level_embed\.(\w+)", "predictor.level_embed.{0}"),
        (r"pool\.query", "ref_attn.query"),
        (r"memory\.slots", "global_latents"),
        (r"tate\.coordinates\.(\w+)", "intera_coord_project.{0}"),
        (r"tate\.fuse\.(\w+)", "intera_fuse.{0}"),
        (r"tate\.queries\.query", "enhanced_reasoning_pooling.multi_query"),
        (r"tate\.functional\.(\w+)", "enhanced_reasoning_pooling.functional_proj.{0}"),
        (r"tate\.fusion\.(\w+)", "enhanced_reasoning_pooling.fusion.{0}"),
        (r"tate\.norm\.(\w+)", "enhanced_reasoning_pooling.layer_norm.{0}"),
        (r"query_head\.skip\.(\w+)", "origin_SEG_token_projector.{0}"),
        (r"query_head\.latent\.(\w+)", "text_projector.{0}"),
        (r"query_head\.image\.(\w+)", "local_project.{0}"),
        (r"query_head\.join\.(\w+)", "SEG_token_projector.{0}"),
        (r"query_head\.resampler\.norm_image\.(\w+)", "d_layers.layers.0.0.norm_media.{0}"),
        (r"query_head\.resampler\.norm_latent\.(\w+)", "d_layers.layers.0.0.norm_latents.{0}"),
        (r"query_head\.resampler\.(to_\w+\.\w+)", "d_layers.layers.0.0.{0}"),
        (r"query_head\.resampler\.feedforward\.(.+)", "d_layers.layers.0.1.{0}"),
        (r"query_head\.resampler\.norm\.(\w+)", "d_layers.norm.{0}"),
    )
)

_QKV = re.compile(r"(reader\.language\.layers\.\d+\.self_attn\.)([qkv])_proj(\.\w+)")

#: Tensors of the released checkpoint that reach no mask and no loss.
DEAD = (
    "seg_query", "refer_pooling.query", "refer_pooling.proj.weight", "refer_pooling.proj.bias",
    "reason_norm.weight", "reason_norm.bias", "ref_attn.proj.weight", "ref_attn.proj.bias", "task_embed.weight",
    "global_projector.weight", "global_projector.bias", "predictor.query_feat.weight", "predictor.query_embed.weight",
    "predictor.SEG_query_embed.weight", "predictor.new_query_embed.weight",
    *(f"predictor.{part}_proj.layers.{i}.{leaf}" for part in ("SEG", "CLASS") for i in (0, 1)
      for leaf in ("weight", "bias")),
)  # fmt: skip
_DEAD = frozenset(DEAD)
_BUFFER = re.compile(r"model\.vision_tower\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index")


def is_dropped(name: str) -> bool:
    """Whether a tensor of the released checkpoint is dead, or a buffer that we compute."""
    return name in _DEAD or _BUFFER.fullmatch(name) is not None


def _their_name(name: str) -> str:
    for ours, theirs in _RENAMES:
        if found := ours.fullmatch(name):
            return theirs.format(*found.groups())
    raise CheckpointError("This part has no place in the released layout.", received=name)


@dataclass(frozen=True, slots=True)
class Source:
    """Where a tensor of the released layout goes.

    Attributes:
        shape: theirs.
        ours: our names: one, or three that it holds interleaved (query, key and value of each head in turn).
        heads: of a fused tensor; 0 = not fused.
    """

    shape: Shape
    ours: tuple[str, ...]
    heads: int = 0


def official_layout(config: UniGeoSegConfig) -> dict[str, Source]:
    """Released names to what they hold, for every parameter of the model that ``config`` describes."""
    with init_empty_weights(include_buffers=True):
        parameters = {name: tuple(value.shape) for name, value in UniGeoSeg(config).state_dict().items()}
    fused_here = config.causal is not None and config.causal.model_type == "phi"
    heads = int(config.causal.settings["num_attention_heads"]) if config.causal and fused_here else 0
    out: dict[str, Source] = {}
    for name, shape in parameters.items():
        if fused_here and (found := _QKV.fullmatch(name)):
            before, _, leaf = found.groups()
            theirs = _their_name(f"{before}query_key_value{leaf}")
            ours = tuple(f"{before}{letter}_proj{leaf}" for letter in "qkv")
            out[theirs] = Source((3 * shape[0], *shape[1:]), ours, heads)
        else:
            out[_their_name(name)] = Source(shape, (name,))
    return out


def split(value: Tensor, source: Source) -> dict[str, Tensor]:
    """A released tensor as ours."""
    if not source.heads:
        return {source.ours[0]: value}
    parts = value.view(source.heads, 3, -1, *value.shape[1:]).unbind(1)
    return {name: part.flatten(0, 1) for name, part in zip(source.ours, parts, strict=True)}


def to_official(state: Mapping[str, Tensor], config: UniGeoSegConfig) -> dict[str, Tensor]:
    """Our state as released tensors: the inverse of :func:`split` over the whole layout, without the dead ones."""
    out = {}
    for name, source in official_layout(config).items():
        parts = [state[ours] for ours in source.ours]
        if source.heads:
            parts = [torch.stack([p.view(source.heads, -1, *p.shape[1:]) for p in parts], 1).flatten(0, 2)]
        out[name] = parts[0]
    return out


@dataclass(frozen=True, slots=True)
class Account:
    """Every name of a checkpoint, in exactly one place."""

    used: tuple[str, ...]
    dropped: tuple[str, ...]
    unknown: tuple[str, ...]
    missing: tuple[str, ...]
    misshapen: tuple[str, ...]

    def check(self, where: object) -> None:
        """Raise CheckpointError unless nothing is unknown, missing or of another shape."""
        for what, names in (("unknown", self.unknown), ("missing", self.missing), ("misshapen", self.misshapen)):
            if names:
                shown = ", ".join(names[:5]) + (f", … ({len(names)} in all)" if len(names) > 5 else "")
                raise CheckpointError(
                    f"The checkpoint has {what} tensors.",
                    received=f"{where}: {shown}",
                    hint="It is incomplete, or of another model; see --preset.",
                )


def account(shapes: Mapping[str, Shape], config: UniGeoSegConfig) -> Account:
    """Compare a checkpoint's names and shapes with what the model needs."""
    layout = official_layout(config)
    found = set(shapes)
    used = sorted(found & set(layout))
    return Account(
        used=tuple(used),
        dropped=tuple(sorted(name for name in found - set(layout) if is_dropped(name))),
        unknown=tuple(sorted(name for name in found - set(layout) if not is_dropped(name))),
        missing=tuple(sorted(set(layout) - found)),
        misshapen=tuple(f"{n} {shapes[n]} instead of {layout[n].shape}" for n in used if shapes[n] != layout[n].shape),
    )


def config_of(shapes: Mapping[str, Shape], base: UniGeoSegConfig) -> UniGeoSegConfig:
    """``base`` with what a checkpoint decides: vocabulary, layers of the language model, kind of connector."""
    if base.causal is None or base.connector is None:
        raise CheckpointError("Only members with a causal reader have a released layout.", received=base.name)
    embedding = shapes.get("model.embed_tokens.weight")
    if embedding is None:
        raise CheckpointError("The checkpoint has no token embeddings.", received="no model.embed_tokens.weight")
    settings = {
        **base.causal.settings,
        "vocab_size": embedding[0],
        "num_hidden_layers": len(_layers(shapes)),
    }
    connector = base.connector
    if "model.mm_projector.branch1.weight" in shapes:
        connector = ConnectorConfig("mscc")
    elif "model.mm_projector.proj1.weight" in shapes and connector.kind != "sparseconv":
        connector = ConnectorConfig("sparseconv")
    causal = CausalConfig(base.causal.model_type, settings, base.causal.lm_head)
    return replace(base, causal=causal, connector=connector)


def _layers(names: Iterable[str]) -> set[str]:
    return {found[1] for name in names if (found := re.match(r"model\.layers\.(\d+)\.", name))}
