"""The UniGeoSeg network: images and instructions to mask logits."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn

from terraprompt.errors import ConfigError
from terraprompt.models.unigeoseg.causal import CausalReader, Context, Dialogue, Reading
from terraprompt.models.unigeoseg.config import UniGeoSegConfig
from terraprompt.models.unigeoseg.dense_prompt import DensePrompt
from terraprompt.models.unigeoseg.mask_decoder import MaskDecoder
from terraprompt.models.unigeoseg.memory import LatentMemory
from terraprompt.models.unigeoseg.pixel_decoder import PixelDecoder, PixelFeatures
from terraprompt.models.unigeoseg.query_head import QueryHead
from terraprompt.models.unigeoseg.tate import AttentionPool, MeanPool, TextEnhancement
from terraprompt.models.unigeoseg.vision import build_vision

__all__ = ["Context", "Dialogue", "Instructions", "PixelFeatures", "Prediction", "UniGeoSeg"]


@dataclass(frozen=True, slots=True)
class Instructions:
    """M instructions about B images, as tensors, for members that read with a sentence encoder.

    Attributes:
        states: (M, L, D) token states of the sentence encoder.
        mask: bool (M, L), True for real tokens.
        task: int64 (M,), see ``TASK_INDEX``.
        coordinates: (M, rows, 4) in [0, 1] of the image, zero where absent.
        image: int64 (M,), the image that each is about.
    """

    states: Tensor
    mask: Tensor
    task: Tensor
    coordinates: Tensor
    image: Tensor

    def to(self, device: torch.device | str) -> Instructions:
        """The same on another device."""
        moved = {name: getattr(self, name).to(device, non_blocking=True) for name in self.__slots__}
        return replace(self, **moved)


class Prediction(NamedTuple):
    """Mask logits and presence of each instruction.

    Attributes:
        logits: one (M, h, w) per prediction at stride 4; the last one is the answer.
        presence: (M,) logit that there is any target, or None for members without that head.
    """

    logits: list[Tensor]
    presence: Tensor | None


class UniGeoSeg(nn.Module):
    """A member of the family; parts follow the config.

    :meth:`encode_image`, :meth:`decode_pixels` and :meth:`open` depend on the image alone, so a session keeps their
    outputs; :meth:`encode_text` and :meth:`predict_masks` depend on the instruction. Instructions are
    :class:`Instructions` where a sentence encoder outside has read them, or a :class:`Dialogue` for the causal reader
    inside.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, config: UniGeoSegConfig) -> None:
        super().__init__()
        self.config = config
        width, language = config.pixel_decoder.width, config.language_width
        self.register_buffer("mean", torch.tensor(config.vision.mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(config.vision.std).view(1, 3, 1, 1), persistent=False)
        self.vision = build_vision(config.vision)
        self.reader = CausalReader(config) if config.language == "causal" else None
        self.pixel_decoder = PixelDecoder(config.pixel_decoder, config.vision.channels)
        self.tate = TextEnhancement(language, config.tate) if config.tate else None
        self.pool: AttentionPool | MeanPool = AttentionPool(language) if config.pool == "attention" else MeanPool()
        self.memory = LatentMemory(language, config.memory) if config.memory else None
        self.query_head = QueryHead(language, config.vision.channels[-1], width, config.query_head)
        self.mask_decoder = MaskDecoder(width, config.mask_decoder)
        self.presence = nn.Linear(width, 1) if config.mask_decoder.presence else None
        self.dense_prompt = DensePrompt(config.dense_prompt, width) if config.dense_prompt else None

    def encode_image(self, images: Tensor) -> list[Tensor]:
        """RGB on 0..255 (B, 3, H, W), H and W multiples of 32 -> res2..res5."""
        x = (images.float() - self.mean) / self.std
        features: list[Tensor] = self.vision(x.to(next(self.vision.parameters()).dtype))
        return [f.float() for f in features[-4:]]

    def decode_pixels(
        self, features: Sequence[Tensor], points: Tensor | None = None, boxes: Tensor | None = None
    ) -> PixelFeatures:
        """res2..res5 to pixel features, with the points and boxes of each image drawn in.

        Args:
            features: from :meth:`encode_image`.
            points: (B, P, 3) x, y in model pixels, label; -1 = absent.
            boxes: (B, 4) in model pixels; no area = absent.
        """
        prompt = None
        if self.dense_prompt is not None and points is not None and boxes is not None:
            height, width = features[0].shape[-2:]
            prompt = self.dense_prompt(points, boxes, (height * 4, width * 4))
        decoded: PixelFeatures = self.pixel_decoder(features, prompt)
        return decoded

    def begin(self, prefix: Tensor) -> Context:
        """What the causal reader keeps of the words before every image; see :meth:`CausalReader.begin`."""
        return self._causal().begin(prefix)

    def open(self, res5: Tensor, begun: Context) -> Context:
        """What the causal reader keeps of each of B images, read after that; see :meth:`CausalReader.open`."""
        return self._causal().open(res5, begun)

    def read(
        self,
        dialogue: Dialogue,
        res5: Tensor | None,
        *,
        after: Sequence[Context] | None = None,
        template: bool = True,
    ) -> Reading:
        """States of a dialogue; see :meth:`CausalReader.forward`."""

        def enhance(tokens: Tensor, mask: Tensor) -> Tensor:
            assert self.tate is not None
            tokens = tokens.to(self.tate.fuse.weight.dtype)
            enhanced: Tensor = self.tate(tokens, mask, dialogue.task, dialogue.coordinates, self.pool)
            return enhanced

        reading: Reading = self._causal()(
            dialogue, res5, enhance if self.tate is not None else None, after=after, template=template
        )
        return reading

    def encode_text(self, instructions: Instructions | Dialogue, res5: Tensor) -> Tensor:
        """Instructions to mask queries (M, C)."""
        task, image = instructions.task, instructions.image
        if isinstance(instructions, Dialogue):
            return self.predict_query(self.read(instructions, res5).states, instructions.refer, task, res5, image)
        states, mask = instructions.states, instructions.mask
        if self.tate is not None:
            states = self.tate(states, mask, task, instructions.coordinates, self.pool)
        return self.predict_query(states, mask, task, res5, image)

    def predict_query(self, states: Tensor, mask: Tensor, task: Tensor, res5: Tensor, image: Tensor) -> Tensor:
        """States (M, L, D) of instructions, pooled where ``mask`` (M, L) is True, to mask queries (M, C)."""
        states = states.to(self.query_head.skip.weight.dtype)
        if self.memory is not None and self.memory_scope == "tokens":
            states = self.memory(states, task)
        pooled = self.pool(states, mask)[:, 0]
        if self.memory is not None and self.memory_scope == "pooled":
            pooled = self.memory(pooled, task)
        query: Tensor = self.query_head(pooled, res5, image)
        return query

    def _causal(self) -> CausalReader:
        if self.reader is None:
            raise ConfigError("This member reads with a sentence encoder.", received=self.config.name)
        return self.reader

    def in_precision(self, dtype: torch.dtype) -> UniGeoSeg:
        """Vision and language in ``dtype``; the small decoders, which lose masks to rounding, stay in float32."""
        for part in (self.vision, self.reader):
            if part is not None:
                part.to(dtype)
        return self

    @property
    def memory_scope(self) -> str | None:
        """Where the memory acts, or None without memory."""
        return self.config.memory.scope if self.config.memory else None

    def predict_masks(self, query: Tensor, pixels: PixelFeatures, image: Tensor | None) -> Prediction:
        """Queries (M, C) about ``image`` (M,) to masks; None = one of each image, in order."""
        drawing = self.mask_decoder(query, pixels, image)
        presence = self.presence(drawing.query)[:, 0] if self.presence is not None else None
        return Prediction(drawing.logits, presence)

    def forward(
        self,
        images: Tensor,
        instructions: Instructions | Dialogue,
        points: Tensor | None = None,
        boxes: Tensor | None = None,
    ) -> Prediction:
        """All of it at once, for training: images (B, 3, H, W) on 0..255, prompts as in :meth:`decode_pixels`."""
        features = self.encode_image(images)
        pixels = self.decode_pixels(features, points, boxes)
        return self.predict_masks(self.encode_text(instructions, features[-1]), pixels, instructions.image)
