"""Training of members that read with a sentence encoder (``nano``): settings, losses, one step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from accelerate import PartialState
from torch import Tensor, nn

from terraprompt.errors import ConfigError
from terraprompt.models.sentence import SentenceEncoder
from terraprompt.models.unigeoseg import Instructions, Prediction, UniGeoSeg
from terraprompt.models.unigeoseg.losses import box_projection_loss, mask_losses, outside_loss, pairwise_colour_loss
from terraprompt.models.unigeoseg.vision import EfficientNetLite
from terraprompt.training.loader import Batch, collate
from terraprompt.training.loop import TrainLoop
from terraprompt.training.step import SEED_STRIDE, LoopConfig, TrainStep, group_parameters

__all__ = ["NanoStep", "NanoTrainConfig", "NanoTrainer", "freeze", "losses"]

#: Sentences whose states are kept.
_REMEMBERED = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class NanoTrainConfig(LoopConfig):
    """Budget, optimiser and losses; see :class:`~terraprompt.training.step.LoopConfig` for what is common.

    Attributes:
        backbone_lr: peak learning rate of the backbone.
        frozen_blocks: the backbone's stem and so many of its blocks stay as they are; its batch statistics always do.
        points: sampled points per mask and prediction.
        bce, dice, presence, weak: loss weights.
        word_dropout: share of a sentence's tokens that the model does not get to see; wordings it never met are nearer
            to sentences with holes than to the trained ones.
    """

    steps: int = 2400
    batch: int = 8
    lr: float = 5e-4
    backbone_lr: float = 2e-4
    frozen_blocks: int = 3
    weight_decay: float = 0.02
    max_grad_norm: float = 2.0
    ema: float = 0.998
    points: int = 1536
    bce: float = 5.0
    dice: float = 5.0
    presence: float = 1.0
    weak: float = 1.0
    word_dropout: float = 0.1
    save_every: int = 250
    log_every: int = 20
    precision: str = "fp32"


def losses(
    model_out: Prediction,
    batch: Batch,
    config: NanoTrainConfig,
    generator: torch.Generator | None = None,
    totals: Sequence[float] | None = None,
) -> dict[str, Tensor]:
    """Loss terms of one pass, weighted; over the passes of a step their sum is minimised.

    Mask-labelled items: point-sampled BCE + Dice on every prediction. Box-labelled items (weak): nothing outside the
    boxes, every row and column of a box touched, neighbours of one colour alike (BoxInst). All: presence BCE.

    Args:
        model_out: of the pass.
        batch: of the pass.
        config: weights.
        generator: of the sampled points.
        totals: items, and items whose presence is sure, of the whole step; None = this pass is the step.
    """
    count, sure_count = totals or _counts(batch)
    full = (~batch.weak).nonzero()[:, 0]
    weak = batch.weak.nonzero()[:, 0]
    out: dict[str, Tensor] = {}
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
        position = torch.full((len(batch.weak),), -1, dtype=torch.int64, device=weak.device)
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
        out["presence"] = config.presence * total / max(sure_count, 1)
    return out


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


def _counts(batch: Batch) -> tuple[float, float]:
    return len(batch.weak), int((batch.presence >= 0).sum())


class _Sentences:
    """The frozen sentence encoder with the token states of sentences it has read."""

    def __init__(self, encoder: SentenceEncoder) -> None:
        self.encoder = encoder
        self._states: dict[str, Tensor] = {}

    def __call__(self, texts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """States (M, L, D), padded, and mask bool (M, L)."""
        if len(self._states) > _REMEMBERED:
            self._states.clear()
        if new := sorted(set(texts) - set(self._states)):
            states, mask = self.encoder(new)
            self._states.update((t, s[m]) for t, s, m in zip(new, states, mask, strict=True))
        rows = [self._states[t] for t in texts]
        lengths = torch.tensor([len(r) for r in rows], device=rows[0].device)
        states = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
        return states, torch.arange(states.shape[1], device=states.device) < lengths[:, None]


class NanoStep(TrainStep):
    """Losses of a member that reads with a sentence encoder.

    Args:
        model: the member; the first blocks of its backbone are frozen here.
        encoder: the frozen sentence encoder, on the device of the training.
        config: weights of the losses.
    """

    betas = (0.9, 0.98)
    collate = staticmethod(collate)

    def __init__(self, model: UniGeoSeg, encoder: SentenceEncoder, config: NanoTrainConfig) -> None:
        super().__init__(model)
        self.model: UniGeoSeg = model
        freeze(model, config.frozen_blocks)
        self.config = config
        self.sentences = _Sentences(encoder)  # no submodule: it is neither trained nor saved

    def train(self, mode: bool = True) -> NanoStep:
        """The backbone stays in eval mode: small batches would spoil its batch statistics."""
        super().train(mode)
        self.model.vision.eval()
        return self

    def read(self, batch: Batch, generator: torch.Generator | None = None) -> Instructions:
        """Encode the batch's sentences; with ``generator``, drop words."""
        states, mask = self.sentences(batch.texts)
        if generator is not None and self.config.word_dropout:
            kept = torch.rand(mask.shape, generator=generator, device=mask.device) >= self.config.word_dropout
            kept[:, 0] = True  # the sentence's own token: something is always left to read
            mask = mask & kept
        return Instructions(states, mask, batch.task, batch.coordinates, batch.image)

    def forward(self, batch: Batch, totals: Sequence[float], step: int) -> dict[str, Tensor]:
        """See :class:`~terraprompt.training.step.TrainStep`."""
        device = batch.images.device
        generator = torch.Generator(device).manual_seed(self.config.seed * SEED_STRIDE + step)
        with torch.autocast(device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            prediction = self.model(batch.images, self.read(batch, generator), batch.points, batch.boxes)
        return losses(prediction, batch, self.config, generator, totals)

    def counts(self, batch: Batch) -> Sequence[float]:
        """Items, and items whose presence is sure."""
        return _counts(batch)

    def seed(self, batch: Batch, step: int) -> int:
        """The step."""
        return step

    def parameter_groups(self) -> list[dict[str, Any]]:
        """The backbone learns at its own rate."""

        def lr(name: str) -> float:
            return self.config.backbone_lr if name.startswith("vision.") else self.config.lr

        return group_parameters(self.model.named_parameters(), lr, self.config.weight_decay)

    def settings(self) -> dict[str, Any]:
        """The member's configuration."""
        return self.model.config.to_dict()


class NanoTrainer(TrainLoop):
    """Trains a member that reads with a sentence encoder.

    Args:
        model: the member to train.
        encoder: the frozen sentence encoder; one that is shared stays on its device.
        config: budget, optimiser and losses.
        run: folder for metrics, configuration and checkpoints.
        device: "cpu", or None for what accelerate finds.

    Attributes:
        categories: what the images that it learns from show, for the card; () = not known.
    """

    categories: tuple[str, ...] = ()

    def __init__(
        self, model: UniGeoSeg, encoder: SentenceEncoder, config: NanoTrainConfig, run: Path, device: str | None = "cpu"
    ) -> None:
        where = PartialState(cpu=device == "cpu").device
        # channels last: convolutions are a third faster on a CPU
        model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        super().__init__(NanoStep(model, encoder.on(where), config), config, run, device=device)
