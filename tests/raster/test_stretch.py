"""One stretch for the whole file."""

from __future__ import annotations

import numpy as np
import pytest
import rasterio
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scene_rasters import NORTH_UP, UTM

from terraprompt.errors import ConfigError, SceneError
from terraprompt.raster import Scene, Stretch, estimate_stretch, open_scene
from terraprompt.raster import stretch as stretching


def ramp(low: float, high: float, dtype: str, bands: int = 3, size: int = 200) -> np.ndarray:
    plane = np.linspace(low, high, size * size).reshape(size, size)
    return np.stack([plane] * bands).astype(dtype)


def test_eight_bit_colour_stays_as_it_is(make_raster):
    values = ramp(20, 90, "uint8")
    with open_scene(make_raster(values)) as scene:
        stretch = estimate_stretch(scene)
        assert stretch.mode == "none"
        np.testing.assert_array_equal(stretch.apply(values), np.moveaxis(values, 0, -1))
        assert estimate_stretch(scene, "percentile").mode == "percentile"


def test_nearly_flat_eight_bit_colour_is_stretched_with_its_hues(make_raster):
    values = ramp(10, 20, "uint8") + np.array([0, 3, 6], np.uint8)[:, None, None]
    with open_scene(make_raster(values)) as scene:
        stretch = estimate_stretch(scene)
        assert stretch.mode == "percentile"
        assert len(set(stretch.low)) == len(set(stretch.high)) == 1
        red, _, blue = np.moveaxis(stretch.apply(values), -1, 0)
        assert (blue.astype(int) >= red).all()
        assert np.ptp(stretch.apply(values)) == 255


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
def test_other_rasters_go_from_percentile_2_to_98(make_raster, dtype):
    low, high = (10, 250) if dtype == "uint8" else (300, 8300)
    values = ramp(low, high, dtype, bands=1)
    with open_scene(make_raster(values)) as scene:
        stretch = estimate_stretch(scene)
        assert stretch.low[0] == pytest.approx(low + 0.02 * (high - low), rel=0.02, abs=1)
        assert stretch.high[0] == pytest.approx(low + 0.98 * (high - low), rel=0.02, abs=1)
        seen = stretch.apply(values)
        assert (seen.shape, seen.dtype) == ((200, 200, 3), np.uint8)
        assert (seen[..., 0] == seen[..., 2]).all()
        assert (seen[0, 0, 0], seen[-1, -1, 0]) == (0, 255)


def test_each_band_has_its_own_limits(make_raster):
    values = ramp(0, 1000, "uint16") * np.array([1, 2, 3], np.uint16)[:, None, None]
    with open_scene(make_raster(values)) as scene:
        assert np.ptp(estimate_stretch(scene).apply(values), axis=(0, 1)).tolist() == [255] * 3


def test_nodata_nan_and_infinity_do_not_count(make_raster):
    clean = ramp(100, 200, "float32", bands=1)
    dirty = clean.copy()
    dirty[0, :60], dirty[0, 60:70], dirty[0, 70:80] = -9999, np.nan, np.inf
    with open_scene(make_raster(dirty, nodata=-9999)) as scene:
        stretch = estimate_stretch(scene)
        assert stretch.low[0] > 130
        assert stretch.high[0] < 201
        assert stretch.apply(dirty)[65, 0].tolist() == [0, 0, 0]


def test_the_extent_does_not_change_the_stretch(make_raster):
    path = make_raster(ramp(0, 5000, "uint16"))
    with open_scene(path) as whole, open_scene(path, bbox=(10, 20, 60, 50), bbox_crs="pixel") as part:
        assert estimate_stretch(whole) == estimate_stretch(part)


@pytest.mark.parametrize("overviews", [False, True])
def test_large_files_are_sampled(make_raster, overviews):
    values = np.random.default_rng(0).integers(1000, 2000, (1, 4100, 4100), np.uint16)
    path = make_raster(values, tiled=True)
    if overviews:
        with rasterio.open(path, "r+") as dataset:
            dataset.build_overviews([4])
    with open_scene(path) as scene:
        stretch = estimate_stretch(scene)
        assert stretch.low[0] == pytest.approx(1020, abs=6)
        assert stretch.high[0] == pytest.approx(1980, abs=6)


def test_all_nodata_is_an_error(make_raster):
    path = make_raster(np.zeros((3, 50, 50), np.uint8), nodata=0)
    with open_scene(path) as scene, pytest.raises(SceneError, match="No pixel of the scene is valid"):
        estimate_stretch(scene, "none")


