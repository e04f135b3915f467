"""What was understood, done over the objects of a scene."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pyogrio
import pytest
import rasterio
from rasterio.transform import from_origin

from terraprompt.engines.base import Answer, Embedding, ModelInfo, TileSpec
from terraprompt.errors import ConfigError
from terraprompt.flow.session import segment
from terraprompt.outputs import Result, Status
from terraprompt.prompt import Prompt, Task


class Channels:
    """Buildings are red, roads are green; everything else is answered with everything."""

    name = "channels"
    info = ModelInfo("channels", "1")
    tile = TileSpec(64, 16, 1, 2)
    tasks = frozenset(Task)
    vocabulary: tuple[str, ...] = ("building", "road")

    def __init__(self) -> None:
        self.asked: list[str | None] = []

    def is_word(self, word: str) -> bool:
        return False

    def encode(self, images: Sequence[np.ndarray]) -> list[Embedding]:
        return [Embedding(image.shape[:2], image, image.nbytes) for image in images]

    def predict(self, embeddings: Sequence[Embedding], prompts: Sequence[Prompt]) -> list[Answer]:
        self.asked += [prompt.text for prompt in prompts]
        out = []
        for embedding, prompt in zip(embeddings, prompts, strict=True):
            image = embedding.data.astype(np.float32)
            channel = 1 if "road" in (prompt.text or "") else 0
            out.append(Answer(image[..., channel] / 16 - 8))
        return out


BLOCKS = {"big": (10, 10, 40, 40), "mid": (70, 10, 90, 30), "low": (70, 70, 84, 84), "speck": (40, 70, 42, 72)}


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    image = np.zeros((3, 100, 100), np.uint8)
    for x0, y0, x1, y1 in BLOCKS.values():
        image[0, y0:y1, x0:x1] = 255
    image[1, 50:56] = 255
    path = tmp_path_factory.mktemp("scene") / "s.tif"
    profile = {"driver": "GTiff", "width": 100, "height": 100, "count": 3, "dtype": "uint8", "crs": "EPSG:32636"}
    with rasterio.open(path, "w", transform=from_origin(500000, 100, 1, 1), **profile) as file:
        file.write(image)
    return path


def blocks(*names: str) -> np.ndarray:
    mask = np.zeros((100, 100), bool)
    for name in names:
        x0, y0, x1, y1 = BLOCKS[name]
        mask[y0:y1, x0:x1] = True
    return mask


ROAD = np.zeros((100, 100), bool)
ROAD[50:56] = True


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the buildings", blocks("big", "mid", "low")),
        ("not buildings", ~blocks("big", "mid", "low")),
        ("neither buildings nor roads", ~(blocks("big", "mid", "low") | ROAD)),
        ("buildings and roads", blocks("big", "mid", "low") | ROAD),
        ("buildings larger than 300 m2", blocks("big", "mid")),
        ("buildings between 190 and 500 m2", blocks("mid", "low")),
        ("buildings except the largest", blocks("mid", "low")),
        ("the smallest building", blocks("low")),
        ("the building on the right side", blocks("mid")),
        ("how many buildings are there?", blocks("big", "mid", "low")),
    ],
)
def test_it_is_done_over_the_objects(scene: Path, text: str, expected: np.ndarray) -> None:
    with segment(scene, text, engine=Channels(), stretch="none") as result:
        assert np.array_equal(result.mask() == 1, expected)


def test_what_is_refused_is_not_asked(scene: Path) -> None:
    engine = Channels()
    with segment(scene, "grass", engine=engine) as result:
        assert result.status is Status.NO_TARGET
        assert "grass" in (result.reason or "")
        assert "channels knows buildings, roads." in " ".join(result.remarks)
        assert result.provenance["unknown_words"] == ["grass"]
        assert result.provenance["remarks"] == list(result.remarks)
    assert engine.asked == []


def test_a_count_and_a_place_with_several_are_said(scene: Path) -> None:
    with segment(scene, "count the buildings", engine=Channels(), stretch="none") as result:
        assert "Objects counted: 3." in result.remarks
    with segment(scene, "the building in the right half", engine=Channels(), stretch="none") as result:
        assert len(result.objects) == 1
        assert "One was asked for and 2 lie" in " ".join(result.remarks)


def test_the_default_size_is_recorded_and_can_be_set(scene: Path) -> None:
    with segment(scene, "the buildings", engine=Channels(), stretch="none") as result:
        assert result.provenance["settings"]["min_area_m2"] == 8.0
    for options in ({"min_area_m2": 1.0}, {"min_pixels": 1}, {"understand": False}, {"selector": None}):
        with segment(scene, "the buildings", engine=Channels(), stretch="none", **options) as result:
            assert len(result.objects) == 4
            assert "min_area_default" not in result.provenance["settings"]


def test_no_selector_sends_the_sentence_as_it_is(scene: Path) -> None:
    engine = Channels()
    with segment(scene, "not buildings", engine=engine, selector=None) as result:
        assert set(engine.asked) == {"not buildings"}
        assert "understood" not in result.provenance


def test_one_click_is_one_object(scene: Path) -> None:
    with segment(scene, Prompt(None, ((20, 20),)), engine=Channels(), stretch="none", refine=False) as result:
        assert [item.bbox for item in result.objects] == [BLOCKS["big"]]
    with segment(scene, Prompt(None, ((60, 20),)), engine=Channels(), stretch="none", refine=False) as result:
        assert [item.bbox for item in result.objects] == [BLOCKS["mid"]]
        assert "nearest object" in " ".join(result.remarks)


def test_a_text_beside_a_click_is_used_or_said_not_to_be(scene: Path) -> None:
    for text, asked in (("the building", "the building"), ("penguins", None), ("the largest building", None)):
        engine = Channels()
        with segment(scene, Prompt(text, ((20, 20),)), engine=engine, stretch="none") as result:
            assert set(engine.asked) == {asked}
            assert any("was not used" in remark for remark in result.remarks) == (asked is None)


def test_a_limit_needs_a_crs(tmp_path: Path) -> None:
    path = tmp_path / "p.png"
    with rasterio.open(path, "w", driver="PNG", width=64, height=64, count=3, dtype="uint8") as file:
        file.write(np.full((3, 64, 64), 255, np.uint8))
    with pytest.raises(ConfigError, match="square metres"):
        segment(path, "buildings larger than 20 m2", engine=Channels())


#: CRS (None: none) and upper left corner of scenes whose pixels have no size on the ground.
PLACELESS = {
    "no CRS": (None, (0, 100)),
    "degrees of sky": ('LOCAL_CS["Sky",UNIT["degree",0.0174532925199433],AXIS["X",EAST],AXIS["Y",NORTH]]', (0, 100)),
    "metres said to be degrees": ("EPSG:4326", (500000, 4000000)),
    "degrees beyond the north pole": ("EPSG:4258", (10, 400)),
    "degrees beyond the south pole": ("EPSG:4269", (10, -100)),
}  # fmt: skip


@pytest.fixture(params=PLACELESS)
def placeless(request: pytest.FixtureRequest, scene: Path, tmp_path: Path) -> Path:
    crs, corner = PLACELESS[request.param]
    with rasterio.open(scene) as old, rasterio.open(
        path := tmp_path / "p.tif", "w", transform=from_origin(*corner, 1, 1), crs=crs,
        driver="GTiff", width=100, height=100, count=3, dtype="uint8",
    ) as new:  # fmt: skip
        new.write(old.read())
    return path


@pytest.mark.parametrize(
    ("text", "options", "said"),
    [
        ("the buildings", {"min_area_m2": 300.0}, "min_area_m2 is in square metres.*Received: 300.0. Use min_pixels"),
        ("the buildings", {"fill_holes_m2": 5.0}, "fill_holes_m2 is in square metres.*Leave it out"),
        ("not buildings", {"min_area_m2": 5.0}, "min_area_m2"),
        (Prompt(points=((20, 20),)), {"min_area_m2": 5.0}, "min_area_m2"),
        (Prompt(boxes=((5, 5, 45, 45),)), {"fill_holes_m2": 5.0}, "fill_holes_m2"),
        ("buildings larger than 300 m2", {}, "limit in square metres.*Leave the limit out"),
        ("the buildings under 0.1 ha", {}, "limit in square metres"),
    ],
)
def test_areas_are_refused_where_pixels_have_none(placeless, text, options, said):
    with pytest.raises(ConfigError, match=said):
        segment(placeless, text, engine=Channels(), stretch="none", **options)


def test_pixels_count_where_areas_do_not(placeless):
    with segment(placeless, "the buildings", engine=Channels(), stretch="none", min_pixels=300, simplify=2.0) as result:
        assert [item.area_px for item in result.objects] == [900, 400]
        assert all(item.area_m2 is None for item in result.objects)
        assert any("simplify was taken as 2 pixels" in remark for remark in result.remarks)
    zero = {"min_area_m2": 0.0, "fill_holes_m2": 0.0, "simplify": 0.0}  # nothing is asked of the ground
    with segment(placeless, "the buildings", engine=Channels(), stretch="none", **zero) as result:
        assert len(result.objects) == 4
        assert not any("simplify" in remark for remark in result.remarks)


def shown(result: Result) -> set[str]:
    """Blocks of which the mask holds nearly all; corners are rounded where a window is seen enlarged."""
    mask = result.mask().astype(bool)
    found = {name for name in BLOCKS if (mask & blocks(name)).any()}
    assert (mask & blocks(*found)).sum() >= 0.98 * blocks(*found).sum()
    assert not (mask & ~blocks(*found)).any()
    return found


def test_a_click_keeps_the_whole_object_under_it_and_nothing_else(scene: Path) -> None:
    result = segment(scene, Prompt(points=[(75, 15)]), engine=Channels())
    assert shown(result) == {"mid"}
    both = segment(scene, Prompt(points=[(75, 15), (20, 20)]), engine=Channels())
    assert shown(both) == {"mid", "big"}
    beside = segment(scene, Prompt(points=[(60, 20)]), engine=Channels())
    assert len(beside.objects) == 1
    assert any("right under point 1" in remark for remark in beside.remarks)


def test_a_box_keeps_its_objects_and_no_specks_beside_them(scene: Path) -> None:
    one = segment(scene, Prompt(boxes=[(8, 8, 50, 80)]), engine=Channels())
    assert shown(one) == {"big"}, "the speck of 4 pixels in the box is none of it"
    several = segment(scene, Prompt(boxes=[(5, 5, 95, 95)]), engine=Channels())
    assert shown(several) == {"big", "mid", "low"}
    alone = segment(scene, Prompt(boxes=[(38, 68, 44, 74)]), engine=Channels(), min_pixels=1)
    assert shown(alone) == {"speck"}, "alone in its box it is what was meant"


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("the houses", "building"),
        ("the largest building", "building"),
        ("buildings except roads", "building"),
        ("the street", "road"),
        (Prompt("building", boxes=((5, 5, 45, 45),)), "building"),
        ("buildings and roads", None),
        ("not buildings", None),
        (Prompt(points=((20, 20),)), None),
    ],
)
def test_the_category_of_objects_in_every_vector_file(
    prompt: str | Prompt, expected: str | None, scene: Path, tmp_path: Path
) -> None:
    with segment(scene, prompt, engine=Channels()) as result:
        files = [result.save_vector(tmp_path / f"v{s}") for s in (".gpkg", ".geojson", ".fgb", ".shp", ".parquet")]
        said = {item.category for item in result.objects}
        in_memory = {each["properties"]["category"] for each in result.__geo_interface__["features"]}
    assert said == in_memory == {expected}
    pytest.importorskip("geopandas", reason="GeoPandas is an optional extra")
    assert {None if c != c else c for c in result.to_geodataframe()["category"]} == {expected}
    for path in files[:-1]:
        meta, _, _, columns = pyogrio.raw.read(path)
        assert set(columns[list(meta["fields"]).index("category")]) == {expected}, path
    assert set(pyarrow.parquet.read_table(files[-1])["category"].to_pylist()) == {expected}


def test_an_engine_without_a_vocabulary_knows_no_category(scene: Path) -> None:
    engine = Channels()
    engine.vocabulary = ()
    with segment(scene, "the buildings", engine=engine) as result:
        assert {item.category for item in result.objects} == {None}
