"""What a raster may read besides itself: its own folder and below, unless the user allows more."""

from __future__ import annotations

import inspect
import zipfile
from pathlib import Path

import numpy as np
import pytest

import terraprompt
from terraprompt.errors import ConfigError, SceneError
from terraprompt.raster import open_scene
from terraprompt.raster.source import open_dataset

VALUES = np.random.default_rng(4).integers(1, 250, (1, 32, 32)).astype(np.uint8)
BAND = """<VRTDataset rasterXSize="32" rasterYSize="32"><VRTRasterBand dataType="Byte" band="1">{}</VRTRasterBand>{}
</VRTDataset>"""


def simple(inside: str, attributes: str = "") -> str:
    return BAND.format(f"<SimpleSource{attributes}>{inside}</SimpleSource>", "")


def test_one_default_everywhere() -> None:
    for function in (terraprompt.segment, open_scene, open_dataset):
        assert inspect.signature(function).parameters["allow_remote"].default is False
    assert inspect.signature(terraprompt.segment).parameters["nodata"].default is None


OUT = {
    "other case": simple("<sourcefilename relativetovrt='1'>../far.tif</sourcefilename>"),
    "attribute": simple("", ' SourceFilename="../far.tif"'),
    "attribute in other case": simple("", ' sourcefilename="/vsicurl/http://127.0.0.1:9/a.tif"'),
    "character data": simple("<SourceFilename><![CDATA[../far.tif]]></SourceFilename>"),
    "entity": simple("<SourceFilename>&#46;./far.tif</SourceFilename>"),
    "comment": simple("<SourceFilename>.<!-- -->./far.tif</SourceFilename>"),
    "below and up again": simple("<SourceFilename>sub/../../far.tif</SourceFilename>"),
    "prefix of a driver": simple("<SourceFilename>GTIFF_DIR:1:../far.tif</SourceFilename>"),
    "connection of a VRT": simple("<SourceFilename>vrt://../far.tif?bands=1</SourceFilename>"),
    "text of a VRT": simple("<SourceFilename>&lt;VRTDataset/&gt;</SourceFilename>"),
    "warped": "<VRTDataset rasterXSize='9' rasterYSize='9' subClass='VRTWarpedDataset'><GDALWarpOptions><SourceDataset>"
    "../far.tif</SourceDataset></GDALWarpOptions></VRTDataset>",
    "overview": BAND.format("<Overview><SourceFilename>../far.tif</SourceFilename></Overview>", ""),
    "mask band": BAND.format(
        "",
        "<MaskBand><VRTRasterBand dataType='Byte'><SimpleSource><SourceFilename>../far.tif</SourceFilename>"
        "</SimpleSource></VRTRasterBand></MaskBand>",
    ),
    "after spaces": " " * 900 + simple("<SourceFilename>../far.tif</SourceFilename>"),
    "raw in other case": BAND.replace('band="1"', 'band="1" subClass="vrtrawrasterband"').format("", ""),
    "MRF": "<MRF_META><Raster><Size x='32' y='32'/><DataFile>/etc/passwd</DataFile></Raster></MRF_META>",
    "WMS": "<GDAL_WMS><Service name='TMS'><ServerUrl>http://127.0.0.1:9/</ServerUrl></Service></GDAL_WMS>",
    "WMTS": "<GDAL_WMTS><GetCapabilitiesUrl>http://127.0.0.1:9/</GetCapabilitiesUrl></GDAL_WMTS>",
    "WCS": "<WCS_GDAL><ServiceURL>http://127.0.0.1:9/</ServiceURL></WCS_GDAL>",
    "capabilities": "<wmts:Capabilities xmlns:wmts='x'/>",
    "tile index": "<GDALTileIndexDataset><IndexDataset>/far.gpkg</IndexDataset></GDALTileIndexDataset>",
    "KML": "<?xml version='1.0'?><kml><GroundOverlay><href>http://127.0.0.1:9/a.png</href></GroundOverlay></kml>",
    "STAC": '{"stac_version": "1.0.0", "assets": {"a": {"href": "http://127.0.0.1:9/a.tif"}}}',
}


