"""Results for other packages: ``__geo_interface__`` and GeoDataFrames."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import shapely
from pyproj import CRS
from rasterio import Affine
from rasterio.features import rasterize

from terraprompt.errors import ConfigError, OutputError
from terraprompt.io.prompt_file import prompt_from_features
from terraprompt.outputs import Result

Paint = Callable[..., Result]
PIXELS: dict[str, Any] = {"crs": None, "transform": Affine.identity()}


@pytest.mark.parametrize("options", [{}, PIXELS, {"crs": "EPSG:3857"}, {"crs": "+proj=laea +lat_0=52 +lon_0=3"}])
def test_an_object_is_a_feature(paint: Paint, squares: np.ndarray, options: dict[str, Any]) -> None:
    result = paint(squares, **options)
    for item in result.objects:
        shown = item.__geo_interface__
        assert shown["type"] == "Feature"
        assert shapely.geometry.shape(shown["geometry"]).equals(item.polygon)
        assert shown["properties"]["score"] == item.score
        assert shown["properties"]["area_m2"] == item.area_m2
        assert shapely.geometry.shape(item.__geo_interface__["geometry"]).bounds == shown["bbox"]


def test_a_result_is_a_collection_in_the_scene_s_crs(paint: Paint, squares: np.ndarray) -> None:
    shown = paint(squares).__geo_interface__
    assert shown["type"] == "FeatureCollection"
    assert CRS(shown["crs"]["properties"]["name"]) == CRS("EPSG:32631")
    first, second = shown["features"]
    assert first["properties"]["area_m2"] == pytest.approx(96)
    assert first["properties"]["instruction"] == "the lakes, où ?"
    assert second["id"] == 2
    assert shapely.geometry.shape(first["geometry"]).area == pytest.approx(96, rel=0.05)


def test_other_packages_take_it(paint: Paint, squares: np.ndarray) -> None:
    result = paint(squares, simplify=0)
    shapes = [feature["geometry"] for feature in result.__geo_interface__["features"]]
    burnt = rasterize(shapes, out_shape=(60, 80), transform=result.transform)
    assert (burnt == (result.mask() == 1)).all()


def test_a_result_is_a_prompt(paint: Paint, squares: np.ndarray) -> None:
    prompt = prompt_from_features(paint(squares, simplify=0), text="the lakes")
    assert CRS(prompt.crs) == CRS("EPSG:32631")
    assert prompt.boxes[1] == (500_015, 5_499_980, 500_020, 5_499_985)
    one = prompt_from_features(paint(squares, simplify=0).objects[1], crs="EPSG:32631")
    assert one.boxes == (prompt.boxes[1],)


def test_without_a_crs_areas_are_null_and_places_pixels(paint: Paint, squares: np.ndarray) -> None:
    shown = paint(squares, **PIXELS).__geo_interface__
    assert "crs" not in shown
    assert shown["features"][0]["properties"]["area_m2"] is None
    assert shown["features"][1]["bbox"] == pytest.approx((30, 30, 40, 40), abs=1)


def test_no_target_is_an_empty_collection_and_a_failure_an_error(paint: Paint, squares: np.ndarray) -> None:
    assert paint(squares * 0).__geo_interface__["features"] == []
    failed = Result.failure("No reply.", width=9, height=8, crs=None, transform=Affine.identity(), provenance={})
    with pytest.raises(OutputError, match=r"failed\. Received: No reply"):
        _ = failed.__geo_interface__
    with pytest.raises(OutputError, match=r"failed\. Received: No reply"):
        failed.to_geodataframe()


def test_without_geopandas_the_extra_is_named(
    paint: Paint, squares: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "geopandas", None)
    with pytest.raises(ConfigError, match=r'pip install "terraprompt\[geopandas\]"'):
        paint(squares).to_geodataframe()


class TestGeoPandas:
    geopandas = pytest.importorskip("geopandas", reason="GeoPandas is an optional extra")

    @pytest.mark.parametrize("options", [{}, {"crs": "EPSG:3857"}, {"crs": "EPSG:25832"}, PIXELS, {"simplify": 0}])
    def test_a_frame_equals_the_file(self, paint: Paint, squares: np.ndarray, options: Any, tmp_path: Path) -> None:
        result = paint(squares, **options)
        frame = result.to_geodataframe()
        read = self.geopandas.read_file(result.save_vector(tmp_path / "v.fgb"))
        assert list(frame.columns) == list(read.columns)
        read = read.sort_values("id").reset_index(drop=True)
        assert frame.geometry.geom_equals(read.geometry).all()
        for name in ("id", "area_m2", "score", "instruction", "engine"):
            assert frame[name].equals(read[name].astype(frame[name].dtype)), name
        assert (frame.crs is None) == (read.crs is None)
        assert frame.crs is None or CRS(frame.crs) == CRS(read.crs)

    def test_areas_are_those_of_geopandas(self, paint: Paint, squares: np.ndarray) -> None:
        frame = paint(squares, simplify=0).to_geodataframe()
        np.testing.assert_allclose(frame.area, frame["area_m2"])

    def test_no_target_is_an_empty_frame_with_its_columns(self, paint: Paint, squares: np.ndarray) -> None:
        frame = paint(squares * 0).to_geodataframe()
        assert len(frame) == 0
        assert list(frame.columns) == [*pyogrio_fields(), "geometry"]
        assert frame.attrs["status"] == "no_target"
        assert CRS(frame.crs) == CRS("EPSG:32631")

    def test_it_goes_on_after_the_result_is_closed(self, paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
        result = paint(squares)
        result.close()
        frame = result.to_geodataframe()
        frame.to_crs(4326).to_parquet(tmp_path / "f.parquet")
        assert len(pyogrio.read_dataframe(tmp_path / "f.parquet")) == 2 if has_parquet() else len(frame) == 2


def pyogrio_fields() -> list[str]:
    return ["id", "area_m2", "score", "category", "prompt_id", "instruction", "engine", "model", "source"]


def has_parquet() -> bool:
    return "Parquet" in pyogrio.list_drivers()
