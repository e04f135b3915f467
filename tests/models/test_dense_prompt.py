"""Points and boxes as maps: each lands where it is, to a part of a cell."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from terraprompt.models.unigeoseg.config import DensePromptConfig
from terraprompt.models.unigeoseg.dense_prompt import CHANNELS, DensePrompt, draw_prompt

SIZE = (96, 128)
NO_BOX = torch.zeros(1, 4)
NO_POINT = torch.tensor([[[0.0, 0.0, -1.0]]])
POSITIVE, NEGATIVE, WIDE_POSITIVE, WIDE_NEGATIVE, INSIDE, U, V, HAS_BOX, HAS_POINT = range(9)


def points(*rows: tuple[float, float, int]) -> Tensor:
    return torch.tensor([rows], dtype=torch.float32)


def centroid(plane: Tensor) -> tuple[float, float]:
    """(x, y) in model pixels of a map's weight."""
    weight = plane / plane.sum()
    x = (torch.arange(plane.shape[1]) + 0.5) * 4
    y = (torch.arange(plane.shape[0]) + 0.5) * 4
    return float((weight.sum(0) * x).sum()), float((weight.sum(1) * y).sum())


def test_shapes_and_ranges() -> None:
    maps = draw_prompt(points((10, 20, 1), (50, 60, 0)), torch.tensor([[8.0, 8, 40, 60]]), SIZE)
    assert maps.shape == (1, CHANNELS, 24, 32)
    assert maps.min() >= -1
    assert maps.max() <= 1
    assert CHANNELS == 9


@given(x=st.floats(32, 96), y=st.floats(32, 64))
def test_a_point_is_drawn_where_it_is(x: float, y: float) -> None:
    maps = draw_prompt(points((x, y, 1)), NO_BOX, SIZE)[0]
    assert centroid(maps[POSITIVE]) == pytest.approx((x, y), abs=0.05)
    row, col = divmod(int(maps[POSITIVE].argmax()), 32)
    assert abs((col + 0.5) * 4 - x) <= 2.001
    assert abs((row + 0.5) * 4 - y) <= 2.001
    far = maps[POSITIVE].clone()
    far[max(row - 7, 0) : row + 8, max(col - 7, 0) : col + 8] = 0
    assert far.max() < 1e-3
    assert (maps[WIDE_POSITIVE] >= maps[POSITIVE] - 1e-6).all()
    for other in (NEGATIVE, WIDE_NEGATIVE, INSIDE, U, V, HAS_BOX):
        assert not maps[other].any()
    assert (maps[HAS_POINT] == 1).all()


def test_a_negative_point_has_its_own_channels() -> None:
    positive = draw_prompt(points((40, 40, 1)), NO_BOX, SIZE)[0]
    negative = draw_prompt(points((40, 40, 0)), NO_BOX, SIZE)[0]
    assert torch.equal(negative[[NEGATIVE, POSITIVE, WIDE_NEGATIVE, WIDE_POSITIVE]], positive[:4])
    assert (negative[HAS_POINT] == 1).all()


@given(
    x0=st.floats(0, 120), y0=st.floats(0, 90), width=st.floats(0.5, 120), height=st.floats(0.5, 90),
)  # fmt: skip
def test_a_box_covers_its_area(x0: float, y0: float, width: float, height: float) -> None:
    x1, y1 = min(x0 + width, 128.0), min(y0 + height, 96.0)
    maps = draw_prompt(NO_POINT, torch.tensor([[x0, y0, x1, y1]]), SIZE)[0]
    area = (x1 - x0) * (y1 - y0)
    assert float(maps[INSIDE].sum()) * 16 == pytest.approx(area, rel=1e-3, abs=1e-2)
    assert centroid(maps[INSIDE]) == pytest.approx(centroid_of_cells(x0, y0, x1, y1), abs=0.02)
    assert (maps[HAS_BOX] == 1).all()
    assert not maps[HAS_POINT].any()


def centroid_of_cells(x0: float, y0: float, x1: float, y1: float) -> tuple[float, float]:
    """The centroid of a box once each part of it has moved to the middle of its cell."""

    def along(low: float, high: float) -> float:
        moment = length = 0.0
        cell = int(low // 4)
        while cell * 4 < high:
            part = min(high, cell * 4 + 4) - max(low, cell * 4)
            moment, length, cell = moment + part * (cell * 4 + 2), length + part, cell + 1
        return moment / length

    return along(x0, x1), along(y0, y1)


def test_coordinates_inside_a_box() -> None:
    maps = draw_prompt(NO_POINT, torch.tensor([[16.0, 32.0, 80.0, 64.0]]), SIZE)[0]
    inside = maps[INSIDE] == 1
    assert int(inside.sum()) == 16 * 8
    u, v = maps[U][inside].view(8, 16), maps[V][inside].view(8, 16)
    torch.testing.assert_close(u, ((torch.arange(16) + 0.5) / 8 - 1).expand(8, 16))
    torch.testing.assert_close(v, ((torch.arange(8) + 0.5) / 4 - 1)[:, None].expand(8, 16))
    assert not maps[[INSIDE, U, V]][:, ~inside].any()


def test_the_order_of_points_does_not_matter() -> None:
    rows = [(10.0, 20.0, 1), (50.0, 60.0, 0), (90.0, 30.0, 1), (0.0, 0.0, -1)]
    want = draw_prompt(points(*rows), NO_BOX, SIZE)
    assert torch.equal(draw_prompt(points(*rows[::-1]), NO_BOX, SIZE), want)
    assert torch.equal(draw_prompt(points(*rows[:3]), NO_BOX, SIZE), want)


def test_images_without_a_prompt_get_exactly_zero() -> None:
    torch.manual_seed(0)
    dense = DensePrompt(DensePromptConfig(16), 8)
    both = torch.cat([NO_POINT, points((30, 40, 1))])
    levels = dense(both, NO_BOX.expand(2, 4), SIZE)
    assert [tuple(x.shape) for x in levels] == [(2, 8, 96 // s, 128 // s) for s in (4, 8, 16, 32)]
    for level in levels:
        assert not level[0].any()
        assert level[1].any()
    alone = dense(both[1:], NO_BOX, SIZE)
    for a, b in zip(alone, levels, strict=True):
        torch.testing.assert_close(a, b[1:], atol=1e-6, rtol=1e-5)
    sum(x.square().sum() for x in levels).backward()
    assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in dense.parameters())
