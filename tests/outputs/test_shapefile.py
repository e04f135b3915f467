"""Shapefiles: several files that are one, and what they cannot hold."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS
from rasterio import Affine

from terraprompt.errors import OutputError
from terraprompt.outputs import Result, check_target

Paint = Callable[..., Result]
PIXELS: dict[str, Any] = {"crs": None, "transform": Affine.identity()}
FIELDS = ["id", "area_m2", "score", "category", "prompt_id", "instructio", "engine", "model", "source"]


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("name", ["lakes.shp", "lakes.v2.shp", "Lakes.SHP", "die seen ü.shp", "x" * 60 + ".shp"])
def test_its_files_come_together(paint: Paint, squares: np.ndarray, name: str, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / name)
    stem = Path(name).stem
    assert names(tmp_path) == {name, *(f"{stem}{part}" for part in (".shx", ".dbf", ".prj", ".cpg"))}
    meta, _, geometry, columns = pyogrio.raw.read(path)
    assert list(meta["fields"]) == FIELDS
    assert set(shapely.get_type_id(shapely.from_wkb(geometry))) == {shapely.GeometryType.POLYGON}
    assert CRS(meta["crs"]).to_epsg() == 32631
    assert columns[0].tolist() == [1, 2]
    assert columns[1].tolist() == [96.0, 25.0]
    assert columns[5].tolist() == ["the lakes, où ?"] * 2
    assert (tmp_path / f"{stem}.cpg").read_text().strip() == "UTF-8"


def test_what_is_cut_is_said(
    paint: Paint, squares: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = "é" * 200
    with caplog.at_level(logging.WARNING):
        path = paint(squares, provenance={"instruction": text}).save_vector(tmp_path / "v.shp")
    assert "instruction became instructio" in caplog.text
    assert "texts of 254 bytes: instructio was cut" in caplog.text
    assert pyogrio.raw.read(path)[3][5][0] == "é" * 127


@pytest.mark.parametrize("options", [{}, PIXELS, {"min_area_m2": 1e6}])
def test_statuses_and_scenes_without_a_place(
    paint: Paint, squares: np.ndarray, options: dict[str, Any], tmp_path: Path
) -> None:
    result = paint(squares, **options)
    path = result.save_vector(tmp_path / "v.shp")
    meta, _, geometry, columns = pyogrio.raw.read(path)
    assert len(geometry) == len(result.objects)
    assert (meta["crs"] is None) == (result.crs is None)
    if options == PIXELS:
        assert np.isnan(columns[1]).all()
        assert not (tmp_path / "v.prj").exists()


def test_parts_that_touch_by_corners_are_one_type(paint: Paint, tmp_path: Path) -> None:
    mask = np.zeros((30, 30), np.uint8)
    mask[2:8, 2:8] = mask[8:14, 8:14] = 1
    mask[20:26, 2:8] = 1
    path = paint(mask, simplify=0).save_vector(tmp_path / "v.shp")
    shapes = shapely.from_wkb(pyogrio.raw.read(path)[2])
    assert sorted(shapely.area(shapes)) == [9, 18]
    assert shapely.is_valid(shapes).all()


@pytest.mark.parametrize("part", [".shp", ".dbf", ".prj", ".cpg", ".sbn", ".qix"])
def test_a_file_of_that_name_is_kept(paint: Paint, squares: np.ndarray, part: str, tmp_path: Path) -> None:
    """A table of the same name would be taken for that of the Shapefile."""
    (tmp_path / f"v{part}").write_bytes(b"mine")
    with pytest.raises(OutputError, match=rf"already there. Received: .*v\{part}"):
        check_target(tmp_path / "v.shp", kind="vector")
    with pytest.raises(OutputError, match="already there"):
        paint(squares).save_vector(tmp_path / "v.shp")
    assert names(tmp_path) == {f"v{part}"}
    assert (tmp_path / f"v{part}").read_bytes() == b"mine"


def test_overwriting_leaves_nothing_of_the_old_one(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    for part in (".shp", ".shx", ".dbf", ".prj", ".sbn", ".sbx", ".qix"):
        (tmp_path / f"v{part}").write_bytes(b"old")
    (tmp_path / "v.txt").write_text("mine")
    paint(squares, **PIXELS).save_vector(tmp_path / "v.shp", overwrite=True)
    assert names(tmp_path) == {"v.shp", "v.shx", "v.dbf", "v.cpg", "v.txt"}


def test_a_failure_keeps_the_old_files(
    paint: Paint, squares: np.ndarray, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = paint(squares)
    result.save_vector(tmp_path / "v.shp")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pyogrio.raw, "write", full)
    with pytest.raises(OutputError, match="disk is full"):
        result.save_vector(tmp_path / "v.shp", overwrite=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()} == before


def test_its_name_needs_its_extension(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=r"Use \.shp"):
        paint(squares).save_vector(tmp_path / "v.geojson", driver="ESRI Shapefile")
