"""Cuts that turn, flip and scale: pixels, labels and boxes go to one place."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from terraprompt.training.augment import CropMap, change_light

S = 64


def apply(crop_map: CropMap, xy: np.ndarray) -> np.ndarray:
    """Source points to crop points, by the documented formula."""
    return (xy - crop_map.centre) @ np.linalg.inv(np.array(crop_map.matrix)).T + crop_map.size / 2


def test_identity_returns_the_source() -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (S, S, 3)).astype(np.uint8)
    ids = rng.integers(0, 9, (S, S)).astype(np.int32)
    same = CropMap.make(S, (S / 2, S / 2), 1.0, 0.0, False)
    assert np.array_equal(same.image(image), image)
    assert np.array_equal(same.labels(ids), ids)
    assert same.scale == 1


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("quarters", range(4))
def test_quarter_turns_and_flips_are_exact(quarters: int, flip: bool) -> None:
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (S, S, 3)).astype(np.uint8)
    ids = rng.integers(0, 70_000, (S, S)).astype(np.int32)
    crop_map = CropMap.make(S, (S / 2, S / 2), 1.0, quarters * math.pi / 2, flip)
    for source, out in ((ids, crop_map.labels(ids)), (image, crop_map.image(image))):
        want = np.rot90(source, quarters)  # source = R @ crop turns the picture the other way round
        want = want[:, ::-1] if flip else want
        # bilinear values are truncated: turned by pi as a float, a whole number can end up one below
        assert np.abs(out.astype(int) - want).max() <= (source is image)


@given(
    x=st.floats(30, 70), y=st.floats(30, 70), scale=st.floats(0.5, 3), turn=st.floats(-4, 4), flip=st.booleans(),
)  # fmt: skip
def test_a_disc_lands_where_the_formula_says(x: float, y: float, scale: float, turn: float, flip: bool) -> None:
    ys, xs = np.mgrid[:100, :100] + 0.5
    disc = ((xs - x) ** 2 + (ys - y) ** 2 < 9**2).astype(np.int32)
    crop_map = CropMap.make(S, (50.0, 50.0), scale, turn, flip)
    assert crop_map.scale == pytest.approx(scale)
    spot = apply(crop_map, np.array([x, y]))
    reach = 9 * scale
    if not (reach < spot[0] < S - reach and reach < spot[1] < S - reach):
        return  # partly outside: its centroid says nothing
    out = crop_map.labels(disc)
    rows, cols = np.nonzero(out)
    assert (cols.mean() + 0.5, rows.mean() + 0.5) == pytest.approx(tuple(spot), abs=0.75)
    assert out.sum() == pytest.approx(disc.sum() * scale**2, rel=0.12)


@given(
    scale=st.floats(0.3, 3), quarters=st.integers(0, 3), flip=st.booleans(), x=st.floats(40, 60), y=st.floats(40, 60),
)  # fmt: skip
def test_boxes_hold_their_object(scale: float, quarters: int, flip: bool, x: float, y: float) -> None:
    ids = np.zeros((100, 100), np.int32)
    ids[44:53, 40:62] = 1
    crop_map = CropMap.make(S, (x, y), scale, quarters * math.pi / 2, flip)
    (box,) = crop_map.boxes(np.array([[40.0, 44, 62, 53]]))
    rows, cols = np.nonzero(crop_map.labels(ids))
    assert len(rows)
    found = (cols.min(), rows.min(), cols.max() + 1, rows.max() + 1)
    assert found == pytest.approx(tuple(box), abs=0.51)


def test_boxes_are_clipped_and_none_is_fine() -> None:
    crop_map = CropMap.make(S, (50.0, 50.0), 1.0, 0.0, False)
    assert crop_map.boxes(np.array([[0.0, 0, 30, 100]])).tolist() == [[0, 0, 12, 64]]
    assert crop_map.boxes(np.zeros((0, 4))).shape == (0, 4)


def test_image_and_labels_agree_when_shrinking() -> None:
    """The box filter before shrinking must not shift the picture."""
    source = np.zeros((203, 301, 3), np.uint8)  # odd sides: the last cell of the reduced picture is a part
    source[60:141, 90:190] = 255
    ids = (source[..., 0] > 0).astype(np.int32)
    for scale in (0.2, 0.25, 0.34, 0.5, 0.9):
        crop_map = CropMap.make(S, (140.0, 100.0), scale, 0.3, True)
        picture, truth = crop_map.image(source)[..., 0] > 127, crop_map.labels(ids) > 0
        assert np.count_nonzero(picture != truth) <= 0.1 * truth.sum()
        for axis in (0, 1):
            a, b = (np.nonzero(m)[axis].mean() for m in (picture, truth))
            assert a == pytest.approx(b, abs=0.3)


def test_outside_is_black_and_unlabelled() -> None:
    crop_map = CropMap.make(S, (0.0, 0.0), 1.0, 0.0, False)
    image, ids = np.full((40, 40, 3), 200, np.uint8), np.ones((40, 40), np.int32)
    assert not crop_map.image(image)[:31].any()
    assert not crop_map.labels(ids)[:, :32].any()
    assert crop_map.labels(ids)[32:, 32:].all()


def test_light_changes_colours_not_shapes() -> None:
    image = np.zeros((48, 48, 3), np.uint8)
    image[:, 24:] = 200
    seen = set()
    for seed in range(200):
        out = change_light(image, np.random.default_rng(seed))
        assert out.shape == image.shape
        assert out.dtype == np.uint8
        assert out[:, 30:].mean() > out[:, :18].mean() + 8, seed
        assert np.array_equal(out, change_light(image, np.random.default_rng(seed)))
        seen.add(out.tobytes())
    assert len(seen) > 150
    for shape in ((16, 16, 3), (30, 40, 3), (1, 9, 3)):
        flat = np.full(shape, 128, np.uint8)
        assert all(change_light(flat, np.random.default_rng(seed)).shape == shape for seed in range(60))