@pytest.mark.parametrize("text", OUT.values(), ids=OUT)
def test_descriptions_that_reach_out(make_raster, tmp_path: Path, text: str) -> None:
    make_raster(VALUES, "far.tif")
    near = tmp_path / "near"
    (near / "sub").mkdir(parents=True)
    (near / "scene.vrt").write_text(text)
    with pytest.raises(SceneError, match="allow-remote") as error:
        open_scene(near / "scene.vrt")
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    "text", ["<VRTDataset rasterXSize='9'", "<VRTDataset>&bomb;</VRTDataset>", "<VRTDataset><a></b>"]
)
def test_what_cannot_be_checked_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "scene.vrt").write_text(text)
    with pytest.raises(SceneError, match="no valid XML"):
        open_scene(tmp_path / "scene.vrt")


@pytest.mark.parametrize("ending", [".ovr", ".msk", ".aux.xml"])
def test_sidecars_are_checked_too(make_raster, tmp_path: Path, ending: str) -> None:
    near = tmp_path / "near"
    near.mkdir()
    path = make_raster(VALUES, "near/scene.tif")
    pam = "<PAMDataset><Metadata domain='OVERVIEWS'><MDI key='OVERVIEW_FILE'>../far.tif</MDI></Metadata></PAMDataset>"
    Path(f"{path}{ending}").write_text(pam if ending == ".aux.xml" else OUT["entity"])
    with pytest.raises(SceneError, match="allow-remote"):
        open_scene(path)


def test_a_vrt_in_an_archive_needs_permission_and_a_tiff_does_not(make_raster, tmp_path: Path) -> None:
    path = make_raster(VALUES)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(path, "scene.tif")
        archive.writestr("scene.vrt", simple('<SourceFilename relativeToVRT="1">scene.tif</SourceFilename>'))
    inside = f"/vsizip/{tmp_path}/a.zip"
    with open_scene(f"{inside}/scene.tif") as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 32, 32)[0], VALUES)
    with pytest.raises(SceneError, match="allow-remote"):
        open_scene(f"{inside}/scene.vrt")
    with open_scene(f"{inside}/scene.vrt", allow_remote=True) as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 32, 32)[0], VALUES)


def test_own_folder_and_below_need_none(make_raster, tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    make_raster(VALUES, "sub/below.tif")
    (tmp_path / "scene.vrt").write_text(simple('<SourceFilename relativeToVRT="1">sub/below.tif</SourceFilename>'))
    (tmp_path / "outer.vrt").write_text(simple('<SourceFilename relativeToVRT="1">scene.vrt</SourceFilename>'))
    with open_scene(tmp_path / "outer.vrt") as scene:
        np.testing.assert_array_equal(scene.read(0, 0, 32, 32)[0], VALUES)


@pytest.mark.parametrize("nodata", ["nothing", True, [0], "0"])
def test_a_nodata_that_is_none(make_raster, nodata) -> None:
    with pytest.raises(ConfigError, match="nodata is a number"):
        open_scene(make_raster(VALUES), nodata=nodata)


@pytest.mark.parametrize("nodata", [300, -1, 0.5, float("nan")])
def test_a_nodata_that_no_pixel_has_is_said(make_raster, nodata) -> None:
    with open_scene(make_raster(VALUES), nodata=nodata) as scene:
        assert "No pixel can be" in scene.remarks[0]
        assert scene.read(0, 0, 32, 32)[1].all()


def test_nodata_is_part_of_the_version_of_a_scene(make_raster) -> None:
    path = make_raster(VALUES)
    versions = []
    for nodata in (None, "none", 7):
        with open_scene(path, nodata=nodata) as scene:
            versions.append(scene.version())
    assert len(set(versions)) == 3
