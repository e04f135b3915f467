"""Outlines: exact, valid, simplified without damage."""

from __future__ import annotations

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rasterio.features import rasterize, shapes
from scipy import ndimage

from terraprompt.geometry.connectivity import label as label_mask
from terraprompt.outputs.vectorize import trace as trace_module
from terraprompt.outputs.vectorize.runs import ObjectRuns, SizeRule, label_objects, sieve
from terraprompt.outputs.vectorize.trace import outline


def objects_of(mask: np.ndarray, smallest: int = 1) -> ObjectRuns:
    height, width = mask.shape
    runs = sieve([mask.astype(np.uint8)], width, height, keep=SizeRule(smallest), fill=SizeRule())
    return label_objects(runs, height)


def blobs(size: int, sigma: float, seed: int = 0) -> np.ndarray:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(size, size)), sigma)
    return noise > 0.7 * noise.std()


def overlap(polygons: np.ndarray) -> float:
    """Area that two polygons both claim."""
    i, j = shapely.STRtree(polygons).query(polygons, predicate="intersects")
    pair = i < j
    return float(shapely.area(shapely.intersection(polygons[i[pair]], polygons[j[pair]])).sum())


def holes(polygons: np.ndarray) -> np.ndarray:
    parts, index = shapely.get_parts(polygons, return_index=True)
    return np.bincount(index, weights=shapely.get_num_interior_rings(parts), minlength=len(polygons))


masks = st.tuples(st.integers(1, 12), st.integers(1, 12)).flatmap(lambda shape: arrays(bool, shape))


@settings(max_examples=300, deadline=None)
@given(mask=masks)
def test_an_outline_is_its_pixels(mask: np.ndarray) -> None:
    label, count = label_mask(mask)
    polygons = outline(objects_of(mask), 0)
    assert len(polygons) == count
    assert shapely.is_valid(polygons).all()
    for k, polygon in enumerate(polygons, start=1):
        assert polygon.area == (label == k).sum()
        y, x = np.nonzero(label == k)
        assert shapely.contains_xy(polygon, x + 0.5, y + 0.5).all()


@settings(max_examples=300, deadline=None)
@given(mask=masks)
def test_default_smoothing_keeps_polygons_valid_and_apart(mask: np.ndarray) -> None:
    objects = objects_of(mask)
    polygons = outline(objects, 0.75)
    assert len(polygons) == objects.count
    assert shapely.is_valid(polygons).all()
    assert not shapely.is_empty(polygons).any()
    assert overlap(polygons) == 0
    exact = outline(objects, 0)
    assert (holes(polygons) == holes(exact)).all()


@pytest.mark.parametrize("rows_at_once", [1, 50, 1 << 18])
def test_the_same_as_gdal_whatever_the_chunks(rows_at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trace_module, "_RUNS_AT_ONCE", rows_at_once)
    mask = blobs(200, 2)
    label, count = label_mask(mask)
    polygons = outline(objects_of(mask), 0)
    expected = {int(v): shapely.geometry.shape(s) for s, v in shapes(label, mask=mask, connectivity=8)}
    assert len(polygons) == count == len(expected)
    for number, polygon in expected.items():
        assert shapely.equals(polygons[number - 1], shapely.make_valid(polygon))


def test_thousands_of_objects_none_split() -> None:
    mask = blobs(1200, 2, seed=5)
    label, count = label_mask(mask)
    objects = objects_of(mask)
    assert count > 3000
    assert objects.count == count
    polygons = outline(objects, 0.75)
    points = shapely.point_on_surface(outline(objects, 0))
    x, y = shapely.get_coordinates(points).T
    np.testing.assert_array_equal(label[y.astype(int), x.astype(int)], np.arange(1, count + 1))
    parts = ndimage.label(mask)[1]
    assert (shapely.get_num_geometries(polygons) >= 1).all()
    assert shapely.get_num_geometries(polygons).sum() == parts


@pytest.mark.parametrize("tolerance", [0.75, 1.5, 3.0])
def test_simplified_polygons_are_valid_apart_and_close(tolerance: float) -> None:
    mask = blobs(500, 8)
    objects = objects_of(mask, smallest=12)
    polygons = outline(objects, tolerance)
    assert shapely.is_valid(polygons).all()
    assert not shapely.is_empty(polygons).any()
    assert overlap(polygons) < 1e-9
    kept = objects.paint(0, 500, np.minimum(np.arange(objects.count + 1), 1)).astype(bool)
    drawn = rasterize(polygons, (500, 500)).astype(bool)
    assert (drawn & kept).sum() / (drawn | kept).sum() > 0.95
    corners = shapely.get_num_coordinates(polygons).sum()
    assert corners < 0.75 * shapely.get_num_coordinates(outline(objects, 0)).sum()


def test_smoothing_keeps_the_area_on_average() -> None:
    objects = objects_of(blobs(600, 8), smallest=4)
    assert shapely.area(outline(objects, 0.75)).sum() == pytest.approx(objects.pixels().sum(), rel=0.005)


def test_a_ramp_becomes_a_straight_line() -> None:
    y, x = np.mgrid[:50, :50]
    polygon = outline(objects_of(x >= y), 0.75)[0]
    assert len(polygon.exterior.coords) <= 7


def test_no_objects_no_polygons() -> None:
    assert len(outline(objects_of(np.zeros((5, 5), bool)), 0.75)) == 0
