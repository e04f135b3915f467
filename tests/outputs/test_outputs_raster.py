"""COG and PNG files of masks and probabilities."""

from __future__ import annotations

import json
import logging
import threading
import warnings
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio import Affine
from rasterio.crs import CRS

from terraprompt.errors import OutputError
from terraprompt.io.tiff import verify_tiff
from terraprompt.outputs import Result

Paint = Callable[..., Result]


@pytest.fixture
def large(paint: Paint) -> Result:
    mask = np.zeros((1100, 1300), np.uint8)
    mask[100:400, 200:900] = 1
    mask[700:, :300] = 255
    return paint(mask)


def test_the_mask_is_a_cog_with_tags(large: Result, tmp_path: Path) -> None:
    path = large.save_mask(tmp_path / "m.tif")
    with rasterio.open(path) as file:
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert file.compression.value == "DEFLATE"
        assert file.overviews(1) == [2, 4]
        assert file.block_shapes == [(512, 512)]
        assert file.nodata == 255
        assert file.dtypes == ("uint8",)
        assert file.crs == CRS.from_epsg(32631)
        assert file.transform == large.transform
        np.testing.assert_array_equal(file.read(1), large.mask())
        small = file.read(1, out_shape=(275, 325))
        assert set(np.unique(small)) <= {0, 1, 255}
        assert (small == 1).sum() == pytest.approx(300 * 700 / 16, rel=0.02)
        tags = file.tags()
    assert tags["TIFFTAG_SOFTWARE"] == "terraprompt 0.1.0"
    assert tags["TERRAPROMPT_INSTRUCTION"] == "the lakes, où ?"
    assert tags["TERRAPROMPT_ENGINE"] == "unigeoseg"
    assert tags["TERRAPROMPT_MODEL"] == "nano"
    assert tags["TERRAPROMPT_CHECKSUM"] == "ab12"
    assert tags["TERRAPROMPT_STATUS"] == "found"
    assert json.loads(tags["TERRAPROMPT_SETTINGS"]) == {"threshold": 0.5, "tile": 512}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.tif", "work"], "no side files"


def test_the_probability_is_a_float_cog(large: Result, tmp_path: Path) -> None:
    with rasterio.open(large.save_mask(tmp_path / "p.tif", probability=True)) as file:
        assert file.dtypes == ("float32",)
        assert np.isnan(file.nodata)
        assert file.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        np.testing.assert_array_equal(file.read(1), large.probability())
        overview = file.read(1, out_shape=(275, 325))
        assert np.isnan(overview[-1, 0])
        assert overview[50, 100] == pytest.approx(0.8808, abs=1e-3)


def test_no_target_still_writes_a_mask_that_says_so(paint: Paint, tmp_path: Path) -> None:
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 30:] = 255
    path = paint(mask, provenance={"instruction": "a\x00b\x1fc"}).save_mask(tmp_path / "m.tif")
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), mask)
        assert file.tags()["TERRAPROMPT_STATUS"] == "no_target"
        assert file.tags()["TERRAPROMPT_INSTRUCTION"] == "abc", "what XML cannot hold is left out"


def test_creation_options_win(large: Result, tmp_path: Path) -> None:
    path = large.save_mask(tmp_path / "m.tif", creation_options={"compress": "LZW", "BLOCKSIZE": 256})
    with rasterio.open(path) as file:
        assert file.compression.value == "LZW"
        assert file.block_shapes == [(256, 256)]


@pytest.mark.parametrize("option", [{"COMPRESS": "FOO"}, {"NO_SUCH_THING": "1"}])
def test_a_creation_option_that_gdal_would_drop_is_refused(large: Result, tmp_path: Path, option: dict) -> None:
    with pytest.raises(OutputError, match="creation option"):
        large.save_mask(tmp_path / "m.tif", creation_options=option)
    assert not list(tmp_path.glob("*m*.tif"))


def test_the_scene_is_never_the_output(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    scene = tmp_path / "scene.tif"
    scene.write_bytes(b"pixels")
    result = paint(squares, provenance={"source": str(scene)})
    for save, path in ((result.save_mask, scene), (result.save_picture, tmp_path / "x" / ".." / "scene.tif")):
        (tmp_path / "x").mkdir(exist_ok=True)
        with pytest.raises(OutputError, match="scene itself"):
            save(path, overwrite=True)
    assert scene.read_bytes() == b"pixels"


def test_a_rotated_scene_keeps_its_place(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    turned = Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(0.5, -0.5)
    with rasterio.open(paint(squares, transform=turned).save_mask(tmp_path / "m.tif")) as file:
        assert file.transform.almost_equals(turned, 1e-9)


def test_a_picture_without_a_place(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares, crs=None, transform=Affine.identity())
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        png = result.save_mask(tmp_path / "m.png")
        tif = result.save_mask(tmp_path / "m.tif")
    image = Image.open(png)
    assert image.mode == "P"
    np.testing.assert_array_equal(np.asarray(image), result.mask())
    colours = np.asarray(image.convert("RGBA"))
    assert colours[6, 6].tolist() == [255, 255, 255, 255]
    assert colours[0, 0].tolist() == [0, 0, 0, 255]
    assert colours[0, 75, 3] == 0
    assert image.text["TERRAPROMPT_ENGINE"] == "unigeoseg"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.png", "m.tif", "work"]
    with pytest.warns(rasterio.errors.NotGeoreferencedWarning):
        file = rasterio.open(tif)
    with file:
        assert file.crs is None
        np.testing.assert_array_equal(file.read(1), result.mask())
    with pytest.raises(OutputError, match="probabilities"):
        result.save_mask(tmp_path / "p.png", probability=True)


def test_a_selection_is_saved_alone(large: Result, paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    part = paint(squares).select([2])
    with rasterio.open(part.save_mask(tmp_path / "m.tif")) as file:
        assert (file.read(1) == 1).sum() == 100
        assert file.tags()["TERRAPROMPT_OBJECTS"] == "1"


@pytest.mark.parametrize("bigtiff", ["NO", "YES"])
def test_a_truncated_tiff_is_noticed(large: Result, tmp_path: Path, bigtiff: str) -> None:
    path = large.save_mask(tmp_path / "m.tif", creation_options={"bigtiff": bigtiff})
    verify_tiff(path)
    whole = path.read_bytes()
    for size in (0, 4, 20, 300, len(whole) // 2, len(whole) - 5):
        path.write_bytes(whole[:size])
        with pytest.raises(OutputError, match="in full"):
            verify_tiff(path)


def test_threads_do_not_hear_each_other_s_warnings(
    paint: Paint, squares: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong creation option fails the file it was meant for, not one that is written at the same time."""
    result = paint(squares)
    both = threading.Barrier(2, timeout=20)
    copy = rasterio.shutil.copy

    def together(*args: object, **options: object) -> None:
        both.wait()
        copy(*args, **options)
        both.wait()

    monkeypatch.setattr("rasterio.shutil.copy", together)
    handlers = len(logging.getLogger("rasterio").handlers)
    with ThreadPoolExecutor(2) as pool:
        wrong = pool.submit(result.save_mask, tmp_path / "a.tif", creation_options={"COMPRES": "LZW"})
        right = pool.submit(result.save_mask, tmp_path / "b.tif")
        with pytest.raises(OutputError, match="creation option"):
            wrong.result()
        assert right.result().exists()
    assert len(logging.getLogger("rasterio").handlers) == handlers
