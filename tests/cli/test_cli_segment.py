"""``terraprompt segment`` with the packaged model: what it writes, what it prints, how it ends."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image
from pyproj import Transformer
from rasterio.features import rasterize
from scipy import ndimage

from terraprompt.engines.weights import packaged
from terraprompt.geometry.connectivity import label
from terraprompt.language.understand import MIN_AREA_M2

FIELDS = ["id", "area_m2", "score", "category", "prompt_id", "instruction", "engine", "model", "source"]


def pixels(path: Path) -> np.ndarray:
    with rasterio.open(path) as dataset:
        return dataset.read(1)


def commas(values: Any) -> str:
    return ",".join(f"{v:.9f}" for v in values)


def lonlat(town: Any, xy: tuple[float, float]) -> tuple[float, float]:
    return Transformer.from_crs(town.truth.crs, "EPSG:4326", always_xy=True).transform(*xy)


def geojson(path: Path, *features: tuple[dict[str, Any], dict[str, Any]]) -> Path:
    listed = [{"type": "Feature", "geometry": g, "properties": p} for g, p in features]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": listed}))
    return path


@pytest.fixture(scope="module")
def houses(town: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All outputs of one request, with outlines as the pixels are."""
    from terraprompt.cli import main

    folder = tmp_path_factory.mktemp("houses")
    outputs = ["-o", folder / "m.tif", "--probability", folder / "p.tif", "--picture", folder / "m.png"]
    outputs += ["--vector", folder / "m.gpkg", "--stac", folder / "item.json"]
    with pytest.raises(SystemExit) as stop:
        main([str(a) for a in ("segment", town.path, "the buildings", *outputs, "--simplify", 0)])
    assert stop.value.code == 0
    return folder


# What is written


def test_the_mask_is_a_cog_on_the_grid_of_the_scene(houses: Path, town: Any) -> None:
    with rasterio.open(houses / "m.tif") as mask:
        assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
        assert (mask.count, mask.dtypes[0], mask.nodata) == (1, "uint8", 255)
        assert (mask.height, mask.width) == town.truth.shape
        assert mask.crs.to_string() == town.truth.crs
        assert mask.transform == town.truth.transform
        assert set(np.unique(mask.read(1))) == {0, 1}
        tags = mask.tags()
    assert tags["TERRAPROMPT_INSTRUCTION"] == "the buildings"
    assert tags["TERRAPROMPT_ENGINE"] == "nano"
    assert tags["TERRAPROMPT_CHECKSUM"] == json.loads(packaged("nano").with_suffix(".json").read_text())["sha256"]


def test_the_mask_is_where_the_probability_is_above_the_threshold(houses: Path) -> None:
    probability = pixels(houses / "p.tif")
    assert probability.dtype == np.float32
    mask = pixels(houses / "m.tif") == 1
    assert probability[mask].min() > 0.49
    # Specks below the default size are not objects; nothing else may be missing.
    missing, _ = ndimage.label((probability > 0.51) & ~mask)
    with rasterio.open(houses / "m.tif") as file:
        smallest = MIN_AREA_M2["building"] / abs(file.transform.a * file.transform.e)
    assert max(np.bincount(missing.ravel())[1:], default=0) < smallest


def test_the_polygons_are_the_mask(houses: Path, town: Any) -> None:
    meta, _, geometry, columns = pyogrio.raw.read(houses / "m.gpkg")
    assert list(meta["fields"]) == FIELDS
    assert meta["crs"] == town.truth.crs
    table = dict(zip(meta["fields"], columns, strict=True))
    polygons = shapely.from_wkb(geometry)
    assert shapely.is_valid(polygons).all()
    mask = pixels(houses / "m.tif")
    drawn = rasterize(polygons, out_shape=mask.shape, transform=town.truth.transform)
    assert np.array_equal(drawn, mask)
    assert len(set(table["id"])) == len(polygons) == label(mask)[1]
    assert table["area_m2"] == pytest.approx(shapely.area(polygons), rel=2e-3)
    assert ((table["score"] > 0.5) & (table["score"] <= 1)).all()
    assert set(table["instruction"]) == {"the buildings"}
    assert set(table["engine"]) == set(table["model"]) == {"nano"}
    assert set(table["source"]) == {str(town.path)}


