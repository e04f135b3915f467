"""Trains the dedicated single-class U-Net that ``nano`` is measured against: same backbone, crops and optimiser."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from unet import UNet

from terraprompt.errors import ConfigError, TerrapromptError
from terraprompt.models.unigeoseg import preset
from terraprompt.training.crops import CropRecipe
from terraprompt.training.labeled_image import LabeledImage
from terraprompt.training.loader import CropStream, collate
from terraprompt.training.loop import step_batches
from terraprompt.training.nano_step import NanoTrainConfig, freeze
from terraprompt.training.schedule import TaskSchedule
from terraprompt.training.step import cosine

__all__ = ["category_share", "train_unet"]

log = logging.getLogger(__name__)


def category_share(category: str, images: Sequence[LabeledImage], shares: Mapping[str, float]) -> dict[str, float]:
    """Shares of the real, mask-labelled sources of a category."""
    sources = {g.source for g in images if category in g.labels and not g.centreline and g.source != "rendered"}
    if not sources:
        raise ConfigError("No mask-labelled source holds this category.", received=category)
    return {s: shares[s] for s in sorted(sources)}


def train_unet(
    category: str,
    images: Sequence[LabeledImage],
    shares: Mapping[str, float],
    config: NanoTrainConfig,
    backbone: Mapping[str, torch.Tensor],
    *,
    workers: int = 1,
) -> UNet:
    """Train for ``config.steps`` on crops of the images where ``category`` was looked for.

    Args:
        category: what the model finds.
        images: labelled images.
        shares: of the sources to draw from, see :func:`category_share`.
        config: budget and optimiser; loss weights of BCE and Dice apply.
        backbone: ImageNet weights.
    """
    torch.manual_seed(config.seed)
    model = UNet(preset("nano").vision).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    model.vision.load_state_dict(backbone)
    freeze(model, config.frozen_blocks)
    groups = []
    for in_backbone in (True, False):
        picked = [p for n, p in model.named_parameters() if p.requires_grad and n.startswith("vision.") == in_backbone]
        rate = config.backbone_lr if in_backbone else config.lr
        groups.append({"params": picked, "lr": rate, "peak": rate})
    optimiser = torch.optim.AdamW(groups, betas=(0.9, 0.98), weight_decay=config.weight_decay)
    # a short training must not be judged by an average that still remembers its first steps
    keep = get_ema_multi_avg_fn(min(config.ema, 1 - 10 / (config.steps + 10)))  # type: ignore[no-untyped-call]
    average = AveragedModel(model, multi_avg_fn=keep, use_buffers=True)
    # other categories of an image would be drawn too, and be learned as this one
    only = [
        replace(g, labels={category: g.labels[category]}, absent=())
        for g in images
        if category in g.labels and g.source in shares
    ]
    crops = CropStream(
        only,
        shares,
        TaskSchedule((0.0, 1.0, 0.0)),
        CropRecipe(items=1, selectors=0.0),
        config.seed,
        config.steps * config.batch,
    )
    stream = step_batches(crops, collate, batch=config.batch, micro_batch_size=config.batch, workers=workers)
    for step, (batch,) in enumerate(stream):
        model.train()
        model.vision.eval()
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * cosine(step, config.steps, config.warmup)
        with torch.autocast("cpu", torch.bfloat16, enabled=config.precision == "bf16"):
            logits = model(batch.images).float()
        target = batch.target.float()
        p = logits.sigmoid()
        overlap, total = (p * target).sum((1, 2)), (p + target).sum((1, 2))
        dice = (1 - (2 * overlap + 1) / (total + 1)).mean()
        loss = config.bce * F.binary_cross_entropy_with_logits(logits, target) + config.dice * dice
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), config.max_grad_norm)
        if not torch.isfinite(norm):
            raise TerrapromptError(
                "The gradient is not finite.", received=float(loss.detach()), hint=f"Use a lower rate; step {step}."
            )
        optimiser.step()
        average.update_parameters(model)
        if step % 50 == 0:
            log.info("%s step %d of %d: loss %.3f", category, step, config.steps, float(loss.detach()))
    trained = average.module.eval()
    assert isinstance(trained, UNet)
    return trained
