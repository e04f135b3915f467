"""Sieve and labels against a pixel-wise reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio import Affine
from scipy import ndimage

from terraprompt.outputs.vectorize.runs import Runs, SizeRule, label_objects, sieve
from terraprompt.raster.pixel_area import ground_area

EIGHT = np.ones((3, 3))
FOUR = ndimage.generate_binary_structure(2, 1)


def reference(mask: np.ndarray, smallest: int, smallest_hole: int) -> np.ndarray:
    """The documented sieve, component by component."""
    out = mask.copy()
    label, count = ndimage.label(out == 1, structure=EIGHT)
    for k in range(1, count + 1):
        if (label == k).sum() < smallest:
            out[label == k] = 0
    label, count = ndimage.label(out == 0, structure=FOUR)
    filled = out.copy()
    for k in range(1, count + 1):
        hole = label == k
        edge = hole[0].any() or hole[-1].any() or hole[:, 0].any() or hole[:, -1].any()
        unknown = (ndimage.binary_dilation(hole, EIGHT) & (out == 255)).any()
        if hole.sum() < smallest_hole and not edge and not unknown:
            filled[hole] = 1
    return filled


masks = st.tuples(st.integers(1, 16), st.integers(1, 16)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 0, 1, 1, 1, 1, 255]))
)


@settings(max_examples=250, deadline=None)
@given(mask=masks, strip=st.integers(1, 16), smallest=st.integers(1, 9), hole=st.integers(1, 9))
def test_sieve_does_what_it_says_however_the_rows_are_cut(
    mask: np.ndarray, strip: int, smallest: int, hole: int
) -> None:
    height, width = mask.shape
    strips = (mask[top : top + strip] for top in range(0, height, strip))
    runs = sieve(strips, width, height, keep=SizeRule(smallest), fill=SizeRule(hole))
    expected = reference(mask, smallest, hole)
    np.testing.assert_array_equal(runs.decode(0, height), expected)

    objects = label_objects(runs, height)
    label, count = ndimage.label(expected == 1, structure=EIGHT)
    assert objects.count == count
    np.testing.assert_array_equal(objects.paint(0, height, np.arange(count + 1)), label)


@pytest.mark.parametrize("density", [0.3, 0.59, 0.7])
def test_long_winding_components_survive_every_cut(density: float) -> None:
    """Near the percolation threshold components wind through many strips."""
    rng = np.random.default_rng(3)
    mask = (rng.random((150, 130)) < density).astype(np.uint8)
    mask[rng.random(mask.shape) < 0.01] = 255
    expected = reference(mask, 40, 25)
    for strip in (1, 7, 64, 150):
        strips = (mask[top : top + strip] for top in range(0, 150, strip))
        runs = sieve(strips, 130, 150, keep=SizeRule(40), fill=SizeRule(25))
        np.testing.assert_array_equal(runs.decode(0, 150), expected)


def test_nodata_never_changes_and_a_speck_beside_it_goes() -> None:
    mask = np.full((9, 9), 255, np.uint8)
    mask[3:6, 3:6] = 0
    mask[4, 4] = 1
    runs = sieve([mask], 9, 9, keep=SizeRule(4), fill=SizeRule(20))
    got = runs.decode(0, 9)
    assert (got[mask == 255] == 255).all()
    assert (got[3:6, 3:6] == 0).all(), "a speck among nodata goes, and what touches nodata is not filled"


def test_a_diagonal_gap_of_single_pixels_is_a_row_of_holes() -> None:
    mask = np.ones((12, 12), np.uint8)
    mask[np.arange(1, 11), np.arange(1, 11)] = 0
    unfilled = sieve([mask], 12, 12, keep=SizeRule(4), fill=SizeRule())
    assert label_objects(unfilled, 12).count == 1
    assert sieve([mask], 12, 12, keep=SizeRule(4), fill=SizeRule(4)).decode(0, 12).all()


def test_a_gap_of_two_pixels_keeps_two_objects_apart() -> None:
    mask = np.ones((12, 12), np.uint8)
    mask[np.arange(12), np.arange(12)] = 0
    mask[np.arange(11), np.arange(1, 12)] = 0
    runs = sieve([mask], 12, 12, keep=SizeRule(4), fill=SizeRule(4))
    assert label_objects(runs, 12).count == 2


def test_area_rule_follows_the_ground_not_the_pixels() -> None:
    """The same 100 pixels cover half as much ground at 60 degrees north as on the equator."""
    transform = Affine(0.01, 0, 0, 0, -0.01, 70)
    mask = np.zeros((7100, 40), np.uint8)
    mask[1000:1010, 10:20] = 1  # at 60 degrees
    mask[6990:7000, 10:20] = 1  # on the equator
    ground = ground_area("EPSG:4326", transform, 40, 7100)
    assert ground is not None
    rule = SizeRule(1, 90e6, ground)
    runs = sieve([mask[:3000], mask[3000:]], 40, 7100, keep=rule, fill=SizeRule())
    got = runs.decode(0, 7100)
    assert got[1000:1010].sum() == 0
    assert got[6990:7000].sum() == 100


def test_runs_come_back_as_they_were() -> None:
    mask = np.random.default_rng(0).choice([0, 1, 255], (20, 13)).astype(np.uint8)
    runs = Runs.concatenate([Runs.encode(mask[:7], 0), Runs.encode(mask[7:], 7)])
    np.testing.assert_array_equal(runs.decode(0, 20), mask)
    np.testing.assert_array_equal(runs.decode(5, 11), mask[5:11])
