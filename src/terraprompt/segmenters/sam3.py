"""SAM3: a text (and a box as example) finds all objects of a concept, points and a box outline one object.

Two models of transformers over one image encoder, which runs once an image: the detector (``Sam3Model``) for concepts,
the tracker (``Sam3TrackerModel``) for single objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from transformers.models.sam3.modeling_sam3 import Sam3VisionEncoderOutput

from terraprompt.errors import ConfigError, PromptError
from terraprompt.geometry.frame import Frame
from terraprompt.models.sam.lowered import Lowered
from terraprompt.models.sam.preprocess import PixelGrid
from terraprompt.models.sam.roi import roi_align
from terraprompt.prompt import Prompt
from terraprompt.segmenters.base import (
    BOXES,
    POINTS,
    TEXT,
    Instance,
    SegmenterAnswer,
    SegmenterEmbedding,
    SegmenterInfo,
    checked_prompt,
)
from terraprompt.segmenters.sam import decode, image_batches, prompts_together

__all__ = ["Sam3Segmenter"]

_TINY = 1e-6  # probabilities are kept this far from 0 and 1
_MASKS = 32  # instances brought to the image's size together


@dataclass(frozen=True, slots=True)
class _View:
    frame: Frame
    features: Tensor  # of the backbone, (1, D, h, w); the necks are cheap and large, so their output is not kept


class Sam3Segmenter:
    """SAM3 of transformers.

    A prompt with a text asks for every object of that concept; a box beside it is an example of it. A prompt with
    points or a box alone asks for one object. Every text costs a pass of the detector; points and boxes are batched.

    Args:
        detector: ``Sam3Model``, or None: no texts. Changed in place.
        tracker: ``Sam3TrackerModel``, or None: texts only. Changed in place. Its image encoder's backbone must hold the
            detector's weights, as in the release; only one of the two is kept.
        tokenizer: of the detector's text encoder.
        grid: how images reach both.
        info: which weights.
        precision: dtype of the image and the text encoder.
        device: torch device.
        threshold: an instance is kept if its confidence is higher (transformers' default; Meta's own demo uses 0.5).
        multimask: as for SAM, for points and boxes.
    """

    def __init__(
        self,
        detector: Any | None,
        tracker: Any | None,
        tokenizer: Any | None,
        grid: PixelGrid,
        info: SegmenterInfo,
        *,
        precision: torch.dtype = torch.float32,
        device: str = "cpu",
        threshold: float = 0.3,
        multimask: bool = False,
    ) -> None:
        if not 0 <= threshold <= 1:
            raise ConfigError("The threshold of instances lies between 0 and 1.", received=threshold)
        whole = detector if detector is not None else tracker
        if whole is None:
            raise ConfigError("SAM3 needs its detector, its tracker or both.")
        self.info = info
        self.grid = grid
        self.threshold = threshold
        self.multimask = multimask
        self.device = torch.device(device)
        self.together = prompts_together(self.device)
        self.precision = precision
        backbone = whole.vision_encoder.backbone
        self.backbone: Any = (backbone if precision == torch.float32 else Lowered(backbone, precision)).to(self.device)
        self.backbone.eval()
        self.detector, self.tracker, self.tokenizer = detector, tracker, tokenizer
        if detector is not None:
            detector.vision_encoder = _Neck(detector.vision_encoder.neck)
            if precision != torch.float32:
                detector.text_encoder = Lowered(detector.text_encoder, precision)
            geometry = detector.geometry_encoder
            geometry._encode_boxes = partial(_encode_boxes, geometry)
            detector.to(self.device).eval()
        if tracker is not None:
            vision = tracker.vision_encoder
            tracker.vision_encoder = _Neck(vision.neck, len(vision.config.backbone_feature_sizes))
            tracker.to(self.device).eval()
        both = {TEXT, BOXES} if detector is not None else set()
        self.reads = frozenset(both | ({POINTS, BOXES} if tracker is not None else set()))
        self._read = lru_cache(maxsize=256)(self._read_text)

    @torch.no_grad()
    def embed(self, images: Sequence[NDArray[np.uint8]]) -> list[SegmenterEmbedding]:
        """Encode RGB uint8 images (H, W, 3) of any size."""
        out = []
        for pixels, frames in image_batches(images, self.grid):
            tokens = self.backbone(pixels.to(self.device)).last_hidden_state
            side = round(tokens.shape[1] ** 0.5)
            features = tokens.transpose(1, 2).reshape(len(frames), -1, side, side).to(self.precision)
            for i, frame in enumerate(frames):
                mine = features[i : i + 1].clone()
                out.append(SegmenterEmbedding(frame.source, _View(frame, mine), mine.nbytes))
        return out

    @torch.no_grad()
    def predict(self, embedding: SegmenterEmbedding, prompts: Sequence[Prompt]) -> list[SegmenterAnswer]:
        """Answer prompts: texts by the detector, points and boxes by the tracker."""
        view: _View = embedding.data
        checked = [self._checked(prompt, embedding.size) for prompt in prompts]
        features = view.features.float()
        answers: dict[int, SegmenterAnswer] = {}
        spatial = [i for i, prompt in enumerate(checked) if prompt.text is None]
        if spatial and self.tracker is not None:
            parts = tuple(self.tracker.get_image_embeddings(features))
            found = decode(
                self.tracker,
                parts,
                [checked[i] for i in spatial],
                view.frame,
                multimask=self.multimask,
                via_grid=False,
                together=self.together,
            )
            answers.update(zip(spatial, found, strict=True))
        texts = [i for i, prompt in enumerate(checked) if prompt.text is not None]
        if texts and self.detector is not None:
            seen = self.detector.vision_encoder(features)
            answers.update((i, self._concept(seen, checked[i], embedding.size)) for i in texts)
        return [answers[i] for i in range(len(checked))]

    def _checked(self, prompt: Prompt, size: tuple[int, int]) -> Prompt:
        prompt = checked_prompt(prompt, size, self.reads)
        if prompt.text is not None and prompt.points:
            raise PromptError(
                "SAM3 takes a text or points, not both.",
                received=prompt.describe(),
                hint="Ask for the text first, then refine one of its instances by its box and points.",
            )
        if prompt.text is None and self.tracker is None:
            raise PromptError(
                "These SAM3 weights hold the detector alone, which needs a text.",
                received=prompt.describe(),
                hint='To find everything like a box, add the text "visual"; to outline one object, load weights with '
                "the tracker.",
            )
        return prompt

    def _concept(self, seen: Any, prompt: Prompt, size: tuple[int, int]) -> SegmenterAnswer:
        height, width = size
        text, attention = self._read(str(prompt.text))
        boxes = None
        if prompt.boxes:
            # the detector counts in shares of the image, centre and extent
            x0, y0, x1, y1 = prompt.boxes[0]
            centre = ((x0 + x1) / 2 / width, (y0 + y1) / 2 / height, (x1 - x0) / width, (y1 - y0) / height)
            boxes = torch.tensor([[centre]], device=self.device)
        assert self.detector is not None
        out = self.detector(
            vision_embeds=seen,
            text_embeds=text,
            attention_mask=attention,
            input_boxes=boxes,
        )
        presence = out.presence_logits[0].float().sigmoid()
        scores = out.pred_logits[0].float().sigmoid() * presence
        order = scores.argsort(descending=True)
        kept = order[scores[order] > self.threshold]
        scale = torch.tensor([width, height, width, height], device=self.device)
        corners = (out.pred_boxes[0, kept].float() * scale).cpu().tolist()
        best = torch.full(size, _TINY, device=self.device)
        instances = []
        for start in range(0, len(kept), _MASKS):
            # as transformers brings masks to an image: probabilities are resized, not logits
            some = out.pred_masks[:, kept[start : start + _MASKS]].float().sigmoid()
            some = F.interpolate(some, size=size, mode="bilinear", align_corners=False)[0]
            best = torch.maximum(best, some.amax(0))
            for k, share in enumerate(some, start):
                x0, y0, x1, y1 = corners[k]
                instances.append(Instance((share > 0.5).cpu().numpy(), float(scores[kept[k]]), (x0, y0, x1, y1)))
        logits = best.clamp(_TINY, 1 - _TINY).logit().cpu().numpy()
        return SegmenterAnswer(np.ascontiguousarray(logits), float(scores.max()), float(presence), tuple(instances))

    def _read_text(self, text: str) -> tuple[Any, Tensor]:
        """A text as the detector takes it, and its attention (1, L)."""
        assert self.detector is not None
        assert self.tokenizer is not None
        length = self.detector.config.text_config.max_position_embeddings
        read = self.tokenizer(text, return_tensors="pt", padding="max_length", max_length=length)
        if read.input_ids.shape[1] > length:
            raise PromptError(
                f"SAM3 reads at most {length} tokens.",
                received=f"{read.input_ids.shape[1]} tokens: {text}",
                hint='Name the thing in a few words, e.g. "white boats".',
            )
        attention = read.attention_mask.to(self.device)
        found = self.detector.get_text_features(
            input_ids=read.input_ids.to(self.device), attention_mask=attention, return_dict=True
        )
        return found, attention


class _Neck(nn.Module):
    """Stands where transformers expects the whole image encoder, behind a backbone that has already run.

    Args:
        neck: feature pyramid over the backbone's features.
        levels: how many of its levels, finest first, the model works on; None = all. The tracker works on one fewer
            than its released neck makes. transformers' image model forgets to drop the last one, then adds the "no
            memory" embedding to it, and so to nothing; its video model does it right, as here.
    """

    def __init__(self, neck: nn.Module, levels: int | None = None) -> None:
        super().__init__()
        self.neck = neck
        self.levels = levels

    def forward(self, pixel_values: Tensor, **_: Any) -> Any:
        """``pixel_values``: features of the backbone, (B, D, h, w)."""
        levels, positions = self.neck(pixel_values)
        return Sam3VisionEncoderOutput(
            fpn_hidden_states=levels[: self.levels], fpn_position_encoding=positions[: self.levels]
        )


def _encode_boxes(encoder: Any, boxes: Tensor, mask: Tensor, labels: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
    """Boxes (B, N, 4), cxcywh in shares of the image, to the detector's prompt tokens (B, N, D).

    A sum of four looks at a box: its numbers, what lies in it, where its centre is, and whether it is an example (1) or
    a counterexample (0). transformers does the same, but only beside torchvision.
    """
    batch, count = boxes.shape[:2]
    height, width = features.shape[-2:]
    centre, extent = boxes[..., :2], boxes[..., 2:]
    cells = torch.cat([centre - extent / 2, centre + extent / 2], dim=-1) * boxes.new_tensor([width, height] * 2)
    content = torch.cat([roi_align(f, c, encoder.roi_size) for f, c in zip(features, cells, strict=True)])
    x, y, w, h = boxes.flatten(0, 1).unbind(-1)
    place = encoder._encode_box_coordinates(x, y, w, h).view(batch, count, -1)
    tokens: Tensor = (
        encoder.boxes_direct_project(boxes)
        + encoder.boxes_pool_project(content).view(batch, count, -1)
        + encoder.boxes_pos_enc_project(place)
        + encoder.label_embed(labels.long())
    )
    return tokens, mask
