"""Vision-language checkpoints of every local family, tiny, with random weights and a tokenizer of bytes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import (
    AutoModelForImageTextToText,
    CLIPImageProcessorPil,
    CLIPVisionConfig,
    GotOcr2ImageProcessorPil,
    InternVLConfig,
    InternVLVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaNextConfig,
    LlavaNextImageProcessorPil,
    PreTrainedTokenizerFast,
    Qwen2_5_VLConfig,
    Qwen2Config,
    Qwen2VLImageProcessorPil,
    Qwen3VLConfig,
)

__all__ = ["KINDS", "tiny_tokenizer", "write_tiny"]

KINDS = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava", "llava_next")

_SPECIAL = [
    "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>",
    "<img>", "</img>", "<IMG_CONTEXT>", "<image>", "[PAD]",
]  # fmt: skip


def tiny_tokenizer(template: str | None = None) -> PreTrainedTokenizerFast:
    """Bytes as tokens, then the special ones of all families."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    wrapped = PreTrainedTokenizerFast(tokenizer_object=tokenizer)
    wrapped.add_special_tokens({"additional_special_tokens": _SPECIAL, "pad_token": "[PAD]", "eos_token": "<|im_end|>"})
    wrapped.chat_template = template
    return wrapped


def _rope(*sections: int) -> dict[str, Any]:
    return {"rope_type": "default", "rope_theta": 1e4, "mrope_section": list(sections)}


def write_tiny(folder: Path, kind: str, *, template: str | None = None, seed: int = 0) -> Path:
    """A checkpoint that loads like a released one."""
    tokenizer = tiny_tokenizer(template)

    def token(name: str) -> int:
        return int(tokenizer.convert_tokens_to_ids(name))

    text: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 8192,
        "eos_token_id": token("<|im_end|>"),
        "bos_token_id": None,
    }
    processor: Any
    if kind == "qwen2_5_vl":
        config: Any = Qwen2_5_VLConfig(
            text_config=text | {"rope_parameters": _rope(1, 1, 2)},
            vision_config={
                "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32,
                "fullatt_block_indexes": [1], "patch_size": 14, "window_size": 56,
            },
            image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        )  # fmt: skip
        processor = Qwen2VLImageProcessorPil()
    elif kind == "qwen3_vl":
        config = Qwen3VLConfig(
            text_config=text | {"head_dim": 8, "rope_parameters": _rope(2, 1, 1)},
            vision_config={
                "depth": 2, "hidden_size": 32, "num_heads": 2, "intermediate_size": 48, "out_hidden_size": 32,
                "deepstack_visual_indexes": [0], "patch_size": 16, "num_position_embeddings": 64,
            },
            image_token_id=token("<|image_pad|>"), video_token_id=token("<|video_pad|>"),
            vision_start_token_id=token("<|vision_start|>"), vision_end_token_id=token("<|vision_end|>"),
        )  # fmt: skip
        processor = Qwen2VLImageProcessorPil(patch_size=16, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    elif kind == "internvl":
        config = InternVLConfig(
            vision_config=InternVLVisionConfig(
                hidden_size=32, num_hidden_layers=1, num_attention_heads=2, intermediate_size=48,
                image_size=[56, 56], patch_size=[14, 14],
            ),
            text_config=Qwen2Config(**text), image_token_id=token("<IMG_CONTEXT>"), image_seq_length=4,
        )  # fmt: skip
        processor = GotOcr2ImageProcessorPil(size={"height": 56, "width": 56})
    else:
        vision = CLIPVisionConfig(
            hidden_size=32, intermediate_size=48, num_hidden_layers=3, num_attention_heads=2, image_size=56,
            patch_size=14, projection_dim=32,
        )  # fmt: skip
        common = {"vision_config": vision, "text_config": LlamaConfig(**text), "image_token_index": token("<image>")}
        size = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
        if kind == "llava":
            config, processor = LlavaConfig(**common), CLIPImageProcessorPil(**size)
        else:
            grids = [[56, 112], [112, 56], [112, 112]]
            config = LlavaNextConfig(**common, image_grid_pinpoints=grids)
            processor = LlavaNextImageProcessorPil(**size, image_grid_pinpoints=grids)
    torch.manual_seed(seed)
    model = AutoModelForImageTextToText.from_config(config)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
