"""Forty kinds of raster: each is read rightly, remarked on, or refused in one sentence; never a traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import rasterio
from rasterio.enums import ColorInterp

from terraprompt.errors import SceneError
from terraprompt.raster import estimate_stretch, open_scene

NOISE = np.random.default_rng(3).integers(1, 250, (5, 96, 96)).astype(np.uint8)
RGBA = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
VRT = """<VRTDataset rasterXSize="{w}" rasterYSize="{h}"><VRTRasterBand dataType="Byte" band="1"{kind}>{source}
</VRTRasterBand></VRTDataset>"""


@pytest.mark.parametrize(
    ("names", "bands"),
    [
        (["Blue", "Green", "Red", "NIR"], (3, 2, 1)),
        (["B2", "B3", "B4", "B8"], (3, 2, 1)),
        (["B02", "B03", "B04", "B08"], (3, 2, 1)),
        (["SR_B2", "SR_B3", "SR_B4", "SR_B5"], (3, 2, 1)),
        (["nir", "red", "green", "blue"], (2, 3, 4)),
        (["Red Edge", "Red", "Green", "Blue"], (2, 3, 4)),
        (["red (665 nm)", "green (560 nm)", "blue (490 nm)", "x"], (1, 2, 3)),
        (["nir", "swir", "thermal", "x"], (1, 2, 3)),
    ],
)
def test_band_order_by_names(make_raster, names, bands):
    with open_scene(make_raster(NOISE[:4].astype(np.uint16), names=names)) as scene:
        assert scene.bands == bands
        assert bool(scene.remarks) == (names[1] != "swir")


@pytest.mark.parametrize("where", ["band", "dataset"])
def test_band_order_by_catalogue_tags(make_raster, where):
    path = make_raster(NOISE[:4].astype(np.uint16))
    common = ["nir", "blue", "green", "red"]
    with rasterio.open(path, "r+") as file:
        if where == "band":
            for band, name in enumerate(common, 1):
                file.update_tags(band, **{"eo:common_name": name})
        else:
            listed = ",".join(f'{{"name": "x", "common_name": "{name}"}}' for name in common)
            file.update_tags(**{"eo:bands": f"[{listed}]"})
    with open_scene(path) as scene:
        assert scene.bands == (4, 3, 2)


def test_marked_colours_win_over_names_and_it_is_said(make_raster):
    path = make_raster(NOISE[:3], names=["Blue", "Green", "Red"], colors=RGBA[:3])
    with open_scene(path) as scene:
        assert scene.bands == (1, 2, 3)
        assert "3,2,1" in scene.remarks[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("bands", [None, [1, 2, 3]])
def test_infrared_marked_as_alpha_is_no_mask(make_raster, dtype, bands):
    values = NOISE[:4].astype(dtype)
    values[3, 60:] = 0
    with open_scene(make_raster(values, colors=RGBA), bands) as scene:
        assert scene.read(0, 0, 96, 96)[1].all()
        assert "Band 4 is marked as alpha" in scene.remarks[0]


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("nodata", [None, "none"])
def test_true_alpha_is_a_mask(make_raster, dtype, nodata):
    values = NOISE[:4].astype(dtype)
    values[3] = np.iinfo(dtype).max
    values[3, 60:] = 0
    values[3, 59] = 100  # a soft edge
    with open_scene(make_raster(values, colors=RGBA), nodata=nodata) as scene:
        assert scene.read(0, 0, 96, 96)[1].all(axis=1).sum() == (96 if nodata else 60)


@pytest.mark.parametrize("fill", [0, 255])
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_an_undeclared_collar(make_raster, fill, dtype):
    values = NOISE[:3].astype(dtype)
    far = fill if dtype == "uint8" else fill * 100
    y, x = np.mgrid[:96, :96]
    collar = x + y < 60
    values[:, collar] = far
    path = make_raster(values)
    with open_scene(path) as scene:
        stretch = estimate_stretch(scene, "percentile")
        assert scene.read(0, 0, 96, 96)[1].all(), "the mask is the user's to decide"
        assert f"--nodata {far:g}" in scene.remarks[0]
        assert all(low >= 1 and high < 250 for low, high in zip(stretch.low, stretch.high, strict=True))
    with open_scene(path, nodata=far) as scene:
        estimate_stretch(scene)
        np.testing.assert_array_equal(scene.read(0, 0, 96, 96)[1], ~collar)
        assert scene.remarks == []


def test_no_collar_where_there_is_none(make_raster):
    dark = NOISE[:3].copy()
    dark[:, 40:60, 40:60] = 0  # inside: a black roof
    dark[:, 0, 0:5] = 0
    with open_scene(make_raster(dark)) as scene:
        estimate_stretch(scene)
        assert scene.remarks == []


@pytest.mark.parametrize("kind", ["flat background", "calm water"])
def test_flat_ground_is_no_collar(make_raster, kind):
    values = NOISE[:3].copy()
    if kind == "flat background":
        values[:] = 20
        values[:, 40:60, 40:60] = 200
    else:
        values[:, :50] = 30
    with open_scene(make_raster(values)) as scene:
        estimate_stretch(scene)
        assert scene.remarks == []


def test_one_value_and_declared_nodata_alone(make_raster):
    values = np.zeros((3, 96, 96), np.uint8)
    values[:, :, :40] = 255
    with open_scene(make_raster(values, nodata=0)) as scene:
        estimate_stretch(scene)
        assert scene.remarks == []


def test_declared_nodata_can_be_switched_off(make_raster):
    values = NOISE[:3].copy()
    values[:, :9] = 0
    with open_scene(make_raster(values, nodata=0), nodata="none") as scene:
        assert scene.always_valid
        assert scene.nodata is None


@pytest.mark.parametrize(("width", "height"), [(2_000_000_000, 2_000_000_000), (2_000_000_000, 3), (2**30, 2**12)])
def test_giants_are_refused_before_reading(tmp_path, width, height):
    (tmp_path / "huge.vrt").write_text(VRT.format(w=width, h=height, kind="", source=""))
    with pytest.raises(SceneError, match="too large"):
        open_scene(tmp_path / "huge.vrt")


def test_one_block_of_many_gigabytes(make_raster, monkeypatch):
    monkeypatch.setattr("terraprompt.raster.scene._LARGEST_BLOCK", 10)
    path = make_raster(NOISE[:1], blockysize=96)
    with pytest.raises(SceneError, match="gdal_translate -co TILED=YES"):
        open_scene(path)


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "empty", "text", "missing"])
def test_what_is_no_file(tmp_path, kind):
    path = tmp_path / "scene.tif"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        import socket

        socket.socket(socket.AF_UNIX).bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind != "missing":
        path.write_text("" if kind == "empty" else "no raster")
    with pytest.raises(SceneError) as error:
        open_scene(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "source",
    [
        "/vsicurl/http://127.0.0.1:9/a.tif", "http://127.0.0.1:9/a.tif", "../other/a.tif", "{absolute}", "link.tif",
        "/vsizip//tmp/x.zip/a.tif", "inner.vrt",
    ],
)  # fmt: skip
def test_a_vrt_that_reaches_out(make_raster, tmp_path, source):
    far = tmp_path / "other"
    far.mkdir()
    shutil.copy(make_raster(NOISE[:1]), far / "a.tif")
    near = tmp_path / "near"
    near.mkdir()
    (near / "link.tif").symlink_to(far / "a.tif")
    simple = '<SimpleSource><SourceFilename relativeToVRT="1">{}</SourceFilename></SimpleSource>'
    (near / "inner.vrt").write_text(VRT.format(w=96, h=96, kind="", source=simple.format("../other/a.tif")))
    text = VRT.format(w=96, h=96, kind="", source=simple.format(source.replace("{absolute}", str(far / "a.tif"))))
    (near / "scene.vrt").write_text(text)
    with pytest.raises(SceneError, match="allow-remote"):
        open_scene(near / "scene.vrt", allow_remote=False)


def test_a_vrt_of_raw_bytes_and_one_of_its_own_folder(make_raster, tmp_path):
    path = make_raster(NOISE[:1])
    raw = VRT.format(
        w=4, h=4, kind=' subClass="VRTRawRasterBand"', source="<SourceFilename>/etc/passwd</SourceFilename>"
    )
    (tmp_path / "raw.vrt").write_text(raw)
    with pytest.raises(SceneError, match="raw files"):
        open_scene(tmp_path / "raw.vrt", allow_remote=False)
    source = f'<SimpleSource><SourceFilename relativeToVRT="1">{path.name}</SourceFilename></SimpleSource>'
    (tmp_path / "own.vrt").write_text(VRT.format(w=96, h=96, kind="", source=source))
    with open_scene(Path(tmp_path / "own.vrt"), allow_remote=False) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 96, 96)[0], NOISE[:1])
