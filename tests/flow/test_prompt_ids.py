"""Which point, box or feature of the prompt an object answers, in memory and in files."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
import shapely

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.errors import PromptError
from terraprompt.flow.session import segment
from terraprompt.io.prompt_file import prompt_from_features, read_prompt_file
from terraprompt.outputs import Result
from terraprompt.prompt import Prompt, Task

UTM = "EPSG:32633"
#: Bright squares (x0, y0, x1, y1) in pixels: what is found.
A, B, C, D = (10, 10, 30, 30), (60, 10, 80, 30), (10, 60, 30, 80), (60, 60, 80, 80)


class Bright:
    """Everything bright is the target; no vocabulary."""

    name = "bright"
    info = ModelInfo("bright", "1")
    tile = TileSpec(96, 16, 1, 2)
    tasks = frozenset(Task)

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        return [Embedding(image.shape[:2], image, image.nbytes) for image in images]

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        return [Answer(each.data[..., 0].astype(np.float32) / 16 - 8) for each in embeddings]


class Worded(Bright):
    """The same with a vocabulary, so that one click is one object."""

    vocabulary = ("building",)

    def is_word(self, word: str) -> bool:
        return False


def write_scene(path: Path, blocks: Sequence[tuple[int, int, int, int]], crs: str | None = UTM) -> Path:
    grey = np.full((96, 96), 10, np.uint8)
    for x0, y0, x1, y1 in blocks:
        grey[y0:y1, x0:x1] = 250
    place = {} if crs is None else {"crs": crs, "transform": rasterio.Affine(0.5, 0, 500_000, 0, -0.5, 5_400_000)}
    with rasterio.open(path, "w", driver="GTiff", width=96, height=96, dtype="uint8", count=3, **place) as out:
        out.write(np.stack([grey] * 3))
    return path


@pytest.fixture
def scene(tmp_path: Path) -> Path:
    return write_scene(tmp_path / "scene.tif", [A, B, C, D])


def middle(box: tuple[int, int, int, int]) -> tuple[float, float]:
    return (box[0] + box[2]) / 2, (box[1] + box[3]) / 2


def on_map(box: tuple[int, int, int, int]) -> shapely.Point:
    x, y = middle(box)
    return shapely.Point(500_000 + x / 2, 5_400_000 - y / 2)


def ids(result: Result) -> dict[tuple[int, int, int, int], int | str | None]:
    return {item.bbox: item.prompt_id for item in result.objects}


def around(box: tuple[int, int, int, int], margin: int = 4) -> tuple[int, int, int, int]:
    return box[0] - margin, box[1] - margin, box[2] + margin, box[3] + margin


APART = (0, 1, 2, 3)


@pytest.mark.parametrize("engine", [Bright, Worded])
@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        (Prompt(points=tuple(map(middle, (D, A, C, B))), groups=APART), {A: 2, B: 4, C: 3, D: 1}),
        (Prompt(points=tuple(map(middle, (D, A, C, B)))), {A: 2, B: 4, C: 3, D: 1}),
        (Prompt(boxes=tuple(map(around, (B, A, D, C)))), {A: 2, B: 1, C: 4, D: 3}),
    ],
)
def test_points_and_boxes_by_number(scene: Path, engine: type, prompt: Prompt, expected: dict[object, int]) -> None:
    with segment(scene, prompt, engine=engine()) as result:
        assert ids(result) == expected


def test_boxes_go_on_after_points(scene: Path) -> None:
    points, labels = (middle(A), middle(B), (50.0, 50.0), (62.0, 12.0)), (1, 1, 0, 1)
    prompt = Prompt(points=points, labels=labels, groups=APART, boxes=(around(D), around(C)))
    with segment(scene, prompt, engine=Bright()) as result:
        assert ids(result) == {A: 1, B: 2, C: 6, D: 5}


def test_a_point_in_a_box_is_part_of_it(scene: Path) -> None:
    prompt = Prompt(points=(middle(A), middle(D)), boxes=(around(A),), groups=(0, 1))
    with segment(scene, prompt, engine=Bright()) as result:
        assert (ids(result)[A], ids(result)[D]) == (3, 2)


def test_of_boxes_in_each_other_the_one_most_alike_is_answered(scene: Path) -> None:
    prompt = Prompt(boxes=((0, 0, 96, 96), around(B, 1), around(B, 8)))
    with segment(scene, prompt, engine=Bright()) as result:
        assert ids(result) == {A: 1, B: 2, C: 1, D: 1}
        assert any("more than one point or box" in remark and "2 and 3" in remark for remark in result.remarks)


@pytest.mark.parametrize("crs", [UTM, None])
def test_two_clicks_on_one_object_are_said(tmp_path: Path, crs: str | None) -> None:
    path = write_scene(tmp_path / "long.tif", [(10, 10, 80, 30)], crs)
    points = ((15.0, 20.0), (75.0, 20.0))
    with segment(path, Prompt(points=points, groups=(0, 1)), engine=Bright()) as result:
        assert [item.prompt_id for item in result.objects] == [1]
        assert [r for r in result.remarks if "more than one point or box" in r and "(1 and 2)" in r]
    with segment(path, Prompt(points=points), engine=Bright()) as result:  # they describe one target
        assert not any("more than one" in remark for remark in result.remarks)


def test_what_has_no_point_on_it_answers_the_nearest(scene: Path) -> None:
    prompt = Prompt(points=(middle(A), (50.0, 70.0)), groups=(0, 1))
    with segment(scene, prompt, engine=Bright()) as result:
        assert ids(result) == {A: 1, B: 1, C: 2, D: 2}


def test_a_text_has_no_prompt_id_and_several_prompts_have_their_own(scene: Path) -> None:
    text, points, boxes = segment(
        scene, ["the bright", Prompt(points=(middle(B),)), Prompt(boxes=(around(D),))], engine=Bright()
    )
    assert {item.prompt_id for item in text.objects} == {None}
    assert {item.prompt_id for item in points.objects} == {item.prompt_id for item in boxes.objects} == {1}


def test_features_outside_keep_the_numbers_of_the_others(scene: Path) -> None:
    shapes = [shapely.Point(0, 0), on_map(B), on_map(C)]
    rows = [{"type": "Feature", "geometry": shapely.geometry.mapping(each), "properties": {}} for each in shapes]
    crs = {"type": "name", "properties": {"name": UTM}}
    with segment(scene, {"type": "FeatureCollection", "features": rows, "crs": crs}, engine=Worded()) as result:
        assert ids(result) == {B: 2, C: 3}


def write_points(path: Path, boxes: Sequence[tuple[int, int, int, int]], **columns: np.ndarray) -> Path:
    pyogrio.raw.write(
        path, shapely.to_wkb([on_map(box) for box in boxes]), list(columns.values()), list(columns),
        geometry_type="Point", crs=UTM,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("suffix", "expected"), [(".gpkg", {A: 2, B: 1, C: 3}), (".shp", {A: 1, B: 0, C: 2}), (".fgb", None)]
)
def test_a_prompt_file_gives_its_fids(scene: Path, tmp_path: Path, suffix: str, expected: dict[object, int]) -> None:
    path = write_points(tmp_path / f"wells{suffix}", [B, A, C], name=np.array(["b", "a", "c"], object))
    if expected is None:  # a FlatGeobuf sorts its features
        _, fids, shapes, _ = pyogrio.raw.read(path, return_fids=True)
        at = {shape.coords[0]: fid for fid, shape in zip(fids.tolist(), shapely.from_wkb(shapes), strict=True)}
        expected = {box: at[on_map(box).coords[0]] for box in (A, B, C)}
    with segment(scene, read_prompt_file(path), engine=Worded()) as result:
        assert ids(result) == expected
        read = pyogrio.raw.read(result.save_vector(tmp_path / "o.gpkg"))
        column = read[3][list(read[0]["fields"]).index("prompt_id")]
        assert column.dtype == np.int64
        assert column.tolist() == [item.prompt_id for item in result.objects]


def test_text_ids_of_geojson(scene: Path, tmp_path: Path) -> None:
    features = [
        {"type": "Feature", "id": f"w-{name}", "geometry": shapely.geometry.mapping(on_map(box)), "properties": {}}
        for name, box in (("c", C), ("a", A))
    ]
    crs = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
    path = tmp_path / "wells.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": crs, "features": features}))
    for prompt in (read_prompt_file(path), prompt_from_features(json.loads(path.read_text()))):
        with segment(scene, prompt, engine=Worded()) as result:
            assert ids(result) == {A: "w-a", C: "w-c"}
            written = result.save_vector(tmp_path / "o.parquet", overwrite=True)
        assert sorted(pyarrow.parquet.read_table(written)["prompt_id"].to_pylist()) == ["w-a", "w-c"]


def test_the_index_of_a_geodataframe(scene: Path) -> None:
    geopandas = pytest.importorskip("geopandas", reason="GeoPandas is an optional extra")
    frame = geopandas.GeoDataFrame(geometry=[on_map(box) for box in (D, A)], index=[40, 7], crs=UTM)
    with segment(scene, frame, engine=Worded()) as result:
        assert ids(result) == {A: 7, D: 40}
        assert result.to_geodataframe()["prompt_id"].tolist() == [7, 40]


def test_points_of_one_object_of_the_file_are_one_target(tmp_path: Path) -> None:
    path = write_scene(tmp_path / "long.tif", [(10, 10, 80, 30), C])
    places = [(12, 12, 18, 28), (70, 12, 78, 28), C]
    wells = write_points(tmp_path / "w.gpkg", places, object=np.array(["a", "a", "b"], object))
    with segment(path, read_prompt_file(wells), engine=Bright()) as result:
        assert ids(result) == {(10, 10, 80, 30): 1, C: 3}
        assert not any("more than one" in remark for remark in result.remarks)


CRS_MEMBER = {"type": "name", "properties": {"name": "urn:ogc:def:crs:EPSG::32633"}}
WELLS = [
    (B, {"name": "b", "depth": 12, "dry": True, "score": "good", "area_m2": 3.5, "tags": ["x", "y"]}),
    (A, {"name": "a", "depth": None, "dry": None, "score": None, "area_m2": None, "tags": None}),
]


def wells_geojson(path: Path) -> Path:
    rows = [
        {"type": "Feature", "geometry": shapely.geometry.mapping(on_map(box)), "properties": values}
        for box, values in WELLS
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "crs": CRS_MEMBER, "features": rows}))
    return path


@pytest.mark.parametrize(
    ("how", "suffix"),
    [("text", ".gpkg"), ("path", ".gpkg"), ("prompt", ".gpkg"), ("text", ".geojson"), ("memory", ".geojson")],
)
def test_attributes_of_a_prompt_file_come_back_typed(scene: Path, tmp_path: Path, how: str, suffix: str) -> None:
    source = wells_geojson(tmp_path / "wells.geojson")
    if suffix == ".gpkg":
        meta, table = pyogrio.read_arrow(source)
        source = tmp_path / "wells.gpkg"
        pyogrio.write_arrow(
            table.drop_columns(["tags"]), source, geometry_name=meta["geometry_name"] or "wkb_geometry",
            geometry_type="Point", crs=UTM,
        )  # fmt: skip
    given = {
        "text": str(source), "path": source, "prompt": read_prompt_file(source),
        "memory": json.loads(source.read_text()) if how == "memory" else None,
    }[how]  # fmt: skip
    with segment(scene, given, engine=Worded()) as result:
        found = {item.bbox: item.attributes for item in result.objects}
        path = result.save_vector(tmp_path / "out.gpkg")
        kept = result.select([result.objects[0].id]).objects[0].attributes
    assert kept in found.values()
    assert (found[B]["depth"], found[B]["dry"], found[B]["score"], found[B]["area_m2"]) == (12, True, "good", 3.5)
    assert type(found[B]["depth"]) is int
    assert set(found[A].values()) == {"a", None}
    table = pyogrio.read_arrow(path)[1]
    rows = {row["name"]: row for row in table.to_pylist()}
    assert (rows["b"]["depth"], rows["b"]["dry"], rows["b"]["score_2"], rows["b"]["area_m2_2"]) == (
        12,
        True,
        "good",
        3.5,
    )
    assert (rows["a"]["depth"], rows["a"]["dry"], rows["a"]["score_2"]) == (None, None, None)
    assert rows["b"]["area_m2"] == pytest.approx(100)
    assert str(table.schema.field("depth").type).startswith("int")
    assert table.schema.field("dry").type == "bool"
    assert suffix == ".gpkg" or json.loads(rows["b"]["tags"]) == ["x", "y"]


def test_a_prompt_file_that_is_not_there_is_no_sentence(scene: Path, tmp_path: Path) -> None:
    with pytest.raises(PromptError, match="prompt file is missing"):
        segment(scene, str(tmp_path / "wells.gpkg"), engine=Bright())


def test_an_answer_as_prompt_of_the_next(scene: Path, tmp_path: Path) -> None:
    first = segment(scene, wells_geojson(tmp_path / "wells.geojson"), engine=Worded())
    with first, segment(scene, first, engine=Worded()) as second:
        path = second.save_vector(tmp_path / "second.gpkg")
        assert ids(second) == {item.bbox: item.id for item in first.objects}
    fields = pyogrio.read_info(path)["fields"].tolist()
    assert {"score_2", "score_2_2", "prompt_id_2", "id_2", "name"} <= set(fields)
    assert len(fields) == len(set(fields))
