"""Losses against plain definitions, and what each of them must not punish."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from terraprompt.models.unigeoseg.losses import (
    box_projection_loss,
    mask_losses,
    outside_loss,
    pairwise_colour_loss,
    point_bce,
    point_dice,
    sample_at,
    uncertain_points,
)


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(7)


def test_point_losses_are_their_definitions() -> None:
    logits = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, -2.0]])
    target = torch.tensor([[1.0, 0.0, 0.0], [1.0, 1.0, 0.0]])
    bce = dice = 0.0
    for row, truth in zip(logits.tolist(), target.tolist(), strict=True):
        p = [sigmoid(x) for x in row]
        bce += -sum(t * math.log(q) + (1 - t) * math.log(1 - q) for q, t in zip(p, truth, strict=True)) / 3
        dice += 1 - (2 * sum(q * t for q, t in zip(p, truth, strict=True)) + 1) / (sum(p) + sum(truth) + 1)
    assert float(point_bce(logits, target, 4)) == pytest.approx(bce / 4, rel=1e-5)
    assert float(point_dice(logits, target, 4)) == pytest.approx(dice / 4, rel=1e-5)


def test_sampling_reads_bilinearly_at_continuous_coordinates() -> None:
    ramp = (torch.arange(8) + 0.5).expand(1, 4, 8)  # the value is x in cells
    where = torch.tensor([[[0.25, 0.5], [0.5, 0.2], [0.7, 0.8]]])
    torch.testing.assert_close(sample_at(ramp, where), torch.tensor([[2.0, 4.0, 5.6]]))
    column = (torch.arange(4) + 0.5)[:, None].expand(1, 4, 8)
    torch.testing.assert_close(sample_at(column, torch.tensor([[[0.5, 0.25]]])), torch.tensor([[1.0]]))


def test_points_gather_where_the_mask_is_undecided() -> None:
    x = torch.arange(64) - 31.5
    logits = x.expand(1, 64, 64)  # undecided along the middle column
    where = uncertain_points(logits, 400, generator=generator())
    assert where.shape == (1, 400, 2)
    assert where.min() >= 0
    assert where.max() <= 1
    hard, free = where[0, :300], where[0, 300:]
    # the least decided 300 of 1200 evenly drawn points lie about an eighth of the width to either side
    assert (hard[:, 0] - 0.5).abs().max() < 0.2
    assert (free[:, 0] - 0.5).abs().max() > 0.3


def test_mask_losses_on_constant_masks() -> None:
    """Where truth and logits are constant, sampling cannot matter (away from the border's zero padding)."""
    target = torch.zeros(2, 32, 32)
    predictions = [torch.full((2, 8, 8), 1.5), torch.zeros(2, 8, 8)]
    bce, dice = mask_losses(predictions, target, points=64, masks=5, generator=generator())
    # bilinear reading fades to zero at the outer half cell, hence bounds for the first prediction
    ceiling = 2 * (math.log1p(math.exp(1.5)) + math.log(2)) / 5
    assert 2 * 2 * math.log(2) / 5 < float(bce) <= ceiling
    assert 0 < float(dice) < 2 * 2 / 5


def test_unknown_pixels_teach_nothing() -> None:
    torch.manual_seed(0)
    target = torch.zeros(1, 32, 32)
    target[:, :, 16:] = 1
    known = torch.ones(1, 32, 32)
    known[:, 10:20] = 0
    # stride 1, so that a logit's pixel is known or not as a whole
    logits = torch.randn(1, 32, 32, requires_grad=True)
    first = mask_losses([logits], target, known=known, points=2000, generator=generator())
    sum(first).backward()
    assert logits.grad is not None
    assert logits.grad[:, 11:19].abs().max() == 0
    assert logits.grad[:, :9].abs().sum() > 0
    flipped = torch.where(known > 0, target, 1 - target)
    again = mask_losses([logits], flipped, known=known, points=2000, generator=generator())
    torch.testing.assert_close(torch.stack(first), torch.stack(again))
    everywhere = mask_losses([logits], flipped, points=2000, generator=generator())
    assert float(everywhere[0].detach()) > 1.1 * float(first[0].detach())


def test_mask_losses_fall_towards_the_truth() -> None:
    target = torch.zeros(1, 32, 32)
    target[:, 8:24, 8:24] = 1
    good = torch.where(target > 0, 8.0, -8.0)[:, 2::4, 2::4]
    values = [
        sum(mask_losses([x], target, points=1000, generator=generator())) for x in (good, torch.zeros_like(good), -good)
    ]
    assert float(values[0]) < float(values[1]) < float(values[2])


BOX = torch.tensor([[8.0, 12.0, 24.0, 28.0]])
FIRST = torch.zeros(1, dtype=torch.int64)


def filled(x0: int, y0: int, x1: int, y1: int) -> Tensor:
    logits = torch.full((1, 10, 10), -12.0)
    logits[:, y0:y1, x0:x1] = 12.0
    return logits


def test_projection_wants_every_row_and_column_of_the_box() -> None:
    full = float(box_projection_loss(filled(2, 3, 6, 7), BOX, FIRST, 4))
    assert full == pytest.approx(0, abs=1e-3)
    diagonal = torch.full((1, 10, 10), -12.0)
    for i in range(4):
        diagonal[0, 3 + i, 2 + i] = 12.0
    assert float(box_projection_loss(diagonal, BOX, FIRST, 4)) == pytest.approx(0, abs=1e-3)
    half = float(box_projection_loss(filled(2, 3, 4, 7), BOX, FIRST, 4))
    nothing = float(box_projection_loss(filled(0, 0, 0, 0), BOX, FIRST, 4))
    assert full + 0.1 < half < nothing
    # what lies outside the box is another term's business
    assert float(box_projection_loss(filled(0, 0, 10, 10), BOX, FIRST, 4)) == pytest.approx(0, abs=1e-3)


def test_projection_takes_the_mask_of_each_box_and_thin_boxes_too() -> None:
    both = torch.cat([filled(2, 3, 6, 7), filled(0, 0, 0, 0)])
    assert float(box_projection_loss(both, BOX, FIRST, 4)) < 0.01
    assert float(box_projection_loss(both, BOX, FIRST + 1, 4)) > 1
    thin = torch.tensor([[9.0, 13.0, 10.0, 27.0]])  # a quarter of a cell wide
    logits = torch.zeros(1, 10, 10, requires_grad=True)
    box_projection_loss(logits, thin, FIRST, 4).backward()
    assert logits.grad is not None
    assert logits.grad[0, :, 2].abs().sum() > 0
    assert logits.grad.isfinite().all()


def test_outside_loss_is_bce_over_the_outside() -> None:
    logits = torch.tensor([[[1.0, -2.0], [0.5, 3.0]]])
    outside = torch.tensor([[[True, True], [False, False]]])
    want = -(math.log(1 - sigmoid(1.0)) + math.log(1 - sigmoid(-2.0))) / 2
    assert float(outside_loss(logits, outside)) == pytest.approx(want, rel=1e-5)
    assert float(outside_loss(logits, outside & False)) == 0


def test_pairwise_loss_asks_one_label_of_one_colour() -> None:
    everywhere = torch.ones(1, 8, 8, dtype=torch.bool)
    grey = torch.full((1, 3, 8, 8), 90.0)
    agreed = torch.full((1, 8, 8), 15.0)
    assert float(pairwise_colour_loss(agreed, grey, everywhere)) == pytest.approx(0, abs=1e-4)
    split = agreed.clone()
    split[:, :, 4:] = -15
    assert float(pairwise_colour_loss(split, grey, everywhere)) > 1
    edge = grey.clone()
    edge[..., 4:] = 220  # the same cut is free where the colour changes
    assert float(pairwise_colour_loss(split, edge, everywhere)) == pytest.approx(0, abs=1e-4)
    assert float(pairwise_colour_loss(split, grey, ~everywhere)) == 0


def test_pairwise_neighbours_in_all_four_directions() -> None:
    """One odd cell in the middle disagrees with its eight neighbours at distance two, each pair counted once."""
    inside = torch.ones(1, 9, 9, dtype=torch.bool)
    logits = torch.full((1, 9, 9), 20.0)
    logits[0, 4, 4] = -20
    image = torch.zeros(1, 3, 9, 9)
    pairs = 2 * 9 * 7 + 2 * 7 * 7
    assert float(pairwise_colour_loss(logits, image, inside)) == pytest.approx(8 * (20 - math.log(2)) / pairs)


def test_gradients_are_finite_at_extreme_logits() -> None:
    target = torch.zeros(2, 32, 32)
    target[0, :16] = 1
    images = torch.rand(2, 3, 8, 8) * 255
    boxes, owner = torch.tensor([[0.0, 0, 32, 32], [40, 40, 60, 60]]), torch.tensor([0, 1])
    inside = torch.ones(2, 8, 8, dtype=torch.bool)
    for scale in (0.0, 1.0, 1e4):
        logits = (torch.randn(2, 8, 8) * scale).requires_grad_()
        terms = [
            *mask_losses([logits], target, points=32),
            box_projection_loss(logits, boxes, owner, 4),
            outside_loss(logits, inside),
            pairwise_colour_loss(logits, images, inside),
        ]
        total = torch.stack(terms).sum()
        total.backward()
        assert total.isfinite()
        assert logits.grad is not None
        assert logits.grad.isfinite().all()


def test_no_boxes_is_no_loss() -> None:
    logits = torch.zeros(1, 4, 4, requires_grad=True)
    loss = box_projection_loss(logits, torch.zeros(0, 4), torch.zeros(0, dtype=torch.int64), 4)
    loss.backward()
    assert float(loss.detach()) == 0
