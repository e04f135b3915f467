"""Mask2Former weights as the start of a training: vision, pixel decoder and mask decoder (spec 11).

Two codings are read: the pickle of Detectron2 (the authors' release) and a folder of transformers. The text side has
no counterpart there and stays as it is; so do class scores and queries here, which one query an instruction replaces.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from terraprompt.errors import CheckpointError, PickleRefusedError
from terraprompt.io.pickles import PickledArray, load_pickle
from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.layout import official_layout

__all__ = ["Start", "mask2former"]

_PARTS = ("vision.", "pixel_decoder.", "mask_decoder.")
#: Biases beside norms that UniGeoSeg's pixel decoder has and Mask2Former has not: they start at zero.
_ADDED = ("pixel_decoder.lateral.0.bias", "pixel_decoder.output.0.bias")
_UNUSED = re.compile(
    r"sem_seg_head\.predictor\.(class_embed|query_feat|query_embed|static_query)\..+|criterion\..+"
    r"|backbone\.layers\.\d+\.blocks\.\d+\.attn\.relative_position_index|class_predictor\..+"
    r"|model\.transformer_module\.queries_\w+\.weight|model\.pixel_level_module\.encoder\.swin\.layernorm\.\w+"
)
_DETECTRON = tuple(
    (re.compile(theirs), official)
    for theirs, official in (
        (r"backbone\.(.+)", "model.vision_tower.{0}"),
        (r"sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.weight", "pixel_decoder.{0}.0.weight"),
        (r"sem_seg_head\.pixel_decoder\.(adapter_1|layer_1)\.norm\.(\w+)", "pixel_decoder.{0}.1.{1}"),
        (r"sem_seg_head\.((?:pixel_decoder|predictor)\..+)", "{0}"),
    )
)
_SWIN = r"model\.pixel_level_module\.encoder\.swin\."
_BLOCK = _SWIN + r"encoder\.layers\.(\d+)\.blocks\.(\d+)\."
_PIXEL = r"model\.pixel_level_module\.decoder\."
_MASK = r"model\.transformer_module\.decoder\."
# Names of transformers to ours, with the place of query, key or value in a fused tensor as the last group.
_TRANSFORMERS = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (_SWIN + r"embeddings\.patch_embeddings\.projection\.(\w+)", "vision.patch.{0}"),
        (_SWIN + r"embeddings\.norm\.(\w+)", "vision.patch_norm.{0}"),
        (_BLOCK + r"attention\.o_proj\.(\w+)", "vision.stages.{0}.blocks.{1}.attn.proj.{2}"),
        (_BLOCK + r"attention\.relative_position_bias\.\w+_table", "vision.stages.{0}.blocks.{1}.attn.bias_table"),
        (_BLOCK + r"layernorm_before\.(\w+)", "vision.stages.{0}.blocks.{1}.norm1.{2}"),
        (_BLOCK + r"layernorm_after\.(\w+)", "vision.stages.{0}.blocks.{1}.norm2.{2}"),
        (_BLOCK + r"mlp\.(fc\d\.\w+)", "vision.stages.{0}.blocks.{1}.{2}"),
        (_SWIN + r"encoder\.layers\.(\d+)\.downsample\.(.+)", "vision.stages.{0}.merge.{1}"),
        (_PIXEL + r"level_embed", "pixel_decoder.level_embed"),
        (_PIXEL + r"input_projections\.(.+)", "pixel_decoder.input_proj.{0}"),
        (_PIXEL + r"encoder\.layers\.(\d+)\.self_attn_layer_norm\.(\w+)", "pixel_decoder.layers.{0}.norm1.{1}"),
        (_PIXEL + r"encoder\.layers\.(\d+)\.final_layer_norm\.(\w+)", "pixel_decoder.layers.{0}.norm2.{1}"),
        (_PIXEL + r"encoder\.layers\.(\d+)\.fc(\d\.\w+)", "pixel_decoder.layers.{0}.linear{1}"),
        (_PIXEL + r"encoder\.layers\.(.+)", "pixel_decoder.layers.{0}"),
        (_PIXEL + r"mask_projection\.(\w+)", "pixel_decoder.mask_features.{0}"),
        (_PIXEL + r"adapter_1\.(.+)", "pixel_decoder.lateral.{0}"),
        (_PIXEL + r"layer_1\.(.+)", "pixel_decoder.output.{0}"),
        (_MASK + r"layers\.(\d+)\.cross_attn\.in_proj_(\w+)", "mask_decoder.layers.{0}.cross_attn.in_proj.{1}"),
        (_MASK + r"layers\.(\d+)\.(self|cross)_attn_layer_norm\.(\w+)", "mask_decoder.layers.{0}.{1}_norm.{2}"),
        (_MASK + r"layers\.(\d+)\.final_layer_norm\.(\w+)", "mask_decoder.layers.{0}.ffn_norm.{1}"),
        (_MASK + r"layers\.(\d+)\.fc(\d\.\w+)", "mask_decoder.layers.{0}.linear{1}"),
        (_MASK + r"layers\.(.+_attn\.out_proj\..+)", "mask_decoder.layers.{0}"),
        (_MASK + r"layernorm\.(\w+)", "mask_decoder.norm.{0}"),
        (r"model\.transformer_module\.level_embed\.weight", "mask_decoder.level_embed.weight"),
    )
)
_FUSED = tuple(
    (re.compile(theirs), ours)
    for theirs, ours in (
        (_BLOCK + r"attention\.([qkv])_proj\.(\w+)", "vision.stages.{0}.blocks.{1}.attn.qkv.{3}"),
        (_MASK + r"layers\.(\d+)\.self_attn\.([qkv])_proj\.(\w+)", "mask_decoder.layers.{0}.self_attn.in_proj.{2}"),
    )
)
_NORMS = re.compile(r"model\.pixel_level_module\.encoder\.hidden_states_norms\.stage(\d+)\.(\w+)")
_EMBED = re.compile(_MASK + r"mask_predictor\.mask_embedder\.(\d+)\.0\.(\w+)")


@dataclass(frozen=True, slots=True)
class Start:
    """Weights to begin with.

    Attributes:
        state: our names to tensors, for all of vision, pixel decoder and mask decoder.
        zeros: which of them the source lacks; they are zero.
        unused: names of the source that nothing reads.
    """

    state: dict[str, Tensor]
    zeros: tuple[str, ...]
    unused: tuple[str, ...]


def mask2former(source: Path, config: UniGeoSegConfig) -> Start:
    """Read Mask2Former weights for the model that ``config`` describes.

    Args:
        source: Detectron2's ``.pkl``, read without running anything, or a folder that transformers saved.
        config: its vision, pixel decoder and mask decoder must be of the source's size.

    Raises:
        CheckpointError: unreadable, refused, or a tensor is unknown, missing or of another shape.
    """
    theirs = _transformers(source) if source.is_dir() else _detectron(source)
    found, unused = (_from_transformers if source.is_dir() else _from_detectron)(theirs, config)
    wanted = {
        ours: held.shape for held in official_layout(config).values() for ours in held.ours if ours.startswith(_PARTS)
    }
    zeros = tuple(name for name in _ADDED if name in wanted and name not in found)
    found |= {name: torch.zeros(wanted[name]) for name in zeros}
    problems = [f"missing {name}" for name in sorted(set(wanted) - set(found))]
    problems += [f"unknown {name}" for name in sorted(set(found) - set(wanted))]
    problems += [
        f"{name} {tuple(found[name].shape)} instead of {wanted[name]}"
        for name in sorted(set(found) & set(wanted))
        if tuple(found[name].shape) != wanted[name]
    ]
    problems += [f"{name} is not finite" for name, value in found.items() if not bool(value.isfinite().all())]
    if problems:
        more = f", … ({len(problems)} in all)" if len(problems) > 4 else ""
        raise CheckpointError(
            f"This Mask2Former does not fit {config.name}.", received=f"{source}: {', '.join(problems[:4])}{more}"
        )
    return Start(found, zeros, tuple(unused))


def _detectron(source: Path) -> dict[str, Tensor]:
    try:
        held = load_pickle(source)
    except PickleRefusedError as error:
        raise CheckpointError(
            error.what, received=source, hint="Take the .pkl of the authors' model zoo, or a folder of transformers."
        ) from error
    state = held.get("model") if isinstance(held, dict) else None
    if not isinstance(state, dict) or not all(isinstance(value, PickledArray) for value in state.values()):
        raise CheckpointError("The pickle is not a Detectron2 checkpoint: no arrays under 'model'.", received=source)
    return {name: torch.from_numpy(np.asarray(value, np.float32)) for name, value in state.items()}


def _transformers(source: Path) -> dict[str, Tensor]:
    from transformers import Mask2FormerForUniversalSegmentation

    try:
        model = Mask2FormerForUniversalSegmentation.from_pretrained(str(source), local_files_only=True)
    except (OSError, ValueError, KeyError, RuntimeError) as error:
        said = str(error).strip().splitlines()[:1]
        raise CheckpointError("transformers cannot read this folder.", received=f"{source}: {said}") from error
    return {name: value.float() for name, value in model.state_dict().items()}


def _from_detectron(state: Mapping[str, Tensor], config: UniGeoSegConfig) -> tuple[dict[str, Tensor], list[str]]:
    layout = official_layout(config)
    out, unused = {}, []
    for name, value in state.items():
        if _UNUSED.fullmatch(name):
            unused.append(name)
            continue
        official = _renamed(name, _DETECTRON)
        held = layout.get(official) if official else None
        out[held.ours[0] if held else name] = value
    return out, unused


def _from_transformers(state: Mapping[str, Tensor], _: UniGeoSegConfig) -> tuple[dict[str, Tensor], list[str]]:
    out, unused = {}, []
    fused: dict[str, dict[str, Tensor]] = {}
    for name, value in state.items():
        if _UNUSED.fullmatch(name):
            unused.append(name)
        elif whole := _renamed(name, _FUSED):
            letter = next(part[0] for part in name.split(".") if part in ("q_proj", "k_proj", "v_proj"))
            fused.setdefault(whole, {})[letter] = value
        elif found := _NORMS.fullmatch(name):
            out[f"vision.norms.{int(found[1]) - 1}.{found[2]}"] = value
        elif found := _EMBED.fullmatch(name):
            out[f"mask_decoder.mask_embed.{2 * int(found[1])}.{found[2]}"] = value
        else:
            out[_renamed(name, _TRANSFORMERS) or name] = value
    for name, parts in fused.items():
        if set(parts) == set("qkv"):
            out[name] = torch.cat([parts[letter] for letter in "qkv"])
    return out, unused


def _renamed(name: str, table: tuple[tuple[re.Pattern[str], str], ...]) -> str | None:
    for theirs, ours in table:
        if found := theirs.fullmatch(name):
            return ours.format(*found.groups())
    return None
