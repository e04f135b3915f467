"""Small random members of the SAM family, as folders that save_pretrained wrote."""

from __future__ import annotations

import json
import re
import string
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import (
    CLIPTokenizer,
    Sam2Config,
    Sam2Model,
    Sam2VideoConfig,
    Sam2VideoModel,
    SamConfig,
    SamHQConfig,
    SamHQModel,
    SamModel,
)
from transformers.models.sam3.configuration_sam3 import Sam3Config
from transformers.models.sam3.modeling_sam3 import Sam3Model
from transformers.models.sam3_tracker.configuration_sam3_tracker import Sam3TrackerConfig
from transformers.models.sam3_tracker.modeling_sam3_tracker import Sam3TrackerModel
from transformers.models.sam3_video.configuration_sam3_video import Sam3VideoConfig
from transformers.models.sam3_video.modeling_sam3_video import Sam3VideoModel

from terraprompt.models.sam.mobile_sam import MobileSam, MobileSamConfig

SIDE = 64
SIDE3 = 112

_PROMPTS = {"hidden_size": 32, "image_size": SIDE, "patch_size": 16, "mask_input_channels": 8}
_MASKS = {
    "hidden_size": 32,
    "mlp_dim": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "iou_head_hidden_dim": 32,
}
_VIT = {
    "hidden_size": 32,
    "output_channels": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "window_size": 2,
    "global_attn_indexes": [1],
    "num_pos_feats": 16,
    "mlp_dim": 64,
}


