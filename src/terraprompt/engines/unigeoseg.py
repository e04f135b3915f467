"""The engine of the UniGeoSeg family: encode with the vision half, answer with the language half."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec, check_pairs, checked_target
from terraprompt.engines.prompt_arrays import coordinate_rows, drawn_prompt, sentence_of
from terraprompt.engines.weights import card_categories, card_info, load_weights, packaged
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.models.sentence import SentenceEncoder, packaged_sentence_encoder
from terraprompt.models.unigeoseg import Instructions, PixelFeatures, UniGeoSeg, UniGeoSegConfig
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Prompt, Task
from terraprompt.raster.pictures import checked_image

if TYPE_CHECKING:
    from terraprompt.engines.onnx import OnnxEngine

__all__ = ["UniGeoSegEngine", "nano"]


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
            checked_image(image)
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
        check_pairs(embeddings, prompts)
        return [self._answer(e, p) for e, p in zip(embeddings, prompts, strict=True)]

    def _answer(self, embedding: Embedding, prompt: Prompt) -> Answer:
        checked_target(prompt)
        view: _View = embedding.data
        height, width = embedding.size
        if prompt.is_spatial:
            points, box = (torch.from_numpy(values).to(self.device) for values in drawn_prompt(prompt))
            pixels = self.model.decode_pixels(view.features, points, box)
        else:
            if view.pixels is None:
                view.pixels = self.model.decode_pixels(view.features)
            pixels = view.pixels
        image = torch.zeros(1, dtype=torch.int64, device=self.device)
        states, mask = self._read(sentence_of(prompt))
        task = torch.tensor([TASK_INDEX[prompt.task]], device=self.device)
        rows = torch.from_numpy(coordinate_rows(prompt, width, height)).to(self.device)
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
        said = " ".join(str(error).split())[:300]
        raise CheckpointError("The weights are of another architecture.", received=f"{path}: {said}") from error
    info = card_info(card, path, name, {"precision": "fp32", "device": device})
    engine = UniGeoSegEngine(model, encoder or packaged_sentence_encoder(), info, device=device, name=name)
    engine.vocabulary = card_categories(card, path)
    return engine


def nano(
    *, device: str = "cpu", weights: str | Path | None = None, runtime: str = "torch", threads: int = 0, **unknown: Any
) -> UniGeoSegEngine | OnnxEngine:
    """The embedded model: works offline on a laptop.

    Args:
        device: torch device.
        weights: other weights of the same family, e.g. from ``terraprompt train``; None takes the packaged ones.
        runtime: "torch", or "onnx" for ONNX Runtime on the CPU, which gives the same masks.
        threads: of ONNX Runtime; 0 = as many as there are cores.
        **unknown: refused with an error that names them.

    Raises:
        ConfigError: an unknown option or runtime, or a device that ONNX Runtime is not asked to use.
        CheckpointError: the weights are damaged, or of another architecture.
    """
    if unknown:
        hint = "nano takes device, weights, runtime and threads."
        raise ConfigError("Unknown engine option.", received=sorted(unknown), hint=hint)
    if runtime not in ("torch", "onnx"):
        raise ConfigError("Unknown runtime.", received=runtime, hint="Known: torch, onnx.")
    path = Path(weights) if weights else packaged("nano")
    if runtime == "torch":
        return build(path, name="nano", device=device)
    if device != "cpu":
        raise ConfigError("ONNX Runtime is used on the CPU alone.", received=device, hint="Use runtime torch.")
    from terraprompt.engines.onnx import build_onnx  # torch does not need the other runtime

    return build_onnx(path, name="nano", threads=threads)
