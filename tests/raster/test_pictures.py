"""One reader of pixels: training, evaluation and forge see an image as the flow sees it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio.enums import ColorInterp

from terraprompt.datasets.sample import Sample
from terraprompt.prompt import Task
from terraprompt.raster import Tile, estimate_stretch, open_scene, read_rgb, read_tile

MakeRaster = Callable[..., Path]


@pytest.fixture
def rgb() -> np.ndarray:
    """uint8 (3, 40, 50), all levels."""
    return np.random.default_rng(0).integers(1, 256, (3, 40, 50)).astype(np.uint8)


def as_the_flow(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with open_scene(path) as scene:
        return read_tile(scene, estimate_stretch(scene), Tile(0, 0, scene.width, scene.height))


def same(path: Path) -> tuple[np.ndarray, np.ndarray]:
    """The pixels of the flow, after a check that every other reader gives them too."""
    expected, valid = as_the_flow(path)
    got, got_valid = read_rgb(path)
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(got_valid, valid)
    np.testing.assert_array_equal(Sample("a", path, Task.REFERRING, ("it",)).load_image(), expected)
    return got, got_valid


def test_tagged_bands_are_read_by_their_colour(make_raster: MakeRaster, rgb: np.ndarray) -> None:
    path = make_raster(rgb[::-1], colors=[ColorInterp.blue, ColorInterp.green, ColorInterp.red])
    np.testing.assert_array_equal(same(path)[0], np.moveaxis(rgb, 0, -1))


def test_alpha_nodata_and_masks_are_gaps(make_raster: MakeRaster, rgb: np.ndarray) -> None:
    inside = np.ones((40, 50), bool)
    inside[:, :7] = False
    alpha = make_raster(
        np.concatenate([rgb, inside[None] * np.uint8(255)]), "alpha.tif", photometric="RGB", alpha="yes"
    )
    mask = make_raster(rgb, "mask.tif", mask=inside)
    nodata = make_raster(np.where(inside, rgb, np.uint8(0)), "nodata.tif", nodata=0)
    for path in (alpha, mask, nodata):
        got, valid = same(path)
        np.testing.assert_array_equal(valid, inside)
        np.testing.assert_array_equal(got, np.where(inside[..., None], np.moveaxis(rgb, 0, -1), 0))


def test_deep_values_are_stretched_as_one(make_raster: MakeRaster, rgb: np.ndarray) -> None:
    got, _ = same(make_raster(rgb.astype(np.uint16) * 37, "deep.tif"))
    assert got.min() == 0
    assert got.max() == 255


def test_a_tile_of_nothing_but_nodata_is_black_and_invalid(make_raster: MakeRaster) -> None:
    got, valid = read_rgb(make_raster(np.zeros((3, 5, 6), np.uint8), nodata=0))
    assert got.shape == (5, 6, 3)
    assert not got.any()
    assert not valid.any()


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.bmp"])
def test_ordinary_pictures_are_those_of_pillow(name: str, rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(np.moveaxis(rgb, 0, -1)).save(tmp_path / name)
    got, valid = read_rgb(tmp_path / name)
    with Image.open(tmp_path / name) as picture:
        np.testing.assert_array_equal(got, np.asarray(picture.convert("RGB")))
    assert valid.all()


def test_transparent_pixels_of_a_picture_are_gaps(rgb: np.ndarray, tmp_path: Path) -> None:
    alpha = np.full((40, 50, 1), 255, np.uint8)
    alpha[:9] = 0
    Image.fromarray(np.concatenate([np.moveaxis(rgb, 0, -1), alpha], -1)).save(tmp_path / "a.png")
    got, valid = same(tmp_path / "a.png")
    np.testing.assert_array_equal(valid, alpha[..., 0] > 0)
    assert not got[:9].any()


def test_ordinary_pictures_and_masks_need_no_gdal(rgb: np.ndarray, tmp_path: Path) -> None:
    Image.fromarray(np.moveaxis(rgb, 0, -1)).save(tmp_path / "a.png")
    code = (
        "import sys\nfor name in ('rasterio', 'pyogrio', 'pyproj'): sys.modules[name] = None\n"
        "from pathlib import Path\nimport terraprompt.datasets.sample\n"
        "from terraprompt.raster import read_rgb\nfrom terraprompt.raster.pictures import read_values\n"
        f"print(read_rgb({str(tmp_path / 'a.png')!r})[0].shape, read_values(Path({str(tmp_path / 'a.png')!r})).shape)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "(40, 50, 3) (40, 50)", done.stderr