def randomised(model: Any, seed: int) -> Any:
    """Weights large enough for every branch to matter; transformers starts SAM's encoder at zero."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.normal_(0, 0.2, generator=generator)
            if "norm" in name and name.endswith("weight"):
                parameter.add_(1)
        for name, buffer in model.named_buffers():
            if name.endswith("positional_embedding"):
                buffer.normal_(0, 1, generator=generator)
    return model.eval()


def sam_model(seed: int = 0) -> Any:
    config = SamConfig(vision_config=_VIT, prompt_encoder_config=_PROMPTS, mask_decoder_config=_MASKS)
    return randomised(SamModel(config), seed)


def sam_hq_model(seed: int = 0) -> Any:
    masks = {**_MASKS, "vit_dim": 32}
    config = SamHQConfig(vision_config=_VIT, prompt_encoder_config=_PROMPTS, mask_decoder_config=masks)
    return randomised(SamHQModel(config), seed)


def mobile_sam_config() -> MobileSamConfig:
    return MobileSamConfig(
        vision_config={"image_size": SIDE, "output_channels": 32, "num_pos_feats": 16},
        prompt_encoder_config=_PROMPTS,
        mask_decoder_config=_MASKS,
        widths=[8, 12, 16, 16],
        depths=[1, 2, 1, 1],
        heads=[1, 2, 4, 2],
        windows=[7, 3, 3, 7],
    )


def mobile_sam_model(seed: int = 0) -> Any:
    return randomised(MobileSam(mobile_sam_config()), seed)


def released_mobile_sam(model: Any, seed: int = 0) -> dict[str, torch.Tensor]:
    """The state dict of a :class:`MobileSam` as ``mobile_sam.pt`` holds it, with batch norms of their own."""
    generator = torch.Generator().manual_seed(seed)
    out = {}
    for name, value in model.state_dict().items():
        if name.startswith("prompt_encoder.shared_embedding"):
            continue
        for ours, official in _OFFICIAL:
            name = re.sub(ours, official, name)
        out[name] = value.clone()
    for weight in [name for name in out if name.startswith("image_encoder") and out[name].ndim == 4]:
        if "neck" in weight:
            continue
        layer, kernel = weight.removesuffix(".weight"), out.pop(weight)
        count = len(kernel)
        scale, variance = (torch.rand(count, generator=generator) + 0.5 for _ in range(2))
        mean = torch.randn(count, generator=generator)
        gain = scale / (variance + 1e-5).sqrt()
        out[f"{layer}.c.weight"] = kernel / gain[:, None, None, None]
        out[f"{layer}.bn.weight"], out[f"{layer}.bn.bias"] = scale, out.pop(f"{layer}.bias") + mean * gain
        out[f"{layer}.bn.running_mean"], out[f"{layer}.bn.running_var"] = mean, variance
        out[f"{layer}.bn.num_batches_tracked"] = torch.tensor(1)
    out["image_encoder.norm_head.weight"] = torch.ones(4)
    out["image_encoder.head.weight"] = torch.ones(1000, 4)
    return out


_OFFICIAL = (
    ("^vision_encoder", "image_encoder"),
    ("^shared_image_embedding.positional_embedding", "prompt_encoder.pe_layer.positional_encoding_gaussian_matrix"),
    ("encoder.point_embed[.]", "encoder.point_embeddings."),
    ("mask_embed.conv1", "mask_downscaling.0"),
    ("mask_embed.layer_norm1", "mask_downscaling.1"),
    ("mask_embed.conv2", "mask_downscaling.3"),
    ("mask_embed.layer_norm2", "mask_downscaling.4"),
    ("mask_embed.conv3", "mask_downscaling.6"),
    ("upscale_conv1", "output_upscaling.0"),
    ("upscale_layer_norm", "output_upscaling.1"),
    ("upscale_conv2", "output_upscaling.3"),
    ("layer_norm", "norm"),
    ("([0-9d])[.]layers.0.(weight|bias)$", r"\1.layers.1.\2"),
    ("proj_in", "layers.0"),
    ("(mlps.[0-9]|head).proj_out", r"\1.layers.2"),
)


def _hiera() -> dict[str, Any]:
    backbone = {
        "model_type": "sam2_hiera_det_model",
        "hidden_size": 8,
        "image_size": [SIDE, SIDE],
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 32, 64],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 4],
        "window_positional_embedding_background_size": [4, 4],
        "global_attention_blocks": [3],
    }
    return {
        "model_type": "sam2_vision_model",
        "backbone_config": backbone,
        "backbone_channel_list": [64, 32, 16, 8],
        "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        "fpn_hidden_size": 32,
    }


def sam2_model(seed: int = 0) -> Any:
    config = Sam2Config(vision_config=_hiera(), prompt_encoder_config=_PROMPTS, mask_decoder_config=_MASKS)
    return randomised(Sam2Model(config), seed)


def _memory(side: int, cells: int) -> dict[str, Any]:
    return {
        "image_size": side,
        "memory_attention_hidden_size": 32,
        "memory_attention_feed_forward_hidden_size": 32,
        "memory_attention_num_layers": 1,
        "memory_attention_num_attention_heads": 1,
        "memory_attention_rope_feat_sizes": [cells, cells],
        "memory_encoder_hidden_size": 32,
        "memory_encoder_output_channels": 16,
        "mask_downsampler_embed_dim": 32,
        "memory_fuser_embed_dim": 32,
        "memory_fuser_intermediate_dim": 32,
        "memory_fuser_num_layers": 1,
    }


def sam2_video_model(seed: int = 0) -> Any:
    config = Sam2VideoConfig(
        vision_config=_hiera(), prompt_encoder_config=_PROMPTS, mask_decoder_config=_MASKS, **_memory(SIDE, 4)
    )
    return randomised(Sam2VideoModel(config), seed)


def _vision3(scales: tuple[float, ...]) -> dict[str, Any]:
    backbone = {
        "model_type": "sam3_vit_model",
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "image_size": SIDE3,
        "patch_size": 14,
        "window_size": 4,
        "global_attn_indexes": [1],
        "pretrain_image_size": 56,
    }
    return {
        "model_type": "sam3_vision_model",
        "backbone_config": backbone,
        "fpn_hidden_size": 32,
        "backbone_feature_sizes": [[32, 32], [16, 16], [8, 8]],
        "scale_factors": list(scales),
    }


ALL_LEVELS = (4.0, 2.0, 1.0, 0.5)


def _detector3() -> dict[str, Any]:
    small = {"hidden_size": 32, "num_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {
        "model_type": "clip_text_model",
        "vocab_size": 64,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 16,
        "projection_dim": 16,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    return {
        "model_type": "sam3",
        "vision_config": _vision3(ALL_LEVELS),
        "text_config": text,
        "geometry_encoder_config": small,
        "detr_encoder_config": small,
        "detr_decoder_config": {"num_queries": 6, **small},
        "mask_decoder_config": {"hidden_size": 32, "num_attention_heads": 2},
    }


def _tracker3(scales: tuple[float, ...] = ALL_LEVELS) -> dict[str, Any]:
    prompts = {**_PROMPTS, "image_size": SIDE3, "patch_size": 14}
    return {"vision_config": _vision3(scales), "prompt_encoder_config": prompts, "mask_decoder_config": _MASKS}


def sam3_detector(seed: int = 0) -> Any:
    return randomised(Sam3Model(Sam3Config(**_detector3())), seed)


def sam3_tracker(seed: int = 0, scales: tuple[float, ...] = ALL_LEVELS) -> Any:
    return randomised(Sam3TrackerModel(Sam3TrackerConfig(**_tracker3(scales))), seed)


def sam3_both(seed: int = 0) -> Any:
    tracker = {"model_type": "sam3_tracker_video", **_tracker3(), **_memory(SIDE3, 8)}
    config = Sam3VideoConfig(detector_config=_detector3(), tracker_config=tracker)
    return randomised(Sam3VideoModel(config), seed)


def tokenizer() -> Any:
    """CLIP's, with letters for tokens."""
    letters = [letter + end for letter in string.ascii_lowercase for end in ("", "</w>")]
    vocab = {"<|startoftext|>": 0, "<|endoftext|>": 1} | {letter: i for i, letter in enumerate(letters, 2)}
    return CLIPTokenizer(vocab=vocab, merges=[])


def saved(model: Any, folder: Path) -> Path:
    model.save_pretrained(folder)
    if hasattr(model.config, "text_config"):
        tokenizer().save_pretrained(folder)
    return folder


def released(model: Any, folder: Path) -> Path:
    """SAM3 as its release names tensors: detector_model.*, tracker_model.*, tracker_neck.*."""
    folder.mkdir(parents=True)
    save_file(
        {k: v.contiguous() for k, v in model.state_dict().items()}, folder / "model.safetensors", {"format": "pt"}
    )
    (folder / "config.json").write_text(json.dumps(model.config.to_dict() | {"architectures": ["Sam3VideoModel"]}))
    tokenizer().save_pretrained(folder)
    return folder


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    """Blobs of colour, uint8 (H, W, 3)."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8)
    return np.ascontiguousarray(np.kron(coarse, np.ones((8, 8, 1), np.uint8))[:height, :width])
