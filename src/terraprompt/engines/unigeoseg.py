"""The engine of the UniGeoSeg family: encode with the vision half, answer with the language half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.engines.weights import load_weights, packaged
from terraprompt.errors import CheckpointError, ConfigError, EngineError
from terraprompt.language.categories import training_vocabulary
from terraprompt.language.interactive import spatial_instruction
from terraprompt.models.sentence import SentenceEncoder, packaged_sentence_encoder
from terraprompt.models.unigeoseg import Instructions, PixelFeatures, UniGeoSeg, UniGeoSegConfig
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Prompt, Task

__all__ = ["UniGeoSegEngine", "nano"]

_POINTS = 6


class _View:
    """What one image left behind: features, and pixel features once a text has asked for them."""

    __slots__ = ("features", "pixels")

    def __init__(self, features: list[Tensor]) -> None:
        self.features = features
        self.pixels: PixelFeatures | None = None


class UniGeoSegEngine:
    """Runs a member of the family that reads with a sentence encoder.

    Args:
        model: in eval mode on ``device``.
        encoder: reads instructions.
        info: which weights.
        device: torch device.
        tile: how scenes are cut.
        name: under which it answers.
    """

    tasks = frozenset(Task)

    def __init__(
        self,
        model: UniGeoSeg,
        encoder: SentenceEncoder,
        info: ModelInfo,
        *,
        device: str = "cpu",
        tile: TileSpec | None = None,
        name: str = "unigeoseg",
    ) -> None:
        self.name = name
        self.model = model.to(device).eval()
        self.encoder = encoder.on(device)
        self.info = info
        self.device = torch.device(device)
        self.tile = tile or TileSpec(size=512, overlap=192, multiple=32, batch=2, focus=256)
        self.vocabulary: tuple[str, ...] = ()
        self._read = lru_cache(maxsize=256)(self._read_text)

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3); images of one size go through together."""
        out: list[Embedding | None] = [None] * len(images)
        by_size: dict[tuple[int, int], list[int]] = {}
        for i, image in enumerate(images):
            if image.ndim != 3 or image.shape[2] != 3 or image.size == 0 or image.dtype != np.uint8:
                raise EngineError("An image must be uint8 (height, width, 3).", received=(image.dtype, image.shape))
            by_size.setdefault(image.shape[:2], []).append(i)
        for (height, width), indexes in by_size.items():
            stack = np.stack([images[i] for i in indexes])
            x = torch.from_numpy(stack).to(self.device).permute(0, 3, 1, 2).float()
            x = F.pad(x, (0, -width % self.tile.multiple, 0, -height % self.tile.multiple), mode="replicate")
            features = self.model.encode_image(x)
            for k, i in enumerate(indexes):
                out[i] = self._embedding((height, width), [f[k : k + 1].clone() for f in features])
        return [e for e in out if e is not None]

    @torch.inference_mode()
    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``; coordinates in pixels of that image."""
        if len(embeddings) != len(prompts):
            raise EngineError("Every prompt needs an embedding.", received=(len(embeddings), len(prompts)))
        return [self._answer(e, p) for e, p in zip(embeddings, prompts, strict=True)]

    def _answer(self, embedding: Embedding, prompt: Prompt) -> Answer:
        if prompt.crs is not None:
            raise EngineError("An engine takes pixel coordinates.", received=prompt.crs)
        view: _View = embedding.data
        height, width = embedding.size
        if prompt.is_spatial:
            points, box = self._spatial(prompt)
            pixels = self.model.decode_pixels(view.features, points, box)
        else:
            if view.pixels is None:
                view.pixels = self.model.decode_pixels(view.features)
            pixels = view.pixels
        image = torch.zeros(1, dtype=torch.int64, device=self.device)
        states, mask = self._read(prompt.text or spatial_instruction(np.random.default_rng(0), box=bool(prompt.boxes)))
        task = torch.tensor([TASK_INDEX[prompt.task]], device=self.device)
        rows = self._rows(prompt, width, height)
        query = self.model.encode_text(Instructions(states, mask, task, rows, image), view.features[-1])
        prediction = self.model.predict_masks(query, pixels, image)
        logits = F.interpolate(
            prediction.logits[-1][:, None].float(), scale_factor=4, mode="bilinear", align_corners=False
        )
        presence = None if prediction.presence is None else float(prediction.presence.float().sigmoid())
        return Answer(np.ascontiguousarray(logits[0, 0, :height, :width].cpu().numpy()), presence)

    def is_word(self, word: str) -> bool:
        """Whether the sentence encoder knows a word as a whole."""
        return self.encoder.tokenizer.token_to_id(word) is not None

    def pack(self, embedding: Embedding) -> dict[str, NDArray[Any]]:
        """Features as float32 arrays, for the disk; what follows from them is not kept."""
        return {f"res{i + 2}": f.cpu().numpy() for i, f in enumerate(embedding.data.features)}

    def unpack(self, size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> Embedding:
        """The inverse of :meth:`pack`."""
        return self._embedding(size, [torch.from_numpy(arrays[f"res{i + 2}"]).to(self.device) for i in range(4)])

    def _embedding(self, size: tuple[int, int], features: list[Tensor]) -> Embedding:
        # the pixel decoder's output, kept from the first text on, is counted in advance
        pixels = self.model.config.pixel_decoder.width * 4 * features[0].shape[-1] * features[0].shape[-2] * 4 // 3
        return Embedding(size, _View(features), sum(f.numel() * f.element_size() for f in features) + pixels)

    def _read_text(self, text: str) -> tuple[Tensor, Tensor]:
        states, mask = self.encoder([text])
        return states.to(self.device), mask.to(self.device)

    def _spatial(self, prompt: Prompt) -> tuple[Tensor, Tensor]:
        if len(prompt.boxes) > 1:
            raise EngineError(
                "An engine takes one target a prompt.",
                received=f"{len(prompt.boxes)} boxes",
                hint="Use Prompt.objects().",
            )
        points = torch.zeros(1, max(_POINTS, len(prompt.points)), 3)
        points[..., 2] = -1
        for i, ((x, y), label) in enumerate(zip(prompt.points, prompt.labels, strict=True)):
            points[0, i] = torch.tensor([x, y, float(label)])
        box = torch.tensor([prompt.boxes[0] if prompt.boxes else (0.0, 0.0, 0.0, 0.0)])
        return points.to(self.device), box.to(self.device)

    def _rows(self, prompt: Prompt, width: int, height: int) -> Tensor:
        rows = torch.zeros(1, 3, 4)
        if prompt.boxes:
            rows[0, 0] = torch.tensor(prompt.boxes[0]) / torch.tensor([width, height, width, height])
        else:
            positive = [p for p, v in zip(prompt.points, prompt.labels, strict=True) if v == 1]
            for i, (x, y) in enumerate(positive[:3]):
                rows[0, i, :2] = torch.tensor([x / width, y / height])
        return rows.to(self.device)


def described(card: Mapping[str, Any], path: Path) -> UniGeoSegConfig:
    """The architecture that the card of the weights at ``path`` names; settings that are younger than it by default.

    Raises:
        CheckpointError: it names none.
    """
    try:
        return UniGeoSegConfig.from_dict(card["model"])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            "The weights' card is damaged: it does not describe a UniGeoSeg model.", received=f"{path}: {error}"
        ) from error


def build(path: Path, *, name: str, device: str = "cpu", encoder: SentenceEncoder | None = None) -> UniGeoSegEngine:
    """An engine from ``path`` (safetensors beside its JSON card).

    Raises:
        CheckpointError: damaged files, or weights of another architecture.
    """
    state, card = load_weights(path)
    config = described(card, path)
    model = UniGeoSeg(config)
    try:
        model.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise CheckpointError("The weights are of another architecture.", received=f"{path}: {error}") from error
    try:
        gsd = tuple(map(float, card.get("gsd_m", ())))
    except (TypeError, ValueError) as error:
        raise CheckpointError("The weights' card is damaged.", received=f"{path}: gsd_m {card['gsd_m']}") from error
    info = ModelInfo(
        name, str(card.get("revision", "")), str(card["sha256"]), {"precision": "fp32", "device": device},
        (gsd[0], gsd[1]) if len(gsd) == 2 else None, str(card.get("gsd_note", "")),
    )  # fmt: skip
    engine = UniGeoSegEngine(model, encoder or packaged_sentence_encoder(), info, device=device, name=name)
    engine.vocabulary = _categories(card, path)
    return engine


def _categories(card: Mapping[str, Any], path: Path) -> tuple[str, ...]:
    """Categories that the card says were learnt; all of the training vocabulary where it says nothing."""
    known = training_vocabulary().categories
    named = card.get("categories", list(known))
    if not isinstance(named, list) or not named or set(map(str, named)) - set(known):
        raise CheckpointError("The weights' card is damaged.", received=f"{path}: categories {named}")
    return tuple(name for name in known if name in named)


def nano(*, device: str = "cpu", weights: str | Path | None = None, **unknown: Any) -> UniGeoSegEngine:
    """The embedded model: works offline on a laptop.

    Args:
        device: torch device.
        weights: other weights of the same family, e.g. from ``terraprompt train``; None takes the packaged ones.
        **unknown: refused with an error that names them.
    """
    if unknown:
        raise ConfigError("Unknown engine option.", received=sorted(unknown), hint="nano takes device and weights.")
    return build(Path(weights) if weights else packaged("nano"), name="nano", device=device)
