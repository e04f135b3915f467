"""The engine of UniGeoSeg at full size: an image is read once, each instruction costs its own words."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec, check_pairs, checked_target
from terraprompt.engines.checkpoint import load_converted
from terraprompt.engines.dialogue import SYSTEM, DialogueWriter
from terraprompt.errors import CheckpointError, ConfigError
from terraprompt.geometry.frame import Frame
from terraprompt.io.hub import weights_folder
from terraprompt.models.preprocess import letterboxed
from terraprompt.models.unigeoseg import Context, Dialogue, PixelFeatures, UniGeoSeg
from terraprompt.models.unigeoseg.config import TASK_INDEX
from terraprompt.prompt import Prompt, Task
from terraprompt.raster.pictures import checked_image

__all__ = ["CausalEngine", "unigeoseg"]

_PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_FOLDER = "TERRAPROMPT_UNIGEOSEG"


class _View:
    """What one image left behind; no instruction changes it.

    ``context`` is what the language model keeps of the image and ``openings``, by task, what it keeps of the template;
    the first instruction reads both with its own words, because a pass over the weights is what costs.
    """

    __slots__ = ("context", "frame", "openings", "pixels", "res5")

    def __init__(self, frame: Frame, res5: Tensor, pixels: PixelFeatures) -> None:
        self.frame, self.res5, self.pixels = frame, res5, pixels
        self.context: Context | None = None
        self.openings: dict[int, Context] = {}


class CausalEngine:
    """Runs a member of the family that reads with a causal language model.

    Args:
        model: in eval mode.
        writer: of its dialogues.
        info: which weights.
        device: torch device.
        batch: instructions that go through together, at most.
        tile: how scenes are cut.
    """

    name = "unigeoseg"
    tasks = frozenset(Task)

    def __init__(
        self,
        model: UniGeoSeg,
        writer: DialogueWriter,
        info: ModelInfo,
        *,
        device: str = "cpu",
        batch: int = 8,
        tile: TileSpec | None = None,
    ) -> None:
        self.model = model.to(device).eval()
        self.writer = writer
        self.info = info
        self.device = torch.device(device)
        self.batch = batch
        self.size = model.config.vision.size
        self.tile = tile or TileSpec(size=self.size, overlap=self.size // 4, multiple=32, batch=1, resizes=True)
        tate = model.config.tate
        self._begun: Context | None = None
        assert model.reader is not None
        self.image_tokens = model.reader.connector.tokens
        self._template_is_enhanced = tate is not None and tate.scope == "template"

    def compile(self, backend: str = "inductor") -> None:
        """Let torch compile what sees and draws; the first image of each size then takes a minute longer."""
        for part in (self.model.vision, self.model.pixel_decoder, self.model.mask_decoder):
            part.compile(backend=backend)

    @torch.inference_mode()
    def encode(self, images: Sequence[NDArray[np.uint8]]) -> list[Embedding]:
        """Encode RGB uint8 images (H, W, 3) of any size; all go through together."""
        if not images:
            return []
        for image in images:
            checked_image(image)
        frames = [Frame.letterbox((image.shape[0], image.shape[1]), self.size) for image in images]
        stack = np.stack([letterboxed(image, frame) for image, frame in zip(images, frames, strict=True)])
        features = self.model.encode_image(torch.from_numpy(stack).to(self.device).permute(0, 3, 1, 2))
        pixels = self.model.decode_pixels(features)
        out = []
        for i, frame in enumerate(frames):
            one = slice(i, i + 1)
            mine = PixelFeatures(pixels.mask[one].clone(), tuple(s[one].clone() for s in pixels.scales))  # type: ignore[arg-type]
            out.append(self._embedding(frame, features[-1][one].clone(), mine))
        return out

    def pack(self, embedding: Embedding) -> dict[str, NDArray[Any]]:
        """What vision left, as float32 arrays, for the disk; the language model reads it again."""
        view: _View = embedding.data
        parts = {"res5": view.res5, "mask": view.pixels.mask}
        parts |= {f"scale{i}": scale for i, scale in enumerate(view.pixels.scales)}
        return {name: part.float().cpu().numpy() for name, part in parts.items()}

    def unpack(self, size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> Embedding:
        """The inverse of :meth:`pack`."""
        names = ("res5", "mask", "scale0", "scale1", "scale2")
        res5, mask, *scales = (torch.from_numpy(arrays[name]).to(self.device) for name in names)
        frame = Frame.letterbox(size, self.size)
        return self._embedding(frame, res5, PixelFeatures(mask, (scales[0], scales[1], scales[2])))

    def _embedding(self, frame: Frame, res5: Tensor, pixels: PixelFeatures) -> Embedding:
        held = sum(t.numel() * t.element_size() for t in (res5, pixels.mask, *pixels.scales))
        # the image and the openings of two tasks, read with the first texts, are counted in advance
        tokens = self.image_tokens + 2 * len(self.writer.template)
        later = self._beginning().nbytes // self._beginning().length * tokens
        return Embedding(frame.source, _View(frame, res5, pixels), held + later)

    @torch.inference_mode()
    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        """Answer ``prompts[i]`` on ``embeddings[i]``, many in one pass; coordinates in pixels of that image."""
        check_pairs(embeddings, prompts)
        for prompt in prompts:
            checked_target(prompt)
        out: dict[int, Answer] = {}
        # texts apart from points and boxes: their sentences are shorter, and their template may have been read
        for spatial in (False, True):
            mine = [i for i, prompt in enumerate(prompts) if (prompt.task is Task.INTERACTIVE) is spatial]
            for start in range(0, len(mine), self.batch):
                part = mine[start : start + self.batch]
                answers = self._answer([embeddings[i].data for i in part], [prompts[i] for i in part])
                out |= dict(zip(part, answers, strict=True))
        return [out[i] for i in range(len(prompts))]

    def _answer(self, views: Sequence[_View], prompts: Sequence[Prompt]) -> list[Answer]:
        distinct = list(dict.fromkeys(views))
        image = torch.tensor([distinct.index(view) for view in views])
        dialogue = self.writer.write(prompts, [view.frame.source for view in views], image).to(self.device)
        res5 = torch.cat([view.res5 for view in distinct])
        states = self._read(views, distinct, dialogue, [self._opening(prompt.task) for prompt in prompts], res5)
        query = self.model.predict_query(states, dialogue.refer, dialogue.task, res5, dialogue.image)
        drawn = self.model.predict_masks(query, _joined([view.pixels for view in distinct]), dialogue.image)
        return [
            _with_left_out(Answer(self._on_image(logits, view.frame)), prompt)
            for logits, view, prompt in zip(drawn.logits[-1], views, prompts, strict=True)
        ]

    def _read(
        self, views: Sequence[_View], distinct: Sequence[_View], dialogue: Dialogue, keys: Sequence[int | None],
        res5: Tensor,
    ) -> Tensor:  # fmt: skip
        """States of the instructions; what no instruction changes is read once and kept with its view."""
        fresh = [view for view in distinct if view.context is None]
        with_image = len(fresh) == len(views)  # then one pass reads images, templates and instructions
        if fresh and not with_image:
            opened = self.model.open(torch.cat([view.res5 for view in fresh]), self._beginning())
            for i, view in enumerate(fresh):
                view.context = opened.part(i, 0, opened.length)
        after = [self._beginning()]
        known = [None if key is None else view.openings.get(key) for view, key in zip(views, keys, strict=True)]
        openings = [opening for opening in known if opening is not None]
        read_before = len(openings) == len(views)
        if not with_image:
            after.append(_together([view.context for view in views if view.context is not None]))
        if read_before:
            after.append(_together(openings))
        reading = self.model.read(dialogue, res5 if with_image else None, after=after, template=not read_before)
        assert reading.context is not None
        begun = self.image_tokens if with_image else 0
        for i, (view, key) in enumerate(zip(views, keys, strict=True)):
            if with_image:
                view.context = reading.context.part(i, 0, begun)
            if key is not None and key not in view.openings:
                view.openings[key] = reading.context.part(i, begun, begun + len(dialogue.template))
        return reading.states

    def _beginning(self) -> Context:
        """What the language model keeps of the words before every image, read once."""
        if self._begun is None:
            self._begun = self.model.begin(self.writer.prefix.to(self.device))
        return self._begun

    def _opening(self, task: Task) -> int | None:
        """Under which key the template's reading is kept; None where coordinates are written into it."""
        if not self._template_is_enhanced:
            return -1
        return None if task is Task.INTERACTIVE else TASK_INDEX[task]

    def _on_image(self, logits: Tensor, frame: Frame) -> NDArray[np.float32]:
        """(h, w) at stride 4 of the letterbox to the image, by way of the letterbox at full size."""
        full = F.interpolate(logits[None, None].float(), size=frame.grid, mode="bilinear", align_corners=False)
        left, top = frame.pad
        content = full[..., top : top + frame.content[0], left : left + frame.content[1]]
        if frame.content != frame.source:
            content = F.interpolate(content, size=frame.source, mode="bilinear", align_corners=False)
        return np.ascontiguousarray(content[0, 0].cpu().numpy())


