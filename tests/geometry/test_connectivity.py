"""One connectivity: outputs, truth, training and selectors count and rank the same objects."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import shapely
from PIL import Image
from rasterio import Affine

from terraprompt.flow.selection import apply_selector
from terraprompt.geometry.connectivity import CONNECTIVITY, STRUCTURE, label, largest_component
from terraprompt.language.object_geometry import components
from terraprompt.language.parse_selector import parse_selector
from terraprompt.outputs import MaskWriter, Result
from terraprompt.raster import open_scene
from terraprompt.training.sft_examples import instances_of


@pytest.fixture
def corner() -> np.ndarray:
    """uint8 (60, 60): two squares of 10 x 10 that touch by a corner, one of 12 x 12, one of 8 x 8."""
    mask = np.zeros((60, 60), np.uint8)
    mask[5:15, 5:15] = mask[15:25, 15:25] = 1
    mask[40:52, 40:52] = 1
    mask[40:48, 5:13] = 1
    return mask


@pytest.fixture
def result(corner: np.ndarray, tmp_path: Path) -> Result:
    transform = Affine(1, 0, 500_000, 0, -1, 5_000_000)
    with MaskWriter.create(tmp_path, 60, 60, crs="EPSG:32631", transform=transform) as writer:
        writer.write_band(0, np.where(corner, 3, -3).astype(np.float32), np.ones(corner.shape, bool))
        return writer.finish({}, simplify=0)


def test_neighbours_by_a_corner_are_one_object() -> None:
    assert STRUCTURE.sum() - 1 == CONNECTIVITY
    labels, count = label(np.eye(3))
    assert count == 1
    np.testing.assert_array_equal(labels, np.eye(3))


def test_outputs_truth_training_and_selectors_see_the_same_objects(corner: np.ndarray, result: Result) -> None:
    assert sorted(o.area_px for o in result.objects) == [64, 144, 200]
    assert sorted(item.area for item in components(corner).items) == [64, 144, 200]
    assert [found.box for found in instances_of(corner)] == [(5, 5, 25, 25), (40, 40, 52, 52), (5, 40, 13, 48)]
    assert largest_component(corner).sum() == 200
    assert label(corner)[1] == 3


def test_the_second_largest_is_the_same_object_everywhere(corner: np.ndarray, result: Result, tmp_path: Path) -> None:
    parsed = parse_selector("the second largest building")
    assert parsed is not None
    selector = parsed.selector
    found = components(corner)
    expected = found.mask(selector.select(found.items, 60, 60))
    assert expected.sum() == 144
    Image.fromarray(corner).save(tmp_path / "scene.png")
    with open_scene(tmp_path / "scene.png") as scene:
        np.testing.assert_array_equal(apply_selector(result, selector, scene).mask(), expected)


def test_an_object_of_two_parts_is_a_valid_multipolygon(result: Result) -> None:
    pair = result.objects[0]
    assert pair.polygon.geom_type == "MultiPolygon"
    assert pair.polygon.is_valid
    assert pair.polygon.area == pair.area_px == 200
    assert [o.polygon.geom_type for o in result.objects[1:]] == ["Polygon", "Polygon"]


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".fgb", ".parquet"])
def test_vectors_of_such_objects_have_one_type_and_are_valid(suffix: str, result: Result, tmp_path: Path) -> None:
    path = result.save_vector(tmp_path / f"objects{suffix}")
    if suffix == ".parquet":
        table = pyarrow.parquet.read_table(path)
        geometry = shapely.from_wkb(table["geometry"].to_numpy())
        geo = json.loads(table.schema.metadata[b"geo"])
        assert geo["columns"]["geometry"]["geometry_types"] == ["MultiPolygon"]
    else:
        meta, _, wkb, _ = pyogrio.raw.read(path)
        assert meta["geometry_type"] == "MultiPolygon"
        geometry = shapely.from_wkb(wkb)
    assert len(geometry) == 3
    assert (shapely.get_type_id(geometry) == shapely.GeometryType.MULTIPOLYGON).all()
    assert shapely.is_valid(geometry).all()
    assert sorted(shapely.get_num_geometries(geometry)) == [1, 1, 2]
