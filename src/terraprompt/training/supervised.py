"""The supervised trainer of models that read with a sentence encoder (``nano``)."""

from __future__ import annotations

import json
import logging
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from terraprompt.errors import CheckpointError, ConfigError, TerrapromptError
from terraprompt.models.sentence import SentenceEncoder
from terraprompt.models.unigeoseg import Instructions, Prediction, UniGeoSeg
from terraprompt.models.unigeoseg.losses import box_projection_loss, mask_losses, outside_loss, pairwise_colour_loss
from terraprompt.models.unigeoseg.vision import EfficientNetLite
from terraprompt.training.loader import Batch

__all__ = ["TrainConfig", "Trainer", "cosine", "freeze", "losses"]

#: Sentences whose states are kept.
_REMEMBERED = 20_000

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainConfig:
    """Budget and optimiser.

    Attributes:
        steps, batch: optimiser steps and crops a step.
        lr, backbone_lr: peak learning rates; cosine to 1 % after ``warmup`` share of linear rise.
        frozen_blocks: the backbone's stem and so many of its blocks stay as they are; its batch statistics always do.
        weight_decay: of matrices.
        max_grad_norm: gradients are scaled down to it.
        ema: decay of the averaged weights that are shipped.
        points: sampled points per mask and prediction.
        bce, dice, presence, weak: loss weights.
        word_dropout: share of a sentence's tokens that the model does not get to see; wordings it never met are nearer
            to sentences with holes than to the trained ones.
        save_every: steps between checkpoints.
        precision: "bf16" (autocast) or "fp32".
        seed: of weights, crops and point sampling.
    """

    steps: int = 2400
    batch: int = 8
    lr: float = 5e-4
    backbone_lr: float = 2e-4
    frozen_blocks: int = 3
    weight_decay: float = 0.02
    max_grad_norm: float = 2.0
    ema: float = 0.998
    warmup: float = 0.03
    points: int = 1536
    bce: float = 5.0
    dice: float = 5.0
    presence: float = 1.0
    weak: float = 1.0
    word_dropout: float = 0.1
    save_every: int = 250
    precision: str = "fp32"
    seed: int = 0


def losses(
    model_out: Prediction, batch: Batch, config: TrainConfig, generator: torch.Generator | None = None
) -> dict[str, Tensor]:
    """All loss terms of one batch, weighted; their sum is minimised.

    Mask-labelled items: point-sampled BCE + Dice on every prediction. Box-labelled items (weak): nothing outside the
    boxes, every row and column of a box touched, neighbours of one colour alike (BoxInst). All: presence BCE.
    """
    full = (~batch.weak).nonzero()[:, 0]
    weak = batch.weak.nonzero()[:, 0]
    out: dict[str, Tensor] = {}
    count = len(batch.weak)
    if len(full):
        target = batch.target[full]
        known = batch.known[full] if batch.known is not None else None
        bce, dice = mask_losses(
            [p[full] for p in model_out.logits],
            target,
            known=known,
            points=config.points,
            masks=count,
            generator=generator,
        )
        out["bce"], out["dice"] = config.bce * bce, config.dice * dice
    if len(weak):
        final = [p[weak].float() for p in model_out.logits[-2:]]
        size = final[-1].shape[-2:]
        stride = batch.images.shape[-1] // size[-1]
        inside = F.max_pool2d(batch.target[weak][:, None].float(), stride)[:, 0] > 0
        position = torch.full((count,), -1, dtype=torch.int64, device=weak.device)
        position[weak] = torch.arange(len(weak), device=weak.device)
        owner = position[batch.weak_item]
        small = F.avg_pool2d(batch.images[batch.image[weak]].float(), stride)
        share = config.weak * len(weak) / count
        out["projection"] = sum_of(box_projection_loss(p, batch.weak_boxes, owner, stride) for p in final) * share * 2.5
        out["outside"] = sum_of(outside_loss(p, ~inside) for p in final) * share * 5
        out["colour"] = pairwise_colour_loss(final[-1], small, inside) * share * 2.5
    if model_out.presence is not None:
        sure = batch.presence >= 0
        logit, truth = model_out.presence.float()[sure], batch.presence[sure].float()
        # a sum and not a mean: with no sure item at all it is zero and not NaN
        total = F.binary_cross_entropy_with_logits(logit, truth, reduction="sum")
        out["presence"] = config.presence * total / max(len(logit), 1)
    return out