def _joined(pixels: Sequence[PixelFeatures]) -> PixelFeatures:
    if len(pixels) == 1:
        return pixels[0]
    scales = [torch.cat(level) for level in zip(*(p.scales for p in pixels), strict=True)]
    return PixelFeatures(torch.cat([p.mask for p in pixels]), (scales[0], scales[1], scales[2]))


def _together(contexts: Sequence[Context]) -> Context:
    """As one batch; of one row if all are the same."""
    return contexts[0] if all(context is contexts[0] for context in contexts) else Context.stack(contexts)


def _with_left_out(answer: Answer, prompt: Prompt) -> Answer:
    """The answer, noting what this system cannot take: negative points, more than three points, points beside a box."""
    used = 0 if prompt.boxes else min(3, sum(prompt.labels))
    left_out = len(prompt.points) - used
    if prompt.task is not Task.INTERACTIVE or left_out <= 0:
        return answer
    count = f"{left_out} point{'' if left_out == 1 else 's'}"
    said = f"{count} left out: this engine reads one box, or up to 3 positive points."
    return replace(answer, notes={"points_left_out": left_out}, remarks=(said,))


def unigeoseg(
    *,
    weights: str | Path | None = None,
    device: str = "cpu",
    precision: str = "fp32",
    batch: int = 8,
    system: str = SYSTEM,
    verify: bool = True,
    compile: bool = False,
) -> CausalEngine:
    """UniGeoSeg with released weights, converted by ``terraprompt models convert``.

    Args:
        weights: the converted folder, or its name on the hub; None = the environment's TERRAPROMPT_UNIGEOSEG.
        device: torch device.
        precision: "fp32", "bf16" or "fp16", of vision and language; the small decoders stay in fp32.
        batch: instructions in one pass, at most.
        system: the sentence that opens the dialogue.
        verify: compare the checksums of all shards, which reads them once more.
        compile: let torch compile vision and decoders; needs a C++ compiler on the machine (see :meth:`compile`).

    Raises:
        CheckpointError: no weights are named, or they are missing, damaged or not converted.
        ConfigError: an unknown precision.
    """
    if precision not in _PRECISIONS:
        raise ConfigError("Unknown precision.", received=precision, hint=f"Known: {', '.join(_PRECISIONS)}.")
    if batch < 1:
        raise ConfigError("The batch must be at least 1.", received=batch)
    source = weights or os.environ.get(_FOLDER)
    if not source:
        raise CheckpointError(
            "UniGeoSeg needs its released weights, which are not part of this package.",
            received="no weights",
            hint="Download the release, run `terraprompt models convert SRC DST`, then pass weights=DST or set "
            f"{_FOLDER}=DST. Offline and without them, use the engine nano.",
        )
    folder = weights_folder(source)
    model, provenance = load_converted(folder, dtype=_PRECISIONS[precision], verify=verify)
    causal = model.config.causal
    if causal is None:
        raise CheckpointError("These weights read with a sentence encoder.", received=folder)
    writer = DialogueWriter.load(folder, int(causal.settings["vocab_size"]), system=system)
    checksums = sorted(facts["sha256"] for facts in provenance["files"].values())
    info = ModelInfo(
        model.config.name,
        str(provenance["source"]),
        checksums[0] if len(checksums) == 1 else _joint(checksums),
        {"precision": precision, "device": device},
    )
    engine = CausalEngine(model, writer, info, device=device, batch=batch)
    if compile:
        engine.compile()
    return engine


def _joint(checksums: Sequence[str]) -> str:
    return hashlib.sha256("".join(checksums).encode()).hexdigest()
