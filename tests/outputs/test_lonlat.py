"""Longitude and latitude of results: GeoJSON and STAC."""

from __future__ import annotations

import json

import numpy as np
import pytest
import shapely
from rasterio import Affine

from terraprompt.errors import OutputError
from terraprompt.outputs.formats.stac import stac_item

SITE = 'LOCAL_CS["Site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'


def full(n: int = 20) -> np.ndarray:
    mask = np.zeros((n, n), np.uint8)
    mask[2:-2, 2:-2] = 1
    return mask


@pytest.mark.parametrize(
    ("crs", "transform", "bbox"),
    [
        ("EPSG:4326", Affine(0.1, 0, 285, 0, -0.1, -17), [-75, -19, -73, -17]),
        ("EPSG:4326", Affine(0.1, 0, 179, 0, -0.1, -17), [179, -19, -179, -17]),
        ("EPSG:4326", Affine(0.1, 0, -181, 0, -0.1, -17), [179, -19, -179, -17]),
        ("EPSG:4326", Affine(0.1, 0, 178, 0, -0.1, -17), [178, -19, 180, -17]),
        ("EPSG:4326", Affine(18, 0, -180, 0, -9, 90), [-180, -90, 180, 90]),
        ("EPSG:4326", Affine(18, 0, 0, 0, -9, 90), [-180, -90, 180, 90]),
        ("EPSG:4326", Affine(18, 0, 0, 0, -9.5, 95), [-180, -90, 180, 90]),
        ("EPSG:3413", Affine(1e5, 0, -1e6, 0, -1e5, 1e6), [-180, None, 180, 90]),
        ("EPSG:3031", Affine(1e5, 0, -1e6, 0, -1e5, 1e6), [-180, -90, 180, None]),
        ("EPSG:32701", Affine(2e4, 0, 0, 0, -2e4, 8_120_000), [178.2, None, -177.9, None]),
    ],
)
def test_bbox_and_geometry(paint, tmp_path, crs, transform, bbox):
    result = paint(full(), crs=crs, transform=transform)
    item = stac_item(result, {"mask": "m.tif"})
    for got, wanted in zip(item["bbox"], bbox, strict=True):
        assert -180 <= got <= 180
        if wanted is not None:
            assert got == pytest.approx(wanted, abs=0.1 if crs == "EPSG:32701" else 1e-6)
    place = shapely.geometry.shape(item["geometry"])
    assert place.is_valid
    written = json.loads(result.save_vector(tmp_path / "o.geojson").read_text())
    shapes = [shapely.geometry.shape(feature["geometry"]) for feature in written["features"]]
    assert len(shapes) == 1
    assert shapes[0].is_valid
    assert place.buffer(0.1).contains(shapes[0])
    west, _, east, _ = shapes[0].bounds
    assert -180 <= west < east <= 180
    assert shapes[0].area == pytest.approx(place.area * (16 / 20) ** 2, rel=0.35)


def test_nowhere_is_one_sentence(paint, tmp_path):
    result = paint(full(), crs=SITE, transform=Affine(0.15, 0, 1000, 0, -0.15, 2000))
    assert result.objects[0].area_m2 == pytest.approx(16 * 16 * 0.0225)
    with pytest.raises(OutputError, match="no place on the Earth") as error:
        result.save_vector(tmp_path / "o.geojson")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "o.geojson").exists()
    result.save_vector(tmp_path / "o.gpkg")
    assert stac_item(result, {"mask": "m.tif"})["geometry"] is None


def test_pixels_are_said(paint, tmp_path):
    result = paint(full(), crs=None, transform=Affine.identity())
    written = json.loads(result.save_vector(tmp_path / "o.geojson").read_text())
    assert "pixel coordinates" in written["description"]
