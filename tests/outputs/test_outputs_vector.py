"""Vector files, read back by an independent reader."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pyogrio
import pyproj
import pytest
import shapely
from rasterio import Affine

from terraprompt.errors import OutputError
from terraprompt.outputs import Result
from terraprompt.outputs.formats.vector import FIELDS

Paint = Callable[..., Result]
OGR = [".gpkg", ".geojson", ".json", ".fgb"]


def read(path: Path) -> tuple[dict[str, object], np.ndarray, dict[str, np.ndarray]]:
    meta, _, wkb, columns = pyogrio.raw.read(path)
    return meta, shapely.from_wkb(wkb), dict(zip(meta["fields"], columns, strict=True))


def order(columns: dict[str, np.ndarray]) -> np.ndarray:
    """FlatGeobuf sorts features in space."""
    return np.argsort(columns["id"])


@pytest.mark.parametrize("suffix", OGR)
def test_polygons_attributes_and_crs(suffix: str, paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares)
    meta, polygons, columns = read(result.save_vector(tmp_path / f"v{suffix}"))
    rows = order(columns)
    assert tuple(meta["fields"]) == FIELDS
    assert columns["id"][rows].tolist() == [1, 2]
    np.testing.assert_allclose(columns["area_m2"][rows], [96, 25])
    np.testing.assert_allclose(columns["score"][rows], [o.score for o in result.objects])
    assert set(columns["instruction"]) == {"the lakes, où ?"}
    assert set(columns["engine"]) == {"unigeoseg"}
    assert set(columns["model"]) == {"nano"}
    assert set(columns["source"]) == {"scene.tif"}
    assert meta["geometry_type"] == "Polygon"
    if "json" in suffix:
        assert meta["crs"] == "EPSG:4326"
        to_scene = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32631", always_xy=True)
        moved = shapely.transform(polygons, lambda xy: np.stack(to_scene.transform(*xy.T), axis=1))
        expected = [o.polygon for o in result.objects]
        assert (shapely.hausdorff_distance(moved[rows], expected) < 0.02).all()
    else:
        assert meta["crs"] == "EPSG:32631"
        assert shapely.equals(polygons[rows], [o.polygon for o in result.objects]).all()
    assert sorted(p.name for p in tmp_path.iterdir()) == [f"v{suffix}", "work"]


def test_geojson_follows_the_rfc(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    data = json.loads(paint(squares).save_vector(tmp_path / "v.geojson").read_text())
    assert "crs" not in data
    for feature in data["features"]:
        outer, *holes = (shapely.LinearRing(ring) for ring in feature["geometry"]["coordinates"])
        assert outer.is_ccw
        assert not any(hole.is_ccw for hole in holes)
        for x, y in feature["geometry"]["coordinates"][0]:
            assert (round(x, 7), round(y, 7)) == (x, y)


def test_geopackage_remembers_how_it_was_made(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / "lakes.gpkg")
    assert pyogrio.list_layers(path)[0][0] == "the_lakes_où"
    notes = pyogrio.read_info(path)["layer_metadata"]
    assert notes["STATUS"] == "found"
    assert notes["CHECKSUM"] == "ab12"


@pytest.mark.parametrize("suffix", [".parquet", ".geoparquet"])
def test_geoparquet(suffix: str, paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares)
    table = pyarrow.parquet.read_table(result.save_vector(tmp_path / f"v{suffix}"))
    geo = json.loads(table.schema.metadata[b"geo"])
    column = geo["columns"]["geometry"]
    assert geo["version"] == "1.1.0"
    assert geo["primary_column"] == "geometry"
    assert column["encoding"] == "WKB"
    assert column["geometry_types"] == ["Polygon"]
    assert pyproj.CRS.from_json_dict(column["crs"]).to_epsg() == 32631
    polygons = shapely.from_wkb(table["geometry"].to_pylist())
    assert shapely.equals(polygons, [o.polygon for o in result.objects]).all()
    assert shapely.is_ccw(shapely.get_exterior_ring(polygons)).all()
    np.testing.assert_allclose(column["bbox"], shapely.total_bounds(polygons))
    boxes = [list(row.values()) for row in table["bbox"].to_pylist()]
    np.testing.assert_allclose(boxes, shapely.bounds(polygons))
    assert tuple(table.column_names[: len(FIELDS)]) == FIELDS
    assert table["instruction"].to_pylist() == ["the lakes, où ?"] * 2


@pytest.mark.parametrize("suffix", [*OGR, ".parquet"])
def test_nothing_found_is_a_valid_empty_file(suffix: str, paint: Paint, tmp_path: Path) -> None:
    path = paint(np.zeros((20, 20), np.uint8)).save_vector(tmp_path / f"v{suffix}")
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        assert table.num_rows == 0
        assert tuple(table.column_names[: len(FIELDS)]) == FIELDS
        assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["crs"]["id"]["code"] == 32631
        return
    meta, polygons, _ = read(path)
    assert len(polygons) == 0
    if "json" not in suffix:
        assert tuple(meta["fields"]) == FIELDS
        assert meta["crs"] == "EPSG:32631"


@pytest.mark.parametrize("suffix", [*OGR, ".parquet"])
def test_without_a_crs(
    suffix: str, paint: Paint, squares: np.ndarray, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    result = paint(squares, crs=None, transform=Affine.identity())
    path = result.save_vector(tmp_path / f"v{suffix}")
    assert "no CRS" in caplog.text
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        assert json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["crs"] is None
        assert table["area_m2"].to_pylist() == [None, None]
        polygons, rows = shapely.from_wkb(table["geometry"].to_pylist()), np.arange(2)
    else:
        meta, polygons, columns = read(path)
        rows = order(columns)
        # GDAL takes every GeoJSON for longitude and latitude; the other formats can say "none".
        assert "json" in suffix or meta["crs"] is None
        assert "area_m2" not in columns or np.isnan(columns["area_m2"].astype(float)).all()
    np.testing.assert_allclose(shapely.bounds(polygons[rows])[1], [30, 30, 40, 40])


def test_a_world_file_without_a_crs_places_the_polygons(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares, crs=None, transform=Affine(2, 0, 100, 0, -2, 900))
    assert result.objects[1].polygon.bounds == (30, 30, 40, 40)
    _, polygons, columns = read(result.save_vector(tmp_path / "v.gpkg"))
    np.testing.assert_allclose(shapely.bounds(polygons[order(columns)])[1], [160, 820, 180, 840])


def test_a_driver_may_be_named(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    path = paint(squares).save_vector(tmp_path / "v.json", driver="GeoJSON")
    assert json.loads(path.read_text())["type"] == "FeatureCollection"
    with pytest.raises(OutputError, match="not known"):
        paint(squares).save_vector(tmp_path / "v.gpkg", driver="DXF")