def test_one_valid_pixel_in_a_large_file_is_found(tmp_path):
    path = tmp_path / "lonely.tif"
    profile = {
        "driver": "GTiff",
        "crs": UTM,
        "transform": NORTH_UP,
        "compress": "deflate",
        "tiled": True,
        "nodata": 0,
    }
    with rasterio.open(path, "w", width=4500, height=4500, count=1, dtype="uint16", **profile) as out:
        out.write(np.full((1, 1, 1), 77, np.uint16), window=rasterio.windows.Window(4111, 3333, 1, 1))
    with open_scene(path) as scene:
        assert estimate_stretch(scene).low == (77.0,)


def test_a_constant_scene_has_a_stretch(make_raster):
    values = np.full((1, 30, 30), 500, np.uint16)
    with open_scene(make_raster(values)) as scene:
        assert np.ptp(estimate_stretch(scene).apply(values)) == 0


def test_none_cuts_to_bytes(make_raster):
    with open_scene(make_raster(ramp(0, 1000, "int16"))) as scene:
        stretch = estimate_stretch(scene, "none")
        assert stretch.apply(np.array([-5, 7, 300], np.int16).reshape(1, 1, 3))[0, :, 0].tolist() == [
            0,
            7,
            255,
        ]


def test_bad_options(make_raster):
    with open_scene(make_raster(ramp(0, 90, "uint8"))) as scene:
        with pytest.raises(ConfigError, match="Unknown stretch"):
            estimate_stretch(scene, "loud")
        with pytest.raises(ConfigError, match="Percentiles"):
            estimate_stretch(scene, percentiles=(98, 2))


def test_integer_tables_agree_with_arithmetic():
    stretch = Stretch("percentile", (-100.0,), (5000.0,))
    values = np.random.default_rng(1).integers(-400, 6000, (1, 40, 40), np.int16)
    np.testing.assert_array_equal(stretch.apply(values), stretch.apply(values.astype(np.float32)))


@given(
    values=arrays(np.uint16, st.integers(1, 60), elements=st.integers(0, 65535)),
    percentiles=st.tuples(st.floats(0, 49), st.floats(50, 100)),
)
def test_percentiles_of_counts_are_those_of_the_values(values, percentiles):
    expected = tuple(np.percentile(values.astype(np.float64), percentiles))
    assert stretching._limits(np.bincount(values, minlength=65536), percentiles) == expected


@given(seed=st.integers(0, 500), width=st.integers(0, 60), part=st.floats(0, 1), percentiles=st.sampled_from([(2, 98)]))
def test_part_of_a_sample_proves_no_wider_span_than_the_whole_has(seed, width, part, percentiles):
    rng = np.random.default_rng(seed)
    values = np.sort(rng.integers(60, 61 + width, (3, 400)), axis=1) if seed % 2 else rng.integers(0, 256, (3, 400))
    seen = [np.bincount(plane[: int(part * 400)], minlength=256) for plane in values]
    limits = np.percentile(values, percentiles, axis=1)
    assert stretching._Sample(seen, 400).span(percentiles) <= limits[1].max() - limits[0].min()


@pytest.mark.parametrize(
    ("dtype", "top", "nodata", "reads"), [("uint8", 250, None, 150), ("uint8", 30, None, 256), ("uint16", 900, 0, 256)]
)
def test_large_files_are_looked_at_until_the_answer_is_sure(make_raster, monkeypatch, dtype, top, nodata, reads):
    monkeypatch.setattr(stretching, "_READ_WHOLE", 1000)
    values = np.random.default_rng(5).integers(0, top, (3, 1100, 1100)).astype(dtype)
    values[:, :300] = 0 if nodata is not None else values[:, :300] % 2  # dark, but no collar of one value
    asked = []
    read = Scene.read
    monkeypatch.setattr(Scene, "read", lambda self, *a, **k: asked.append(a) or read(self, *a, **k))
    with open_scene(make_raster(values, nodata=nodata)) as scene:
        stretch = estimate_stretch(scene)
    assert len(asked) <= reads
    places = np.linspace(0, 1100 - 64, 16).astype(int)
    sample = np.concatenate([values[:, y : y + 64, x : x + 64].reshape(3, -1) for y in places for x in places], axis=1)
    planes = [sample[0], sample[1], sample[2]]
    if nodata is not None:
        planes = [plane[(sample != nodata).any(0)] for plane in planes]
    low, high = np.array([np.percentile(plane.astype(float), (2, 98)) for plane in planes]).T
    if dtype == "uint8":
        low, high = ([0.0], [255.0]) if high.max() - low.min() >= 32 else ([low.min()], [high.max()])
        low, high = low * 3, high * 3
    assert (stretch.low, stretch.high) == (tuple(low), tuple(high))
