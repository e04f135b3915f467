"""Points and boxes from real vector files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from pyproj import CRS, Transformer

from flow_engines import PointedEngine
from terraprompt.errors import PromptError
from terraprompt.flow.session import segment
from terraprompt.io.prompt_file import read_prompt_file
from terraprompt.raster import open_scene

UTM = "EPSG:32633"
POINT, OTHER, THIRD = "POINT (500010 5399990)", "POINT (500020 5399980)", "POINT (500030 5399970)"
AREA = "POLYGON ((500000 5400000, 500012 5399996, 500008 5399990, 500000 5400000))"


def write(path: Path, wkt: list[str | None], *, crs: str | None = UTM, **fields: Any) -> Path:
    """A vector file with these geometries and attributes; a list with None has nulls."""
    shapes = shapely.from_wkt(wkt)
    kinds = {shape.geom_type for shape in shapes if shape is not None}
    data, mask = [], []
    for values in fields.values():
        mask.append(np.array([v is None for v in values]))
        filled = [("" if any(isinstance(v, str) for v in values) else 0) if v is None else v for v in values]
        data.append(np.array(filled, object if isinstance(filled[0], str) else None))
    pyogrio.raw.write(
        path,
        shapely.to_wkb(shapes),
        data,
        list(fields),
        field_mask=mask or None,
        geometry_type=kinds.pop() if len(kinds) == 1 else "Unknown",
        crs=crs,
    )
    return path


@pytest.mark.parametrize("suffix", [".gpkg", ".geojson", ".shp", ".fgb"])
def test_points_of_any_format(tmp_path, suffix):
    crs = "EPSG:4326" if suffix == ".geojson" else UTM
    prompt = read_prompt_file(write(tmp_path / f"p{suffix}", ["POINT (15 48)", "POINT (15.5 48.25)"], crs=crs))
    assert sorted(prompt.points) == [(15.0, 48.0), (15.5, 48.25)]  # FlatGeobuf has its own order
    assert prompt.labels == (1, 1)
    assert prompt.text is None
    assert CRS(prompt.crs) == CRS(crs)


def test_areas_become_boxes_beside_points(tmp_path):
    prompt = read_prompt_file(write(tmp_path / "p.gpkg", [AREA, POINT]), text="the roofs")
    assert prompt.boxes == ((500_000, 5_399_990, 500_012, 5_400_000),)
    assert prompt.points == ((500_010, 5_399_990),)
    assert prompt.text == "the roofs"


def test_each_part_counts_alone(tmp_path):
    many = "MULTIPOINT ((1 2), (3 4))"
    areas = "MULTIPOLYGON (((10 10, 12 10, 12 13, 10 10)), ((20 20, 25 20, 25 21, 20 20)))"
    prompt = read_prompt_file(write(tmp_path / "p.gpkg", [many, areas], label=[1, 1]))
    assert prompt.points == ((1, 2), (3, 4))
    assert prompt.boxes == ((10, 10, 12, 13), (20, 20, 25, 21))
    assert len(prompt.objects()) == 4


def test_height_is_left_out(tmp_path):
    prompt = read_prompt_file(write(tmp_path / "p.geojson", ["POINT Z (15 48 300)"], crs="EPSG:4326"))
    assert prompt.points == ((15.0, 48.0),)


# Labels and objects


def shares(prompt) -> list[dict[tuple[float, float], int]]:
    return [dict(zip(part.points, part.labels, strict=True)) for part in prompt.objects()]


def test_positive_points_are_targets_of_their_own(tmp_path):
    prompt = read_prompt_file(write(tmp_path / "p.gpkg", ["POINT (1 1)", "POINT (5 5)"]))
    assert shares(prompt) == [{(1, 1): 1}, {(5, 5): 1}]


def test_negative_points_refine_all(tmp_path):
    path = write(tmp_path / "p.gpkg", ["POINT (1 1)", "POINT (9 9)", "POINT (5 5)"], label=[1, 0, 1])
    assert shares(read_prompt_file(path)) == [{(1, 1): 1, (9, 9): 0}, {(5, 5): 1, (9, 9): 0}]


@pytest.mark.parametrize("names", [[4, 7, 4, None], ["a", "b", "a", None]])
def test_points_of_one_object_are_one_target(tmp_path, names):
    wkt = ["POINT (1 1)", "POINT (9 9)", "POINT (5 5)", "POINT (20 20)"]
    path = write(tmp_path / "p.gpkg", wkt, label=[1, 1, 0, 0], object=names)
    assert shares(read_prompt_file(path)) == [{(1, 1): 1, (5, 5): 0, (20, 20): 0}, {(9, 9): 1, (20, 20): 0}]


def test_points_without_an_object_are_targets_of_their_own(tmp_path):
    wkt = ["POINT (1 1)", "POINT (9 9)", "POINT (5 5)"]
    path = write(tmp_path / "p.gpkg", wkt, object=["a", None, None])
    assert shares(read_prompt_file(path)) == [{(1, 1): 1}, {(9, 9): 1}, {(5, 5): 1}]


@pytest.mark.parametrize("labels", [[1, 0], [1.0, 0.0], ["1", "0"]])
def test_labels_as_numbers_or_text(tmp_path, labels):
    assert read_prompt_file(write(tmp_path / "p.gpkg", [POINT, OTHER], label=labels)).labels == (1, 0)


@pytest.mark.parametrize("labels", [[1, 2], [1.0, 0.5], [1.0, None], ["1", "yes"], ["1", ""]])
def test_other_labels_are_refused(tmp_path, labels):
    with pytest.raises(PromptError, match='"label" is 1'):
        read_prompt_file(write(tmp_path / "p.gpkg", [POINT, OTHER], label=labels))


def test_an_area_off_the_target_is_refused_not_turned_round(tmp_path):
    with pytest.raises(PromptError, match="area cannot be marked"):
        read_prompt_file(write(tmp_path / "p.gpkg", [AREA, POINT], label=[0, 1]))
    assert read_prompt_file(write(tmp_path / "q.gpkg", [AREA, POINT], label=[None, 1])).boxes


def test_only_negative_points(tmp_path):
    with pytest.raises(PromptError, match="All points are negative"):
        read_prompt_file(write(tmp_path / "p.gpkg", [POINT, OTHER], label=[0, 0]))


# CRS


def test_the_crs_of_the_file_or_the_one_that_is_said(tmp_path):
    path = write(tmp_path / "p.gpkg", [POINT])
    assert read_prompt_file(path).crs == UTM
    assert read_prompt_file(path, crs="EPSG:25833").crs == "EPSG:25833"


@pytest.mark.filterwarnings("ignore:'crs' was not provided")
def test_a_file_without_a_crs(tmp_path):
    path = write(tmp_path / "p.shp", [POINT], crs=None)
    with pytest.raises(PromptError, match=r"no CRS.*--prompt-crs"):
        read_prompt_file(path)
    assert read_prompt_file(path, crs=UTM).crs == UTM


@pytest.mark.parametrize("crs", ["EPSG:32633", "EPSG:4326", "EPSG:3857", "EPSG:3035"])
def test_the_same_place_in_any_crs_finds_the_same(tmp_path, crs, two_roofs):
    forward = Transformer.from_crs(UTM, crs, always_xy=True)
    x, y = forward.transform(500_010, 5_399_990)  # 20 pixels right and down of the corner
    path = write(tmp_path / "p.gpkg", [f"POINT ({x!r} {y!r})"], crs=crs)
    result = segment(two_roofs, read_prompt_file(path), engine=PointedEngine())
    assert [item.bbox for item in result.objects] == [(10, 10, 30, 30)]


@pytest.fixture
def two_roofs(tmp_path):
    grey = np.full((96, 96), 10, np.uint8)
    grey[10:30, 10:30] = grey[60:80, 60:80] = 250
    path = tmp_path / "scene.tif"
    profile = {"crs": UTM, "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000), "count": 3}
    with rasterio.open(path, "w", driver="GTiff", width=96, height=96, dtype="uint8", **profile) as out:
        out.write(np.stack([grey] * 3))
    return path


# What cannot be a prompt


def test_a_missing_file(tmp_path):
    with pytest.raises(PromptError, match="missing"):
        read_prompt_file(tmp_path / "none.gpkg")
    with pytest.raises(PromptError, match="missing"):
        read_prompt_file(tmp_path)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.geojson", "{"),
        ("a.gpkg", ""),
        ("a.txt", "hello"),
        ("a.geojson", '{"type": "FeatureCollection", "features": [{"type"'),
    ],
)
def test_a_file_that_is_not_a_vector_file(tmp_path, name, content):
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(PromptError, match="cannot be read") as caught:
        read_prompt_file(path)
    assert str(path) in str(caught.value)


def test_a_table_without_geometry(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("name,label\nroof,1\n")
    with pytest.raises(PromptError, match=r"no geometry.*not a table"):
        read_prompt_file(path)


def test_a_layer_without_features_or_with_empty_ones(tmp_path):
    with pytest.raises(PromptError, match=r"holds no geometry.*0 features"):
        read_prompt_file(write(tmp_path / "a.gpkg", []))
    path = tmp_path / "b.geojson"
    features = [{"type": "Feature", "properties": {}, "geometry": None}] * 2
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    with pytest.raises(PromptError, match="geometry"):
        read_prompt_file(path)


def test_features_without_geometry_are_passed_over(tmp_path):
    path = tmp_path / "b.geojson"
    shapes = [None, {"type": "Point", "coordinates": [15, 48]}, {"type": "Polygon", "coordinates": []}]
    features = [{"type": "Feature", "properties": {"label": 1}, "geometry": shape} for shape in shapes]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features}))
    assert read_prompt_file(path).points == ((15.0, 48.0),)


def test_lines_are_refused(tmp_path):
    with pytest.raises(PromptError, match=r"points and areas.*LineString"):
        read_prompt_file(write(tmp_path / "p.gpkg", ["LINESTRING (0 0, 1 1)"]))


def test_an_area_without_extent(tmp_path):
    with pytest.raises(PromptError, match="no area"):
        read_prompt_file(write(tmp_path / "p.gpkg", ["POLYGON ((0 0, 1 0, 2 0, 0 0))"]))


@pytest.fixture
def scene(tmp_path):
    path = tmp_path / "scene.tif"
    size = {"width": 64, "height": 64, "count": 3, "dtype": "uint8"}
    with rasterio.open(path, "w", crs=UTM, transform=rasterio.Affine(1, 0, 500_000, 0, -1, 5_400_000), **size) as file:
        file.write(np.random.default_rng(1).integers(0, 255, (3, 64, 64)).astype(np.uint8))
    with open_scene(path) as opened:
        yield opened


FAR, FAR_AREA = "POINT (600000 5399990)", "POLYGON ((0 0, 9 0, 9 9, 0 0))"


@pytest.mark.parametrize(
    ("wkt", "fields", "kept", "said"),
    [
        ([POINT, FAR], {}, (1, 0), ["Point 2 of 2"]),
        ([FAR, POINT, FAR, OTHER], {}, (2, 0), ["Point 1 of 4", "Point 3 of 4"]),
        ([AREA, FAR_AREA], {}, (0, 1), ["Box 2 of 2"]),
        ([FAR_AREA, POINT], {}, (1, 0), ["Box 1 of 1"]),
        ([POINT, OTHER, FAR], {"label": [1, 0, 1], "object": ["a", "a", "b"]}, (2, 0), ["Point 3 of 3"]),
        ([FAR, OTHER, POINT], {"label": [1, 0, 1], "object": ["a", "a", "b"]}, (1, 0), ["Point 1 of 3"]),
    ],
)
def test_what_lies_outside_is_left_out_by_number(tmp_path, scene, wkt, fields, kept, said):
    prompt, remarks = scene.inside(read_prompt_file(write(tmp_path / "p.gpkg", wkt, **fields)))
    assert (len(prompt.points), len(prompt.boxes)) == kept
    assert [remark.split(" lies outside")[0] for remark in remarks] == said
    scene.to_pixels(prompt)


def test_nothing_inside_stays_an_error(tmp_path, scene):
    with pytest.raises(PromptError, match="A point lies outside the scene"):
        scene.inside(read_prompt_file(write(tmp_path / "p.gpkg", [FAR, FAR])))


def test_several_layers_are_named_and_one_is_chosen(tmp_path):
    path = tmp_path / "p.gpkg"
    for layer, spot in (("notes", OTHER), ("prompts", POINT)):
        shapes = shapely.to_wkb(shapely.from_wkt([spot]))
        pyogrio.raw.write(path, shapes, [], [], layer=layer, geometry_type="Point", crs=UTM, append=path.exists())
    with pytest.raises(PromptError, match=r"several layers.*notes, prompts.*--prompt-layer"):
        read_prompt_file(path)
    assert read_prompt_file(path, layer="prompts").points == ((500_010, 5_399_990),)
    with pytest.raises(PromptError, match=r"no layer 'promts'.*notes, prompts"):
        read_prompt_file(path, layer="promts")