def cosine(step: int, steps: int, warmup: float) -> float:
    """Factor of the learning rate: a linear rise over the ``warmup`` share, then a cosine to 1 %."""
    rise = max(1, int(warmup * steps))
    if step < rise:
        return (step + 1) / rise
    t = (step - rise) / max(1, steps - rise)
    return 0.01 + 0.99 * (1 + math.cos(math.pi * min(t, 1.0))) / 2


def freeze(model: nn.Module, blocks: int) -> None:
    """Fix the stem and the first ``blocks`` blocks of the backbone; no parameter of theirs gets a gradient."""
    vision = model.vision
    if not isinstance(vision, EfficientNetLite):
        raise ConfigError("Blocks are frozen one by one in EfficientNet-Lite alone.", received=type(vision).__name__)
    for part in (vision.stem, *vision.blocks[:blocks]):
        part.requires_grad_(False)


def sum_of(terms: Iterable[Tensor]) -> Tensor:
    """Sum of at least one scalar tensor."""
    return torch.stack(list(terms)).sum()


class Trainer:
    """Steps a model over batches; saves, resumes, logs.

    Args:
        model: the member to train.
        encoder: the frozen sentence encoder.
        config: budget and optimiser.
        run: folder for ``metrics.jsonl``, ``last.pt`` and ``config.json``.
        device: where to train.
    """

    def __init__(
        self, model: UniGeoSeg, encoder: SentenceEncoder, config: TrainConfig, run: Path, device: str = "cpu"
    ) -> None:
        # channels last: convolutions are a third faster on a CPU
        self.model = model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.config, self.run = config, run
        freeze(self.model, config.frozen_blocks)
        self._states: dict[str, Tensor] = {}
        self.generator: torch.Generator | None = None  # of the step
        self.encoder = encoder.on(device)
        self.device = torch.device(device)
        self.average = AveragedModel(self.model, multi_avg_fn=get_ema_multi_avg_fn(config.ema), use_buffers=True)  # type: ignore[no-untyped-call]
        self.optimiser = torch.optim.AdamW(self._groups(), betas=(0.9, 0.98))
        self.step = 0
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.json").write_text(
            json.dumps({"train": asdict(config), "model": model.config.to_dict()}, indent=1)
        )

    def _groups(self) -> list[dict[str, Any]]:
        groups: dict[tuple[float, float], list[Tensor]] = {}
        for name, parameter in self.model.named_parameters():
            if not parameter.requires_grad:
                continue
            rate = self.config.backbone_lr if name.startswith("vision.") else self.config.lr
            decay = self.config.weight_decay if parameter.dim() > 1 else 0.0
            groups.setdefault((rate, decay), []).append(parameter)
        return [{"params": p, "lr": r, "peak": r, "weight_decay": d} for (r, d), p in groups.items()]

    def read(self, batch: Batch) -> Instructions:
        """Encode the batch's sentences; the encoder is frozen, so what it said is remembered."""
        if len(self._states) > _REMEMBERED:
            self._states.clear()
        if new := sorted(set(batch.texts) - set(self._states)):
            states, mask = self.encoder(new)
            self._states.update((t, s[m]) for t, s, m in zip(new, states, mask, strict=True))
        rows = [self._states[t] for t in batch.texts]
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        lengths = torch.tensor([len(r) for r in rows], device=states.device)
        mask = torch.arange(states.shape[1], device=states.device) < lengths[:, None]
        if self.model.training and self.config.word_dropout:
            kept = torch.rand(mask.shape, generator=self.generator, device=self.device) >= self.config.word_dropout
            kept[:, 0] = True  # the sentence's own token: something is always left to read
            mask = mask & kept
        return Instructions(states, mask, batch.task, batch.coordinates, batch.image)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step; returns the loss terms."""
        batch = to_device(batch, self.device)
        self.model.train()
        self.model.vision.eval()  # small batches would spoil the batch statistics
        # by step, so that a resumed training samples the same points and drops the same values as an unbroken one
        seed = self.config.seed * 1_000_003 + self.step
        self.generator = torch.Generator(self.device).manual_seed(seed)
        torch.manual_seed(seed)
        for group in self.optimiser.param_groups:
            group["lr"] = group["peak"] * cosine(self.step, self.config.steps, self.config.warmup)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            prediction = self.model(batch.images, self.read(batch), batch.points, batch.boxes)
        terms = losses(prediction, batch, self.config, self.generator)
        total = sum_of(terms.values())
        self.optimiser.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_grad_norm)
        if not torch.isfinite(norm):
            raise TerrapromptError(
                "The gradient is not finite.",
                received={k: float(v.detach()) for k, v in terms.items()},
                hint=f"Resume from the last checkpoint with a lower rate; step {self.step}.",
            )
        self.optimiser.step()
        self.step += 1
        self.average.update_parameters(self.model)
        return {**{k: float(v.detach()) for k, v in terms.items()}, "loss": float(total.detach()), "norm": float(norm)}

    def fit(self, batches: Iterator[Batch], *, stop: Callable[[], bool] | None = None) -> None:
        """Train until the budget ends, or ``stop()`` says so; saves either way."""
        started = time.monotonic()
        with (self.run / "metrics.jsonl").open("a") as stream:
            for batch in batches:
                if self.step >= self.config.steps or (stop and stop()):
                    break
                if self.step % 20 == 0:
                    terms = self.train_step(batch)
                    line = {"step": self.step, "seconds": round(time.monotonic() - started, 1), **terms}
                    stream.write(json.dumps({k: round(v, 5) for k, v in line.items()}) + "\n")
                    stream.flush()
                    if self.step % 200 == 1:
                        log.info("%s", line)
                else:
                    self.train_step(batch)
                if self.step % self.config.save_every == 0:
                    self.save()
        self.save()

    def save(self) -> None:
        """Write ``last.pt`` (weights, averaged weights, optimiser, step) atomically."""
        state = {
            "step": self.step, "config": asdict(self.config), "model": self.model.state_dict(),
            "average": self.average.state_dict(), "optimiser": self.optimiser.state_dict(),
        }  # fmt: skip
        part = self.run / "last.pt.part"
        torch.save(state, part)
        part.replace(self.run / "last.pt")

    def resume(self) -> None:
        """Go on from ``last.pt``; the configuration must be the same.

        Raises:
            CheckpointError: there is none, it is damaged, or it is of another configuration or model.
        """
        path = self.run / "last.pt"
        if not path.is_file():
            raise CheckpointError("There is nothing to resume.", received=path, hint="Start without --resume.")
        try:
            state = torch.load(path, map_location=self.device, weights_only=True)
            old, step = TrainConfig(**state["config"]), int(state["step"])
        except (OSError, RuntimeError, EOFError, UnpicklingError, KeyError, TypeError) as error:
            raise CheckpointError("The checkpoint cannot be read.", received=f"{path}: {error}") from error
        if old != self.config:
            raise CheckpointError(
                "The checkpoint was written with another configuration.", received=old, hint="Use the same options."
            )
        try:
            self.model.load_state_dict(state["model"])
            self.average.load_state_dict(state["average"])
            self.optimiser.load_state_dict(state["optimiser"])
        except (RuntimeError, ValueError, KeyError) as error:
            raise CheckpointError("The checkpoint is of another model.", received=f"{path}: {error}") from error
        self.step = step


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch on another device."""
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name in Batch.__slots__
        if isinstance(value := getattr(batch, name), Tensor)
    }
    return replace(batch, **moved)
