"""Colours of masks, and styles for QGIS beside files and in GeoPackages."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pyogrio
import pytest
import rasterio
from rasterio.enums import ColorInterp

from terraprompt.errors import OutputError
from terraprompt.outputs import Result

Paint = Callable[..., Result]


def rows(path: Path, sql: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(path)) as database:
        return database.execute(sql).fetchall()


@pytest.mark.parametrize("options", [{}, {"compress": "LZW"}, {"BLOCKSIZE": 128}, {"OVERVIEW_RESAMPLING": "NEAREST"}])
def test_a_mask_has_colours_and_its_values(paint: Paint, options: dict[str, Any], tmp_path: Path) -> None:
    mask = np.zeros((700, 900), np.uint8)
    mask[100:300, 200:500] = 1
    mask[:, 850:] = 255
    path = paint(mask).save_mask(tmp_path / "m.tif", creation_options=options)
    with rasterio.open(path) as file:
        np.testing.assert_array_equal(file.read(1), mask)
        assert file.colorinterp == (ColorInterp.palette,)
        assert file.colormap(1)[1] == (255, 64, 129, 255)
        assert file.colormap(1)[0][:3] == (0, 0, 0)
        assert file.nodata == 255
        assert set(np.unique(file.read(1, out_shape=(70, 90)))) == {0, 1, 255}


def test_probabilities_have_no_colours(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_mask(tmp_path / "m.tif", probability=True, style=True)
    with rasterio.open(path) as file:
        assert file.colorinterp == (ColorInterp.gray,)
    assert not (tmp_path / "m.qml").exists()


@pytest.mark.parametrize("text", ["the lakes", 'a <b> & "c"', "über\x1b[31m 湖", "x" * 900, ""])
def test_a_mask_s_style_is_beside_it(paint: Paint, squares: np.ndarray, text: str, tmp_path: Path) -> None:
    paint(squares, provenance={"instruction": text}).save_mask(tmp_path / "m.tif", style=True)
    root = ElementTree.parse(tmp_path / "m.qml").getroot()
    entries = root.findall("./pipe/rasterrenderer[@type='paletted']/colorPalette/paletteEntry")
    assert [(e.get("value"), e.get("alpha")) for e in entries] == [("0", "0"), ("1", "160")]
    assert entries[1].get("color") == "#ff4081"
    label = entries[1].get("label") or ""
    assert len(label) <= 100
    assert label[:4] == text[:4]


@pytest.mark.parametrize("suffix", [".geojson", ".fgb", ".parquet", ".shp"])
def test_polygons_style_is_beside_them(paint: Paint, squares: np.ndarray, suffix: str, tmp_path: Path) -> None:
    paint(squares).save_vector(tmp_path / f"v{suffix}", style=True)
    root = ElementTree.parse(tmp_path / "v.qml").getroot()
    properties = {p.get("k"): p.get("v") for p in root.iter("prop")}
    assert properties["color"] == "255,64,129,64", "a fill of 25 %"
    assert properties["outline_color"] == "160,0,70,255"


def test_a_geopackage_holds_its_style(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / "v.gpkg", layer="lakes", style=True)
    assert not (tmp_path / "v.qml").exists()
    (found,) = rows(path, "SELECT f_table_name, f_geometry_column, styleName, styleQML, useAsDefault FROM layer_styles")
    assert found[:3] == ("lakes", "geom", "terraprompt")
    assert ElementTree.fromstring(found[3]).find(".//prop[@k='color']") is not None
    assert found[4] == 1
    assert dict(pyogrio.list_layers(path).tolist()) == {"lakes": "Polygon", "layer_styles": None}
    assert pyogrio.read_info(path, layer="lakes")["features"] == 2


def test_styles_of_the_user_stay(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares)
    path = result.save_vector(tmp_path / "v.gpkg", layer="lakes", style=True)
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE layer_styles SET styleName = 'mine', styleQML = 'my own'")
    result.save_vector(path, layer="lakes", style=True, overwrite=True)
    result.save_vector(path, layer="ponds", style=True)
    result.save_vector(path, layer="ponds", style=True, overwrite=True)
    found = rows(path, "SELECT f_table_name, styleName, useAsDefault FROM layer_styles ORDER BY 1, 2")
    assert found == [("lakes", "mine", 1), ("lakes", "terraprompt", 0), ("ponds", "terraprompt", 1)]
    assert rows(path, "SELECT count(*) FROM gpkg_contents WHERE table_name = 'layer_styles'") == [(1,)]


def test_a_style_that_is_there_stops_before_anything_is_written(
    paint: Paint, squares: np.ndarray, tmp_path: Path
) -> None:
    (tmp_path / "m.qml").write_text("mine")
    for save, name in ((paint(squares).save_mask, "m.tif"), (paint(squares).save_vector, "m.fgb")):
        with pytest.raises(OutputError, match="already there"):
            save(tmp_path / name, style=True)
        assert not (tmp_path / name).exists()
        assert (tmp_path / "m.qml").read_text() == "mine"
        save(tmp_path / name, style=True, overwrite=True)
        assert (tmp_path / "m.qml").read_text().startswith("<!DOCTYPE qgis")
        (tmp_path / "m.qml").write_text("mine")


def test_a_geopackage_is_one_that_old_readers_know(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / "v.gpkg")
    assert rows(path, "PRAGMA user_version") == [(10200,)]
    assert rows(path, "PRAGMA application_id") == [(0x47504B47,)]
