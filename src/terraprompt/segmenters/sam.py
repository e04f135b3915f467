"""Points and boxes: what SAM, SAM-HQ, MobileSAM, SAM2 and SAM3's tracker have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from terraprompt.geometry.frame import Frame
from terraprompt.models.sam.lowered import Lowered
from terraprompt.models.sam.preprocess import PixelGrid
from terraprompt.models.sam.sam_hq import HqMaskDecoder
from terraprompt.prompt import Prompt
from terraprompt.segmenters.base import (
    BOXES,
    POINTS,
    SegmenterAnswer,
    SegmenterEmbedding,
    SegmenterInfo,
    checked_image,
    checked_prompt,
)

__all__ = ["VisualSegmenter", "decode", "image_batches", "prompts_together"]

_IMAGES = 4  # encoded together
#: SAM's prompt encoders count pixel centres in whole numbers and add a half themselves.
_HALF = 0.5
_SAM = ("sam", "mobile_sam")


@dataclass(frozen=True, slots=True)
class _View:
    frame: Frame
    parts: tuple[Tensor, ...]


class VisualSegmenter:
    """SAM, SAM-HQ or SAM2 of transformers, or MobileSAM.

    Args:
        model: ``SamModel``, ``SamHQModel``, ``Sam2Model``, ``MobileSam``; changed in place.
        grid: how images reach it.
        info: which weights.
        precision: dtype of the image encoder; prompts and masks are computed in float32.
        device: torch device.
        multimask: let the model propose three masks a prompt and keep the one it thinks best; for single, ambiguous
            clicks. None: for a lone click or a lone box. Otherwise it draws one.
    """

    reads = frozenset({POINTS, BOXES})

    def __init__(
        self,
        model: Any,
        grid: PixelGrid,
        info: SegmenterInfo,
        *,
        precision: torch.dtype = torch.float32,
        device: str = "cpu",
        multimask: bool | None = False,
    ) -> None:
        self.info = info
        self.grid = grid
        self.multimask = multimask
        self.device = torch.device(device)
        self.together = prompts_together(self.device)
        if model.config.model_type == "sam_hq":
            model.mask_decoder = HqMaskDecoder(model.mask_decoder)
        if precision != torch.float32:
            model.vision_encoder = Lowered(model.vision_encoder, precision)
        self.model: Any = model.to(self.device).eval()

    @torch.no_grad()
    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmenterEmbedding]:
        """Encode RGB uint8 images (H, W, 3) of any size."""
        out = []
        for pixels, frames in image_batches(images, self.grid):
            parts = _encoded(self.model, pixels.to(self.device))
            for i, frame in enumerate(frames):
                mine = tuple(part[i : i + 1].clone() for part in parts)
                out.append(SegmenterEmbedding(frame.source, _View(frame, mine), sum(p.nbytes for p in mine)))
        return out

    @torch.no_grad()
    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        """Answer prompts of points and at most one box each."""
        view: _View = embedding.data
        checked = [checked_prompt(prompt, embedding.size, self.reads) for prompt in prompts]
        return decode(
            self.model,
            view.parts,
            checked,
            view.frame,
            multimask=self.multimask,
            via_grid=self.grid.keep_aspect,
            together=self.together,
        )


def prompts_together(device: torch.device) -> int:
    """How many prompts to decode in one pass: on a CPU each of a batch is slower than one alone, caches being small."""
    return 1 if device.type == "cpu" else 32


def image_batches(images: Sequence[NDArray[np.uint8]], grid: PixelGrid) -> list[tuple[Tensor, list[Frame]]]:
    """Images as float32 (B, 3, size, size) with their frames, a few together.

    Raises:
        EngineError: not uint8 (height, width, 3).
    """
    checked = [checked_image(image) for image in images]
    batches = []
    for start in range(0, len(checked), _IMAGES):
        some = checked[start : start + _IMAGES]
        frames = [grid.frame((image.shape[0], image.shape[1])) for image in some]
        batches.append((torch.stack([grid.pixels(image) for image in some]), frames))
    return batches


def _encoded(model: Any, pixels: Tensor) -> tuple[Tensor, ...]:
    """What the mask decoder needs of images, each (B, …)."""
    found = model.get_image_embeddings(pixels)
    if model.config.model_type in _SAM:
        return (found,)
    if model.config.model_type == "sam_hq":
        image, intermediate = found
        return image, intermediate[0]  # the decoder looks at the first global block alone
    return tuple(found)


def _given(model: Any, parts: tuple[Tensor, ...]) -> dict[str, Any]:
    """Arguments of ``model.forward`` for what :func:`_encoded` left."""
    if model.config.model_type in _SAM:
        return {"image_embeddings": parts[0]}
    if model.config.model_type == "sam_hq":
        return {"image_embeddings": parts[0], "intermediate_embeddings": [parts[1]]}
    return {"image_embeddings": list(parts)}


def decode(
    model: nn.Module,
    parts: tuple[Tensor, ...],
    prompts: Sequence[Prompt],
    frame: Frame,
    *,
    multimask: bool | None,
    via_grid: bool,
    together: int,
) -> list[SegmenterAnswer]:
    """Answer checked prompts on one image that is already encoded.

    Args:
        model: of transformers; any of the SAM type.
        parts: its embedding of one image, each (1, …).
        prompts: in pixels of the image.
        frame: image to the model's grid.
        multimask: keep the best of three; None: for a lone click or a lone box, as in SAM's own export to ONNX.
        via_grid: masks reach the image by way of the padded grid (SAM), not at once (SAM2).
        together: prompts in one pass, at most.
    """
    given = _given(model, parts)
    answers: list[SegmenterAnswer | None] = [None] * len(prompts)
    # a padding point is not nothing to these models, so only prompts of one shape go through together
    alike: dict[tuple[int, bool], list[int]] = {}
    for i, prompt in enumerate(prompts):
        alike.setdefault((len(prompt.points), bool(prompt.boxes)), []).append(i)
    for (points, box), indexes in alike.items():
        three = points + box <= 1 if multimask is None else multimask
        for start in range(0, len(indexes), together):
            some = indexes[start : start + together]
            inputs = _prompt_tensors([prompts[i] for i in some], frame, parts[0].device)
            out = model(**given, **inputs, multimask_output=three)
            scores, best = out.iou_scores[0].float().max(dim=1)
            masks = out.pred_masks[0].float()[torch.arange(len(some), device=best.device), best]
            seen = out.get("object_score_logits")
            for k, i in enumerate(some):
                answers[i] = SegmenterAnswer(
                    _on_image(masks[k], frame, via_grid=via_grid),
                    float(scores[k]),
                    None if seen is None else float(seen[0, k].float().sigmoid()),
                )
    return [answer for answer in answers if answer is not None]


def _prompt_tensors(prompts: Sequence[Prompt], frame: Frame, device: torch.device) -> dict[str, Tensor]:
    """Prompts of one shape as points (1, P, N, 2), labels (1, P, N) and boxes (1, P, 4) on the model's grid."""
    tensors = {}
    if prompts[0].points:
        points = frame.points([p.points for p in prompts]) - _HALF
        tensors["input_points"] = torch.from_numpy(points).float()[None]
        tensors["input_labels"] = torch.tensor([p.labels for p in prompts])[None]
    if prompts[0].boxes:
        tensors["input_boxes"] = torch.from_numpy(frame.boxes([p.boxes[0] for p in prompts]) - _HALF).float()[None]
    return {key: value.to(device) for key, value in tensors.items()}


def _on_image(logits: Tensor, frame: Frame, *, via_grid: bool) -> NDArray[np.float32]:
    """(h, w) of the model to the image's own size."""
    low = logits[None, None]
    if via_grid:
        low = F.interpolate(low, size=frame.grid, mode="bilinear", align_corners=False)
        low = low[..., : frame.content[0], : frame.content[1]]
    full = F.interpolate(low, size=frame.source, mode="bilinear", align_corners=False)
    return np.ascontiguousarray(full[0, 0].cpu().numpy())