def test_the_picture_shows_the_scene_and_marks_the_mask_only(houses: Path, town: Any) -> None:
    height, width = town.truth.shape
    picture = np.asarray(Image.open(houses / "m.png").convert("RGB")).astype(int)
    scale = picture.shape[1] // width
    assert scale >= 1
    assert picture.shape[0] > height * scale  # a strip with words below
    middles = picture[scale // 2 : height * scale : scale, scale // 2 : width * scale : scale]
    change = np.abs(middles - town.truth.rgb).max(-1)
    mask = pixels(houses / "m.tif") == 1
    outside = ~ndimage.binary_dilation(mask, iterations=2)
    assert change[outside].max() <= 1
    assert np.median(change[ndimage.binary_erosion(mask)]) > 20


def test_the_stac_item_points_at_files_that_are_there(houses: Path, town: Any) -> None:
    item = json.loads((houses / "item.json").read_text())
    assert (item["type"], item["stac_version"]) == ("Feature", "1.0.0")
    assert set(item["assets"]) == {"mask", "probability", "vector", "picture"}
    assert all((houses / asset["href"]).is_file() for asset in item["assets"].values())
    house = shapely.Point(lonlat(town, town.house.point))
    assert shapely.geometry.shape(item["geometry"]).contains(house)
    assert item["properties"]["terraprompt:status"] == "found"


@pytest.mark.parametrize("name", ["m.geojson", "m.fgb", "m.parquet"])
def test_every_vector_format_holds_the_same_objects(
    run: Callable[..., Any], houses: Path, town: Any, tmp_path: Path, name: str
) -> None:
    done = run("segment", town.path, "the buildings", "--vector", tmp_path / name, "--simplify", 0)
    assert done.code == 0
    assert [p.name for p in tmp_path.iterdir()] == [name]
    if name.endswith(".parquet"):
        import pyarrow.parquet as pq

        table = pq.read_table(tmp_path / name)
        shapes, ids = shapely.from_wkb(table["geometry"].to_pylist()), table["id"].to_pylist()
        crs = json.loads(table.schema.metadata[b"geo"])["columns"]["geometry"]["crs"]["id"]
        crs, fields = f"{crs['authority']}:{crs['code']}", table.column_names
    else:
        meta, _, geometry, columns = pyogrio.raw.read(tmp_path / name)
        shapes, ids, crs, fields = shapely.from_wkb(geometry), columns[0], meta["crs"], list(meta["fields"])
    assert fields[: len(FIELDS)] == FIELDS
    assert crs == ("EPSG:4326" if name.endswith("json") else town.truth.crs)
    to_scene = Transformer.from_crs(crs, town.truth.crs, always_xy=True)
    shapes = shapely.transform(shapes, lambda xy: np.stack(to_scene.transform(xy[:, 0], xy[:, 1]), axis=1))
    reference = pyogrio.raw.read(houses / "m.gpkg")
    expected = dict(zip(reference[3][0], shapely.from_wkb(reference[2]), strict=True))
    assert sorted(ids) == sorted(expected)
    for number, shape in zip(ids, shapes, strict=True):
        assert shape.symmetric_difference(expected[number]).area < 0.02 * shape.area


def test_without_output_options_two_files_named_after_scene_and_instruction_appear(
    run: Callable[..., Any], town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("segment", town.path, "the buildings")
    assert (done.code, done.out) == (0, "")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["town_buildings.gpkg", "town_buildings.tif"]
    assert "objects" in done.said
    assert "town_buildings.tif, town_buildings.gpkg" in done.said


def test_a_mask_may_be_a_png_and_creation_options_arrive(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    assert run("segment", town.path, "the buildings", "-o", tmp_path / "m.png").code == 0
    with Image.open(tmp_path / "m.png") as picture:
        assert (picture.format, picture.size) == ("PNG", town.truth.shape[::-1])
    done = run("segment", town.path, "the buildings", "-o", tmp_path / "m.tif", "--co", "compress=LZW")
    assert done.code == 0
    with rasterio.open(tmp_path / "m.tif") as mask:
        assert mask.compression.name == "lzw"


# What is printed, and exit codes


def test_json_is_all_there_is_on_stdout(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.gpkg"
    done = run("segment", town.path, "the buildings", "--vector", path, "--json", "--bands", "3,2,1")
    said = done.json
    _, _, _, columns = pyogrio.raw.read(path)
    assert (done.code, said["status"], said["objects"]) == (0, "found", len(columns[0]))
    assert said["area_m2"] == pytest.approx(sum(columns[1]), abs=1e-3)
    assert said["files"] == {"vector": str(path)}
    assert said["provenance"]["bands"] == [3, 2, 1]
    assert said["provenance"]["task"] == "referring"


def test_quiet_says_nothing(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    done = run("segment", town.path, "the buildings", "-o", tmp_path / "m.tif", "-q")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_finding_nothing_is_code_3_with_an_empty_mask_that_says_so(
    run: Callable[..., Any], town: Any, tmp_path: Path
) -> None:
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg", "--picture", tmp_path / "m.png")
    done = run("segment", town.path, "the buildings", *outputs, "--min-area", 1e9, "--json")
    assert done.code == 3
    assert (done.json["status"], done.json["objects"]) == ("no_target", 0)
    assert not pixels(tmp_path / "m.tif").any()
    with rasterio.open(tmp_path / "m.tif") as mask:
        assert mask.tags()["TERRAPROMPT_STATUS"] == "no_target"
    assert pyogrio.read_info(tmp_path / "m.gpkg")["features"] == 0
    assert (tmp_path / "m.png").is_file()
    again = run("segment", town.path, "the buildings", "-o", tmp_path / "m2.tif", "--min-area", 1e9)
    assert again.code == 3
    assert "no target found" in again.said


def test_overwrite_replaces_the_old_file(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    for name in ("m.tif", "m.gpkg"):
        (tmp_path / name).write_bytes(b"old")
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg")
    assert run("segment", town.path, "the buildings", *outputs, "--overwrite").code == 0
    assert pixels(tmp_path / "m.tif").shape == town.truth.shape
    assert pyogrio.read_info(tmp_path / "m.gpkg")["features"] > 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m.gpkg", "m.tif"]


def test_layers_of_one_geopackage(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    ask = ("segment", town.path, "--vector", tmp_path / "m.gpkg")
    spot = ",".join(map(str, town.point))
    for words in (["the buildings"], ["the roads"], ["--point", spot], ["the roads", "--layer", "Ways"]):
        done = run(*ask, *words)
        assert done.code == 0, done.said
    layers = ["the_buildings", "the_roads", "points", "Ways"]
    assert pyogrio.list_layers(tmp_path / "m.gpkg")[:, 0].tolist() == layers
    content = (tmp_path / "m.gpkg").read_bytes()
    for words, said in (
        (["the buildings"], "layer the_buildings. Replace that layer alone with --overwrite, or name another"),
        (["the buildings", "--layer", "ways"], "layer ways. Replace that layer alone"),
        (["the buildings", "--layer", "gpkg_contents"], "A layer cannot have this name. Received: 'gpkg_contents'."),
    ):
        done = run(*ask, *words)
        assert (done.code, said in done.said) == (1, True), done.said
    done = run("segment", town.path, "x", "-o", tmp_path / "m.tif", "--layer", "a")
    assert (done.code, "--layer names the layer of --vector" in done.said) == (2, True)
    assert (tmp_path / "m.gpkg").read_bytes() == content
    assert run(*ask, "the buildings", "--min-area", 1e9, "--overwrite").code == 3
    assert pyogrio.read_info(tmp_path / "m.gpkg", layer="the_buildings")["features"] == 0
    assert set(pyogrio.list_layers(tmp_path / "m.gpkg")[:, 0]) == set(layers)


def test_a_copy_of_the_weights_answers_the_same(
    run: Callable[..., Any], houses: Path, town: Any, tmp_path: Path
) -> None:
    for ending in (".safetensors", ".json"):
        (tmp_path / f"mine{ending}").write_bytes(packaged("nano").with_suffix(ending).read_bytes())
    weights = tmp_path / "mine.safetensors"
    assert run("segment", town.path, "the buildings", "-o", tmp_path / "m.tif", "--weights", weights).code == 0
    assert np.array_equal(pixels(tmp_path / "m.tif"), pixels(houses / "m.tif"))


# Points, boxes, places


@pytest.fixture
def ask(run: Callable[..., Any], town: Any, tmp_path: Path) -> Callable[..., np.ndarray]:
    """The mask of a prompt that finds something."""

    def find(*arguments: object) -> np.ndarray:
        path = tmp_path / "asked.tif"
        done = run("segment", town.path, *arguments, "-o", path, "--overwrite", "-q")
        assert (done.code, done.err) == (0, "")
        return pixels(path)

    return find


def test_a_point_is_the_same_in_pixels_in_the_scenes_crs_in_degrees_and_from_a_file(
    ask: Callable[..., np.ndarray], town: Any, tmp_path: Path
) -> None:
    mask = ask("--point", commas(town.point))
    x, y = (int(v) for v in town.point)
    assert mask[y, x] == 1
    assert 0 < mask.sum() < mask.size / 4
    assert np.array_equal(ask("--point", commas(town.house.point), "--prompt-crs", "scene"), mask)
    degrees = lonlat(town, town.house.point)
    assert np.array_equal(ask("--point", f"{commas(degrees)},1", "--prompt-crs", "EPSG:4326"), mask)
    clicked = geojson(tmp_path / "click.geojson", ({"type": "Point", "coordinates": degrees}, {"label": 1}))
    assert np.array_equal(ask("--prompt-file", clicked), mask)
    in_pixels = geojson(tmp_path / "pixel.geojson", ({"type": "Point", "coordinates": town.point}, {}))
    assert np.array_equal(ask("--prompt-file", in_pixels, "--prompt-crs", "pixel"), mask)


def test_a_box_is_the_same_in_pixels_in_the_scenes_crs_and_from_a_file(
    ask: Callable[..., np.ndarray], town: Any, tmp_path: Path
) -> None:
    mask = ask("--box", commas(town.box))
    house = town.truth.labels("building") == town.house.index + 1
    assert (mask[house] == 1).mean() > 0.5
    assert np.array_equal(ask("--box", commas(town.house.box), "--prompt-crs", town.truth.crs), mask)
    drawn = tmp_path / "drawn.gpkg"
    wkb = np.array([shapely.to_wkb(shapely.box(*town.house.box))], object)
    pyogrio.raw.write(drawn, geometry=wkb, field_data=[], fields=[], geometry_type="Polygon", crs=town.truth.crs)
    assert np.array_equal(ask("--prompt-file", drawn), mask)


def test_a_negative_point_and_a_text_refine_a_box(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    x, y = town.point
    prompt = ("--box", commas(town.box), "--point", commas((x, y)), "--point", f"{x + 3:.3f},{y:.3f},0")
    done = run("segment", town.path, "the house", *prompt, "--vector", tmp_path / "m.gpkg", "--json")
    assert done.code == 0
    assert done.json["provenance"]["task"] == "interactive"
    said = done.json["provenance"]["instruction"]
    assert said.startswith("the house points ")
    assert f"{x + 3:.3f},{y:.3f},0" in said
    assert said.endswith("(pixel)")


def test_a_scene_crs_without_a_code_is_named_briefly(
    run: Callable[..., Any], town: Any, tmp_path: Path, write_raster: Callable[..., Path]
) -> None:
    crs = "+proj=tmerc +lat_0=-33 +lon_0=31 +datum=WGS84 +units=m +type=crs"
    bands = np.moveaxis(town.truth.rgb, -1, 0)
    scene = write_raster(tmp_path / "own.tif", bands, crs=crs, transform=town.truth.transform)
    point = ("--point", commas(town.house.point), "--prompt-crs", "scene")
    done = run("segment", scene, *point, "-o", tmp_path / "m.tif", "--json")
    assert done.code == 0
    assert len(done.json["provenance"]["instruction"]) < 90


def test_bbox_looks_at_a_part_and_puts_it_in_its_place(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    x0, y0, x1, y1 = 40, 32, 200, 176
    place = town.truth.transform
    (left, top), (right, bottom) = town.moved(place, (x0, y0)), town.moved(place, (x1, y1))
    outline = shapely.segmentize(shapely.box(left, bottom, right, top), 1)
    to_degrees = Transformer.from_crs(town.truth.crs, "EPSG:4326", always_xy=True)
    # Rows of the scene are no parallels: the rectangle of degrees round all of it holds a little more.
    degrees = shapely.transform(outline, lambda xy: np.stack(to_degrees.transform(xy[:, 0], xy[:, 1]), 1)).bounds
    common = ("segment", town.path, "the buildings", "-q", "-o")
    assert run(*common, tmp_path / "map.tif", "--bbox", commas((left, bottom, right, top))).code in (0, 3)
    assert run(*common, tmp_path / "pixel.tif", "--bbox", "40,32,200,176", "--bbox-crs", "pixel").code in (0, 3)
    assert run(*common, tmp_path / "deg.tif", "--bbox", commas(degrees), "--bbox-crs", "EPSG:4326").code in (0, 3)
    for name in ("map.tif", "pixel.tif"):
        with rasterio.open(tmp_path / name) as part:
            assert (part.width, part.height) == (x1 - x0, y1 - y0)
            assert part.bounds == pytest.approx((left, bottom, right, top), abs=1e-6)
            assert part.res == pytest.approx((0.3, 0.3))
    assert np.array_equal(pixels(tmp_path / "map.tif"), pixels(tmp_path / "pixel.tif"))
    with rasterio.open(tmp_path / "deg.tif") as part:
        covered = rasterio.coords.BoundingBox(*part.bounds)
    assert covered.left <= left
    assert covered.right >= right
    assert covered.bottom <= bottom
    assert covered.top >= top
    assert covered.right - covered.left < right - left + 10


def test_a_picture_without_georeference_works_in_pixels(
    run: Callable[..., Any], houses: Path, town: Any, tmp_path: Path
) -> None:
    picture = tmp_path / "photo.png"
    Image.fromarray(town.truth.rgb).save(picture)
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg", "--picture", tmp_path / "over.png")
    done = run("segment", picture, "the buildings", *outputs, "--json")
    assert done.code == 0
    assert done.json["area_m2"] is None
    # The smallest building is known in square metres only: without a CRS its specks stay.
    here, there = pixels(tmp_path / "m.tif") == 1, pixels(houses / "m.tif") == 1
    assert not (there & ~here).any()
    with rasterio.open(houses / "m.tif") as file:
        smallest = MIN_AREA_M2["building"] / abs(file.transform.a * file.transform.e)
    assert max(np.bincount(label(here & ~there)[0].ravel())[1:], default=0) < smallest
    meta, _, geometry, columns = pyogrio.raw.read(tmp_path / "m.gpkg")
    assert meta["crs"] is None
    assert np.isnan(columns[1]).all()
    x0, y0, x1, y1 = shapely.total_bounds(shapely.from_wkb(geometry))
    assert 0 <= x0 < x1 <= town.truth.shape[1]
    assert 0 <= y0 < y1 <= town.truth.shape[0]
    point = run("segment", picture, "--point", commas(town.point), "-o", tmp_path / "point.tif")
    assert point.code == 0
