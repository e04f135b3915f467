"""What the local model families want: their picture tensors, their image tokens, their chat form."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from terraprompt.errors import CheckpointError
from terraprompt.vlm.conventions import Convention, Units, View
from terraprompt.vlm.qwen_vision import QwenVision

__all__ = ["SUPPORTED", "Family", "family_of"]

#: Model types that load here; by the names of transformers.
SUPPORTED = ("qwen2_5_vl", "qwen3_vl", "internvl", "llava", "llava_next")

Pictures = Callable[[NDArray[np.uint8]], tuple[dict[str, Tensor], int]]


@dataclass(frozen=True, slots=True)
class Family:
    """One family, made for one checkpoint.

    Attributes:
        kind: model type.
        token: that stands for a piece of the picture; a chat holds it once, and it is repeated.
        around: text before and after the repeated tokens.
        pictures: RGB uint8 (H, W, 3) to model inputs and the number of tokens.
        chat: a user's and an assistant's words to the family's own form, for tokenizers without a chat template.
        convention: the default.
        typed: the model wants to know which tokens are of the picture (``mm_token_type_ids``).
        seen: the size (height, width) that the model sees a picture of some size at; None = it takes squares only,
            whatever their side.
    """

    kind: str
    token: str
    around: tuple[str, str]
    pictures: Pictures
    chat: Callable[[list[tuple[str, str]]], str]
    convention: Convention
    typed: bool = False
    seen: Callable[[tuple[int, int]], tuple[int, int]] | None = None


def family_of(config: Any, folder: str, processor: Callable[[], Any]) -> Family:
    """The family of a checkpoint.

    Args:
        config: of the model.
        folder: of the checkpoint, for its picture settings.
        processor: loads the stock image processor of the checkpoint; called only where that is what is used.

    Raises:
        CheckpointError: a family that does not run here.
    """
    kind = config.model_type
    if kind in ("qwen2_5_vl", "qwen3_vl"):
        return _qwen(kind, config, folder)
    if kind == "internvl":
        return _internvl(config, processor())
    if kind in ("llava", "llava_next"):
        return _llava(kind, config, processor())
    raise CheckpointError(
        "This family of models does not run here.",
        received=kind,
        hint=f"Known: {', '.join(SUPPORTED)}. Serve others with vLLM or Ollama and use the endpoint.",
    )


def _qwen(kind: str, config: Any, folder: str) -> Family:
    vision = QwenVision.of(kind, config.vision_config, _stored(folder))

    def pictures(image: NDArray[np.uint8]) -> tuple[dict[str, Tensor], int]:
        patches, grid = vision.patches(image)
        tensors = {"pixel_values": torch.from_numpy(patches), "image_grid_thw": torch.tensor([grid])}
        return tensors, vision.tokens(grid)

    convention = Convention(Units.THOUSAND, vision.view)
    if kind == "qwen2_5_vl":
        convention = Convention(Units.PIXELS, View("square", side=840 // vision.factor * vision.factor))
    token = "<|image_pad|>"
    around = ("<|vision_start|>", "<|vision_end|>")
    return Family(kind, token, around, pictures, _chatml, convention, True, vision.view.size)


def _internvl(config: Any, processor: Any) -> Family:
    each = int(config.image_seq_length)

    def pictures(image: NDArray[np.uint8]) -> tuple[dict[str, Tensor], int]:
        made = processor(image, crop_to_patches=True, return_tensors="pt")
        pixels: Tensor = made["pixel_values"]
        return {"pixel_values": pixels}, each * len(pixels)

    convention = Convention(Units.THOUSAND, View("square", side=896))
    return Family("internvl", "<IMG_CONTEXT>", ("<img>", "</img>\n"), pictures, _chatml, convention)


def _llava(kind: str, config: Any, processor: Any) -> Family:
    def pictures(image: NDArray[np.uint8]) -> tuple[dict[str, Tensor], int]:
        made = processor(image, return_tensors="pt")
        tensors = {name: made[name] for name in ("pixel_values", "image_sizes") if name in made}
        return tensors, _llava_tokens(config, tensors)

    convention = Convention(Units.UNIT, View("square", side=672))
    return Family(kind, "<image>", ("", "\n"), pictures, _vicuna, convention)


def _llava_tokens(config: Any, tensors: dict[str, Tensor]) -> int:
    vision = config.vision_config
    side = int(vision.image_size) // int(vision.patch_size)
    classed: bool = "clip" in vision.model_type and "siglip" not in vision.model_type
    whole: int = side * side + int(classed) - int(config.vision_feature_select_strategy == "default")
    if "image_sizes" not in tensors:
        return whole
    # LLaVA-NeXT: the picture at the best of some fixed sizes, with a token after each row, and the whole picture once
    # more. A square on a square has no padding to be cut off.
    tiles = round((tensors["pixel_values"].shape[1] - 1) ** 0.5)
    if tiles * tiles + 1 != tensors["pixel_values"].shape[1]:
        raise CheckpointError("This checkpoint cuts a square picture into a grid that is not square.")
    rows = side * int(tiles)
    return rows * (rows + 1) + whole


def _stored(folder: str) -> dict[str, Any]:
    """Picture settings beside the weights, in either of the two places where they are kept."""
    for name in ("preprocessor_config.json", "processor_config.json"):
        path = Path(folder) / name
        if path.is_file():
            try:
                value = json.loads(path.read_text(encoding="utf-8"))
                return dict(value.get("image_processor", value))
            except (OSError, ValueError, TypeError, AttributeError) as error:
                raise CheckpointError(f"A settings file is damaged: {error}.", received=path) from None
    return {}


def _chatml(turns: list[tuple[str, str]]) -> str:
    said = "".join(f"<|im_start|>{who}\n{words}<|im_end|>\n" for who, words in turns)
    return f"{said}<|im_start|>assistant\n"


def _vicuna(turns: list[tuple[str, str]]) -> str:
    names = {"user": "USER", "assistant": "ASSISTANT"}
    return " ".join(f"{names[who]}: {words}" for who, words in turns) + " ASSISTANT:"
