"""Losses: point-sampled masks, no-target presence, and weak losses for boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "box_projection_loss",
    "mask_losses",
    "outside_loss",
    "pairwise_colour_loss",
    "point_bce",
    "point_dice",
    "sample_at",
    "uncertain_points",
]


def sample_at(maps: Tensor, points: Tensor) -> Tensor:
    """Bilinear values of ``maps`` (M, h, w) at ``points`` (M, P, 2), x and y in [0, 1] -> (M, P)."""
    grid = 2 * points[:, :, None] - 1
    return F.grid_sample(maps[:, None], grid, mode="bilinear", align_corners=False)[:, 0, :, 0]


@torch.no_grad()
def uncertain_points(
    logits: Tensor,
    count: int,
    *,
    oversample: float = 3.0,
    importance: float = 0.75,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> Tensor:
    """Sample points, mostly where the mask is uncertain (PointRend).

    Args:
        logits: (M, h, w).
        count: points per mask.
        oversample: candidates drawn per point.
        importance: share of the points that are the most uncertain candidates.
        generator: one for all masks, or one for each: then a mask's points do not depend on its neighbours.

    Returns:
        (M, count, 2), x and y in [0, 1].
    """
    m, device = len(logits), logits.device
    candidates = _rand(m, int(count * oversample), device, generator)
    uncertainty = -sample_at(logits.float(), candidates).abs()
    hard = int(importance * count)
    index = uncertainty.topk(hard, dim=1).indices
    chosen = candidates.gather(1, index[..., None].expand(-1, -1, 2))
    return torch.cat([chosen, _rand(m, count - hard, device, generator)], 1)


def _rand(
    m: int, count: int, device: torch.device, generator: torch.Generator | Sequence[torch.Generator] | None
) -> Tensor:
    if generator is None or isinstance(generator, torch.Generator):
        return torch.rand(m, count, 2, device=device, generator=generator)
    return torch.stack([torch.rand(count, 2, device=device, generator=one) for one in generator])


def point_bce(logits: Tensor, target: Tensor, masks: float, weight: Tensor | None = None) -> Tensor:
    """Binary cross-entropy of (M, P) points, mean over points, sum over masks divided by ``masks``."""
    loss = F.binary_cross_entropy_with_logits(logits, target, weight=weight, reduction="none")
    return loss.mean(1).sum() / masks


def point_dice(logits: Tensor, target: Tensor, masks: float, weight: Tensor | None = None) -> Tensor:
    """Dice with +1 smoothing of (M, P) points, sum over masks divided by ``masks``."""
    p = logits.sigmoid()
    if weight is not None:
        p, target = p * weight, target * weight
    loss = 1 - (2 * (p * target).sum(1) + 1) / (p.sum(1) + target.sum(1) + 1)
    return loss.sum() / masks


def mask_losses(
    predictions: Sequence[Tensor],
    target: Tensor,
    *,
    known: Tensor | None = None,
    points: int = 12544,
    masks: float | None = None,
    generator: torch.Generator | Sequence[torch.Generator] | None = None,
) -> tuple[Tensor, Tensor]:
    """BCE and Dice summed over all predictions, unweighted (spec 10).

    Args:
        predictions: logits (M, h, w) after the start and after every layer.
        target: (M, H, W) in {0, 1}.
        known: (M, H, W) in {0, 1}, 0 where the truth is not known and nothing is learned; None = known everywhere.
        points: sampled points a mask.
        masks: divisor; the mask count over all processes, by default M.
        generator: of the point sampling, one or one a mask.
    """
    masks = max(masks if masks is not None else float(len(target)), 1.0)
    bce = dice = torch.zeros((), device=target.device)
    for logits in predictions:
        where = uncertain_points(logits, points, generator=generator)
        with torch.no_grad():
            truth = sample_at(target.float(), where)
            weight = None if known is None else (sample_at(known.float(), where) > 0.999).float()
        at = sample_at(logits.float(), where)
        bce = bce + point_bce(at, truth, masks, weight)
        dice = dice + point_dice(at, truth, masks, weight)
    return bce, dice


def box_projection_loss(logits: Tensor, boxes: Tensor, image: Tensor, stride: int) -> Tensor:
    """The mask of a box must touch every row and column of it (BoxInst, Eq. 2, inside part).

    Args:
        logits: (M, h, w).
        boxes: (K, 4) in model pixels.
        image: int64 (K,), the mask that each box belongs to.
        stride: model pixels per logit cell.

    Returns:
        mean over boxes of 1 - Dice of the two projections.
    """
    if len(boxes) == 0:
        return logits.sum() * 0
    h, w = logits.shape[-2:]
    x = torch.arange(w, device=logits.device) + 0.5
    y = torch.arange(h, device=logits.device) + 0.5
    x0, y0, x1, y1 = (boxes / stride).unbind(-1)
    # a box thinner than a cell keeps the cell it falls in
    in_x = (x[None] > torch.minimum(x0, x0.floor() + 0.5)[:, None] - 1e-3) & (
        x[None] < torch.maximum(x1, x1.ceil() - 0.5)[:, None] + 1e-3
    )
    in_y = (y[None] > torch.minimum(y0, y0.floor() + 0.5)[:, None] - 1e-3) & (
        y[None] < torch.maximum(y1, y1.ceil() - 0.5)[:, None] + 1e-3
    )
    inside = in_y[:, :, None] & in_x[:, None, :]
    p = logits[image].sigmoid() * inside
    loss = torch.zeros((), device=logits.device)
    for axis, want in ((1, in_x), (2, in_y)):
        got = p.amax(axis)
        want = want.to(p.dtype)
        loss = loss + (1 - (2 * (got * want).sum(1) + 1e-3) / ((got**2).sum(1) + want.sum(1) + 1e-3)).mean()
    return loss


def outside_loss(logits: Tensor, outside: Tensor) -> Tensor:
    """BCE towards "not the target" where ``outside`` (M, h, w) is True; mean over those cells."""
    if not outside.any():
        return logits.sum() * 0
    return F.softplus(logits[outside]).mean()


def pairwise_colour_loss(
    logits: Tensor, images: Tensor, inside: Tensor, *, threshold: float = 0.3, dilation: int = 2
) -> Tensor:
    """Neighbours of one colour inside a box get one label (BoxInst, Eq. 5-6).

    Args:
        logits: (M, h, w).
        images: (M, 3, h, w) on 0..255.
        inside: bool (M, h, w), cells inside any box.
        threshold: colour similarity exp(-distance / 2) above which neighbours count as one colour; the distance is
            taken on RGB / 25, near the scale of Lab / 10 that the paper uses.
        dilation: pixels between neighbours.
    """
    inner, outer = F.logsigmoid(logits), F.logsigmoid(-logits)
    colours = images.float() / 25
    total, count = logits.sum() * 0, logits.new_zeros(())
    for dy, dx in ((0, dilation), (dilation, 0), (dilation, dilation), (dilation, -dilation)):

        def shift(t: Tensor, dy: int = dy, dx: int = dx) -> tuple[Tensor, Tensor]:
            h, w = t.shape[-2:]
            if dx >= 0:
                return t[..., : h - dy, : w - dx], t[..., dy:, dx:]
            return t[..., : h - dy, -dx:], t[..., dy:, : w + dx]

        (a1, a2), (b1, b2) = shift(inner), shift(outer)
        same = torch.logaddexp(a1 + a2, b1 + b2)
        c1, c2 = shift(colours)
        similar = torch.exp(-(c1 - c2).norm(dim=1) / 2) >= threshold
        i1, i2 = shift(inside)
        use = (similar & (i1 | i2)).to(logits.dtype)
        total = total - (same * use).sum()
        count = count + use.sum()
    return total / count.clamp(min=1)
