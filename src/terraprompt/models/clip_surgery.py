"""CLIP Surgery (arXiv 2304.05653): where in a picture a text-image model sees a phrase, without training.

Plain CLIP looks at the background: its last attention layers mix unlike regions, and all phrases share what no phrase
is about. Architecture surgery lets the last layers compare values with values, in a second path without feed-forward
blocks; feature surgery takes away what is shared. Written from the paper's formulas, on the networks of transformers.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, AutoTokenizer, CLIPModel, SiglipModel

from terraprompt.errors import CheckpointError, ConfigError, PromptError, SceneError
from terraprompt.io.hub import weights_folder
from terraprompt.models.clip_prompts import OVERHEAD_TEMPLATES

__all__ = ["ClipSurgery", "consistent_attention", "dual_path", "feature_surgery", "normalised", "upsampled"]

logger = logging.getLogger(__name__)

_Colours = tuple[Sequence[float], Sequence[float]]
_CLIP_COLOURS: _Colours = ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))  # mean, deviation
_SIGLIP_COLOURS: _Colours = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
_KEPT_PHRASES = 512
_FILES = ("*.json", "*.txt", "*.model", "*.safetensors")
# What transformers lets through of missing files, other formats and damaged weights.
_UNLOADABLE = (OSError, ValueError, KeyError, RuntimeError, SafetensorError, UnpicklingError)


def consistent_attention(attention: Any, states: Tensor) -> Tensor:
    """Self-attention in which values are queries and keys too: ``softmax(s V V^T) V`` (consistent self-attention).

    Args:
        attention: a CLIPAttention or SiglipAttention.
        states: (B, N, D), after the layer's first norm.

    Returns:
        (B, N, D), after the output projection.
    """
    batch, count, width = states.shape
    values = attention.v_proj(states).view(batch, count, attention.num_heads, -1).transpose(1, 2)
    mixed = F.scaled_dot_product_attention(values, values, values, scale=attention.scale)
    out: Tensor = attention.out_proj(mixed.transpose(1, 2).reshape(batch, count, width))
    return out


def dual_path(vision: Any, pixels: Tensor, layers: int) -> tuple[Tensor, Tensor]:
    """Architecture surgery: both paths through the last ``layers`` layers.

    With x the original path: the new one starts as x at the first of these layers and each of them adds
    ``consistent_attention(norm(x))``. It has no feed-forward block, and it reads x, not itself.

    Args:
        vision: a CLIPVisionModel or SiglipVisionModel.
        pixels: (B, 3, H, W) normalised; sides are multiples of the patch; position embeddings are interpolated.
        layers: how many of the last layers have two paths; 0 returns the original path twice.

    Returns:
        new and original path, (B, N, D) each, before the last norm; CLIP has a class token first, SigLIP none.
    """
    x = vision.embeddings(pixels, interpolate_pos_encoding=True)
    if hasattr(vision, "pre_layrnorm"):  # spelt so in transformers; SigLIP has none
        x = vision.pre_layrnorm(x)
    blocks = list(vision.encoder.layers)
    new = x
    for number, block in enumerate(blocks):
        states = block.layer_norm1(x)
        if number >= len(blocks) - layers:
            new = new + consistent_attention(block.self_attn, states)
        x = x + block.self_attn(states, attention_mask=None)[0]
        x = x + block.mlp(block.layer_norm2(x))
        if number < len(blocks) - layers:
            new = x
    return new, x


def feature_surgery(image: Tensor, text: Tensor, redundant: Tensor | None = None, *, sharpness: float = 2.0) -> Tensor:
    """Similarity of tokens and phrases without what the phrases share.

    With ``redundant``: ``image (text - redundant)^T``. Without: products of features are weighed by
    ``w = p / mean(p)``, ``p = softmax(sharpness * class_token text^T)`` over the phrases, and their mean over the
    phrases is taken away. The sum over channels is linear, so both happen on similarities, not on (B, N, T, C) arrays.

    Args:
        image: (B, N, C) unit features; the first token stands for the whole image.
        text: (T, C) unit features; without ``redundant`` at least 2 phrases, as one shares all with itself.
        redundant: (1, C) features of what no phrase is about, such as the empty text.
        sharpness: of the softmax over the phrases.

    Returns:
        (B, N, T).
    """
    if redundant is not None:
        return image @ (text - redundant).T
    similarity = image @ text.T
    share = (sharpness * similarity[:, :1]).softmax(dim=-1)
    weighed = similarity * share / share.mean(dim=-1, keepdim=True)
    return weighed - weighed.mean(dim=-1, keepdim=True)


def normalised(similarity: NDArray[np.float32]) -> NDArray[np.float32]:
    """(…, h, w) to 0..1 per map by its least and greatest value; a map without contrast becomes all 0."""
    low = similarity.min(axis=(-2, -1), keepdims=True)
    span = similarity.max(axis=(-2, -1), keepdims=True) - low
    out: NDArray[np.float32] = np.divide(similarity - low, span, out=np.zeros_like(similarity), where=span > 0)
    return out


def upsampled(similarity: NDArray[np.float32], size: tuple[int, int]) -> NDArray[np.float32]:
    """(B, T, h, w) to (B, T, *size), bilinear; ``size`` is (height, width) of the pictures."""
    grown = F.interpolate(torch.from_numpy(similarity), size, mode="bilinear", align_corners=False)
    out: NDArray[np.float32] = grown.numpy()
    return out


class ClipSurgery:
    """A text-image model that says where a phrase is.

    Args:
        model: CLIPModel or SiglipModel.
        tokenizer: of the same checkpoint.
        colours: mean and deviation of red, green, blue (0..1) that the model was trained with.
        layers: how many of the last vision layers have a consistent path; the paper's depth on 12 layers leaves 6.
        templates: sentences with one ``{}``; their mean is the phrase's feature.

    SigLIP has neither class token nor linear projection: each patch goes alone through the value path of its attention
    pool, and the pooled feature stands for the whole image. The paper does not cover SigLIP.

    Raises:
        ConfigError: ``layers`` or ``templates`` out of range.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        colours: _Colours = _CLIP_COLOURS,
        layers: int = 6,
        templates: Sequence[str] = OVERHEAD_TEMPLATES,
    ) -> None:
        depth = len(model.vision_model.encoder.layers)
        if not 0 <= layers <= depth:
            raise ConfigError(
                "The number of consistent layers is out of range.", received=layers, hint=f"The model has {depth}."
            )
        if not templates or any(template.count("{}") != 1 for template in templates):
            raise ConfigError("Each template needs {} exactly once, for the phrase.", received=list(templates))
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.layers = layers
        self.templates = tuple(templates)
        self._mean, self._deviation = (torch.tensor(c).view(3, 1, 1) for c in colours)
        self._phrases: dict[str, Tensor] = {}

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
        layers: int = 6,
        templates: Sequence[str] = OVERHEAD_TEMPLATES,
        revision: str | None = None,
    ) -> ClipSurgery:
        """A public checkpoint in transformers' layout, such as ``openai/clip-vit-base-patch16``.

        Args:
            name_or_folder: ``owner/name`` on the hub, or a folder with config, weights and tokenizer.
            device: where to run.
            dtype: float32 or bfloat16; similarities are float32 in any case.
            layers: as for the class.
            templates: as for the class.
            revision: commit or tag on the hub.

        Raises:
            CheckpointError: missing, incomplete, or neither CLIP nor SigLIP.
            ConfigError: ``dtype``, ``layers`` or ``templates`` out of range.
        """
        if dtype not in (torch.float32, torch.bfloat16):
            raise ConfigError("CLIP Surgery runs in float32 or bfloat16.", received=dtype)
        source = str(name_or_folder)
        folder = _folder(source, revision)
        try:
            config = AutoConfig.from_pretrained(folder, local_files_only=True)
            kinds = {"clip": (CLIPModel, _CLIP_COLOURS), "siglip": (SiglipModel, _SIGLIP_COLOURS)}
            if config.model_type not in kinds:
                raise CheckpointError(
                    "The checkpoint is neither CLIP nor SigLIP.",
                    received=f"{source}: {config.model_type}",
                    hint="Use openai/clip-vit-base-patch16, another CLIP ViT, or google/siglip-base-patch16-224.",
                )
            kind, colours = kinds[config.model_type]
            tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
            model, report = kind.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
            colours = _colours(folder) or colours
        except _UNLOADABLE as error:
            raise CheckpointError(
                "The text-image model cannot be loaded.",
                received=f"{source}: {(str(error).strip() or repr(error)).splitlines()[0]}",
                hint="Give a folder with config.json, model.safetensors and the tokenizer's files.",
            ) from error
        if missing := sorted(report["missing_keys"]):  # transformers would go on with random numbers
            raise CheckpointError(
                "The checkpoint lacks weights.", received=f"{source} without {missing[:3]} ({len(missing)} in all)"
            )
        if len(tokenizer) < 4:  # transformers makes an empty tokenizer where its files are missing
            raise CheckpointError(
                "The checkpoint has no tokenizer.",
                received=source,
                hint="Add tokenizer.json or vocab.json, merges.txt.",
            )
        return cls(model.to(device), tokenizer, colours=colours, layers=layers, templates=templates)

    @property
    def patch(self) -> int:
        """Side of a patch, pixels."""
        return int(self.model.config.vision_config.patch_size)

    def grid(self, size: int | tuple[int, int] = 512) -> tuple[int, int]:
        """(h, w) of the similarity maps for pictures stretched to ``size``: whole patches, at least one.

        Raises:
            ConfigError: a side is under 1.
        """
        height, width = (size, size) if isinstance(size, int) else size
        if height < 1 or width < 1:
            raise ConfigError("The model's grid must be at least 1 x 1 pixels.", received=size)
        return max(1, height // self.patch), max(1, width // self.patch)

    @torch.inference_mode()
    def similarity(
        self,
        images: Sequence[NDArray[np.uint8]],
        phrases: Sequence[str],
        *,
        size: int | tuple[int, int] = 512,
        redundant: str | None = "",
        batch: int = 8,
    ) -> NDArray[np.float32]:
        """Raw similarity of each patch with each phrase; see :func:`normalised` and :func:`upsampled`.

        Args:
            images: uint8 RGB (H, W, 3) each; sizes may differ, any from 1 x 1.
            phrases: noun phrases.
            size: side, or (height, width), that every image is stretched to, bicubic; cut to whole patches.
            redundant: text whose features are taken away; None takes away what the phrases share (two at least).
            batch: images at a time.

        Returns:
            float32 (B, T, h, w), not normalised.

        Raises:
            SceneError: an image is not uint8 (H, W, 3).
            PromptError: no phrase, a blank one, or one alone without ``redundant``.
            ConfigError: ``size`` or ``batch`` under 1.
        """
        if not phrases or not all(phrase.strip() for phrase in phrases):
            raise PromptError("A phrase is missing or blank.", received=list(phrases), hint="Name what to look for.")
        if redundant is None and len(phrases) < 2:
            raise PromptError(
                "One phrase alone shares everything with itself.",
                received=list(phrases),
                hint="Give a second phrase, or a redundant text (the empty one is the default).",
            )
        if batch < 1:
            raise ConfigError("A batch holds at least one image.", received=batch)
        rows, columns = self.grid(size)
        text = self.text_features(phrases)
        shared = None if redundant is None else self.text_features([redundant])
        maps = [np.zeros((0, len(phrases), rows, columns), np.float32)]
        for start in range(0, len(images), batch):
            features = self.image_features(images[start : start + batch], size=size)
            patches = feature_surgery(features, text, shared)[:, 1:]
            maps.append(patches.transpose(1, 2).reshape(len(features), -1, rows, columns).cpu().numpy())
        return np.concatenate(maps)

    @torch.inference_mode()
    def image_features(self, images: Sequence[NDArray[np.uint8]], *, size: int | tuple[int, int] = 512) -> Tensor:
        """float32 (B, 1 + h w, C) unit features in the joint space: the whole image by the original path, then patches.

        Raises:
            SceneError: an image is not uint8 (H, W, 3).
            ConfigError: ``size`` under 1.
        """
        vision = self.model.vision_model
        pixels = torch.stack([self._pixels(image, self.grid(size)) for image in images])
        new, original = dual_path(vision, pixels.to(self.model.device, self.model.dtype), self.layers)
        new, original = vision.post_layernorm(new), vision.post_layernorm(original)
        if hasattr(self.model, "visual_projection"):
            features = self.model.visual_projection(torch.cat([original[:, :1], new[:, 1:]], dim=1))
        else:
            features = torch.cat([vision.head(original)[:, None], _pooled_alone(vision.head, new)], dim=1)
        return F.normalize(features.float(), dim=-1)

    @torch.inference_mode()
    def text_features(self, phrases: Sequence[str]) -> Tensor:
        """float32 (T, C) unit features: the mean over the templates' unit features, made unit again."""
        for phrase in phrases:
            if phrase not in self._phrases:
                if len(self._phrases) >= _KEPT_PHRASES:
                    self._phrases.clear()
                sentences = [template.replace("{}", phrase.strip()) for template in self.templates]
                self._phrases[phrase] = F.normalize(self._encoded(sentences).mean(dim=0), dim=-1)
        return torch.stack([self._phrases[phrase] for phrase in phrases])

    def _encoded(self, sentences: list[str]) -> Tensor:
        """float32 (S, C) unit features of whole sentences."""
        projects = hasattr(self.model, "text_projection")
        room = int(self.model.config.text_config.max_position_embeddings)
        if (longest := max(len(ids) for ids in self.tokenizer(sentences)["input_ids"])) > room:
            logger.warning("A phrase of %d tokens is cut to %d: %r", longest, room, sentences[0])
        tokens = self.tokenizer(
            sentences,
            padding=True if projects else "max_length",  # SigLIP was trained on full length and reads the last token
            truncation=True,
            max_length=room,
            return_tensors="pt",
        ).to(self.model.device)
        mask = tokens["attention_mask"] if projects else None
        features = self.model.text_model(input_ids=tokens["input_ids"], attention_mask=mask).pooler_output
        if projects:
            features = self.model.text_projection(features)
        return F.normalize(features.float(), dim=-1)

    def _pixels(self, image: NDArray[np.uint8], grid: tuple[int, int]) -> Tensor:
        """(3, h patch, w patch) float32, stretched and normalised."""
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
            raise SceneError(
                "CLIP Surgery needs a uint8 RGB picture (H, W, 3).",
                received=f"{image.dtype} {image.shape}",
                hint="Choose three bands and stretch them to 8 bit first.",
            )
        wanted = (grid[1] * self.patch, grid[0] * self.patch)
        resized = Image.fromarray(np.ascontiguousarray(image)).resize(wanted, Image.Resampling.BICUBIC)
        pixels = torch.from_numpy(np.array(resized)).permute(2, 0, 1).float() / 255
        return (pixels - self._mean) / self._deviation


def _pooled_alone(head: Any, tokens: Tensor) -> Tensor:
    """SigLIP's attention pool for each token by itself: one key, so its weight is 1 and query and key do not matter."""
    pool = head.attention
    width = tokens.shape[-1]
    values = F.linear(tokens, pool.in_proj_weight[2 * width :], pool.in_proj_bias[2 * width :])
    values = pool.out_proj(values)
    out: Tensor = values + head.mlp(head.layernorm(values))
    return out


def _folder(source: str, revision: str | None) -> Path:
    """The folder of a checkpoint, downloaded if need be; of weights in several formats only one."""
    more: dict[str, Any] = {
        "revision": revision,
        "what": "text-image model is",
        "otherwise": "The engine geoseg works without it: leave --similarity out.",
    }
    folder = weights_folder(source, patterns=_FILES, **more)
    if not Path(source).is_dir() and not any(folder.glob("*.safetensors")):
        # Old releases have only this; it is read without running what is in it.
        folder = weights_folder(source, patterns=(*_FILES, "pytorch_model.bin"), **more)
    return folder


def _colours(folder: Path) -> _Colours | None:
    """Mean and deviation from the checkpoint's ``preprocessor_config.json``, None where it has none."""
    path = folder / "preprocessor_config.json"
    if not path.is_file():
        return None
    said = json.loads(path.read_text())
    return (said["image_mean"], said["image_std"]) if {"image_mean", "image_std"} <= said.keys() else None
