"""A scene for pictures, also after it was closed; and as notebooks show it."""

from __future__ import annotations

import base64
import io
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from PIL import Image
from rasterio.transform import from_origin

from terraprompt.errors import SceneError
from terraprompt.raster import ScenePreview, estimate_stretch, open_scene

SQUARES = np.zeros((3, 40, 60), np.uint8)
SQUARES[0, 10:30, 10:30] = 200
SQUARES[1, :, 40:] = 100


def write(path: Path, bands: np.ndarray = SQUARES, **profile: Any) -> Path:
    profile = {"crs": "EPSG:32633", "transform": from_origin(5e5, 5.4e6, 0.5, 0.5), **profile}
    count, height, width = bands.shape
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=count, dtype=bands.dtype, **profile
    ) as out:
        out.write(bands)
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bands": [2]},
        {"bbox": (5, 5, 45, 35), "bbox_crs": "pixel"},
        {"nodata": 100.0},
        {"bands": [3, 2, 1], "bbox": (0, 0, 30, 30), "bbox_crs": "pixel", "nodata": "none"},
    ],
)
def test_a_closed_scene_is_read_as_it_was(tmp_path: Path, options: dict[str, Any]) -> None:
    with open_scene(write(tmp_path / "s.tif"), **options) as scene:
        preview = ScenePreview(scene, estimate_stretch(scene, "auto"))
        size = scene.height, scene.width
        seen = preview(*size)
    assert not scene.is_open
    np.testing.assert_array_equal(preview(*size), seen)
    assert seen.shape == (*size, 3)
    assert seen.max() > 0


def test_a_vrt_and_its_members_too(tmp_path: Path) -> None:
    write(tmp_path / "s.tif")
    vrt = tmp_path / "s.vrt"
    with rasterio.open(tmp_path / "s.tif") as data, rasterio.vrt.WarpedVRT(data) as warped:
        rasterio.shutil.copy(warped, vrt, driver="VRT")
    with open_scene(vrt) as scene:
        preview = ScenePreview(scene, estimate_stretch(scene, "auto"))
        seen = preview(40, 60)
    np.testing.assert_array_equal(preview(40, 60), seen)
    write(tmp_path / "s.tif", 255 - SQUARES)
    os.utime(tmp_path / "s.tif", (1, 1))
    with pytest.raises(SceneError, match="changed on disk"):
        preview(40, 60)


@pytest.mark.parametrize("fate", ["removed", "replaced", "smaller", "touched"])
def test_another_file_under_the_name_is_refused(tmp_path: Path, fate: str) -> None:
    path = write(tmp_path / "s.tif")
    with open_scene(path) as scene:
        preview = ScenePreview(scene, estimate_stretch(scene, "auto"))
    if fate == "removed":
        path.unlink()
    elif fate == "touched":
        os.utime(path, (1, 1))
    else:
        write(path, SQUARES[:, :20] if fate == "smaller" else 255 - SQUARES)
        os.utime(path, (1, 1))
    with pytest.raises(SceneError, match="changed on disk"):
        preview(40, 60)


@pytest.mark.parametrize(
    ("profile", "options", "said"),
    [
        ({}, {}, "60 x 40 px, bands (1, 2, 3), uint8, EPSG:32633, 0.5 m)"),
        ({"crs": None, "transform": None}, {}, "60 x 40 px, bands (1, 2, 3), uint8, no CRS)"),
        ({}, {"bbox": (5, 5, 45, 35), "bbox_crs": "pixel"}, "40 x 30 px, bands (1, 2, 3), uint8, EPSG:32633, 0.5 m)"),
        ({"crs": "+proj=laea +lat_0=52 +lon_0=10"}, {"bands": [1]}, "bands (1,), uint8, 'unknown', 0.5 m)"),
        ({"crs": "EPSG:4326", "transform": from_origin(10, 50, 1e-5, 1e-5)}, {}, "EPSG:4326, 0.893 m)"),
    ],
)
def test_a_scene_prints_as_one_line(tmp_path: Path, profile: Any, options: Any, said: str) -> None:
    with open_scene(write(tmp_path / "s.tif", **profile), **options) as scene:
        assert repr(scene).endswith(said)
        assert len(repr(scene)) < 200 + len(str(tmp_path))


def test_a_scene_as_a_notebook_shows_it(tmp_path: Path) -> None:
    with open_scene(write(tmp_path / "<b>x.tif")) as scene:
        html = scene._repr_html_()
    assert "&lt;b&gt;x.tif" in html
    assert "<b>x" not in html
    assert "EPSG:32633" in html
    picture = Image.open(io.BytesIO(base64.b64decode(html.split("base64,")[1].split('"')[0])))
    assert picture.size == (60, 40)
    assert "closed" in scene._repr_html_()
    assert "<img" not in scene._repr_html_()


def test_a_scene_without_a_valid_pixel_has_a_card_too(tmp_path: Path) -> None:
    with open_scene(write(tmp_path / "s.tif", np.zeros_like(SQUARES), nodata=0)) as scene:
        assert "60 x 40 pixels" in scene._repr_html_()
