"""The renderer's truth is exact, its files are georeferenced, and a seed says it all."""

from __future__ import annotations

import hashlib
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pyogrio.raw
import pytest
import rasterio
import shapely
from rasterio.features import rasterize
from shapely.geometry import box

from terraprompt.errors import ConfigError, OutputError
from terraprompt_synthetic import CATEGORIES, STYLES, RenderedScene, dataset, demo_scene, render


def digest(scene: RenderedScene) -> str:
    mark = hashlib.sha256(scene.rgb.tobytes() + scene.top.tobytes())
    for thing in scene.objects:
        mark.update(repr((thing.category, thing.parent, sorted(thing.attributes.items()))).encode())
        mark.update(thing.polygon.wkb)
    mark.update(repr((scene.crs, scene.transform)).encode())
    return mark.hexdigest()


@cache
def styled(style: str) -> RenderedScene:
    return render(4, width=320, height=256, gsd_m=0.8, style=style)


@pytest.fixture(params=STYLES)
def scene(request: pytest.FixtureRequest) -> RenderedScene:
    return styled(request.param)


def test_the_same_seed_gives_the_same_bytes() -> None:
    for seed in (0, 1, 2, 3):
        assert digest(render(seed, width=160, height=128)) == digest(render(seed, width=160, height=128))


def test_other_seeds_give_other_scenes() -> None:
    assert len({digest(render(seed, width=96, height=96, style="rural")) for seed in range(5)}) == 5


def test_a_style_is_drawn_by_the_seed() -> None:
    assert {render(seed, width=16, height=16, gsd_m=0.1).style for seed in range(40)} == set(STYLES)


def test_masks_are_the_polygons_painted_in_order(scene: RenderedScene) -> None:
    top = rasterize([(o.polygon, i) for i, o in enumerate(scene.objects, 1)], out_shape=scene.shape, dtype="int32")
    np.testing.assert_array_equal(top, scene.top)
    for category in CATEGORIES:
        own = np.isin(top, [i for i, o in enumerate(scene.objects, 1) if o.category == category])
        fixed = [
            i
            for i, o in enumerate(scene.objects, 1)
            if o.parent is not None and scene.objects[o.parent].category == category
        ]
        np.testing.assert_array_equal(scene.mask(category), (own | np.isin(top, fixed)).astype(np.uint8))


def test_labels_name_the_objects(scene: RenderedScene) -> None:
    for category in CATEGORIES:
        labels = scene.labels(category)
        assert labels.dtype == np.int32
        assert labels.shape == scene.shape
        assert scene.mask(category).dtype == np.uint8
        np.testing.assert_array_equal(labels > 0, scene.mask(category) == 1)
        wanted = {i for i, o in enumerate(scene.objects, 1) if o.category == category}
        assert set(np.unique(labels)) - {0} == wanted, "each object is visible somewhere, and nothing else is named"


def test_polygons_are_valid_and_inside(scene: RenderedScene) -> None:
    height, width = scene.shape
    frame = box(0, 0, width, height).buffer(1e-6)
    for thing in scene.objects:
        assert thing.polygon.geom_type == "Polygon"
        assert thing.polygon.is_valid
        assert thing.polygon.area > 0
        assert frame.contains(thing.polygon)
        assert 0 <= thing.attributes["visible"] <= 1
        assert thing.attributes["area_m2"] == pytest.approx(thing.polygon.area * scene.gsd_m**2)


def test_roof_panels_belong_to_their_building_too() -> None:
    scene = render(4, width=512, height=512, gsd_m=0.5, style="industrial")
    panels = [(i, o) for i, o in enumerate(scene.objects, 1) if o.parent is not None]
    assert panels
    building, solar = scene.labels("building"), scene.labels("solar_panel")
    for i, panel in panels:
        home = scene.objects[panel.parent or 0]
        assert home.category == "building"
        assert home.polygon.buffer(1e-6).intersection(panel.polygon).area == pytest.approx(panel.polygon.area)
        assert (building[solar == i] == (panel.parent or 0) + 1).all()


def test_every_category_occurs() -> None:
    assert {o.category for style in STYLES for o in styled(style).objects} == set(CATEGORIES)


def test_styles_differ() -> None:
    @cache
    def pair(style: str) -> list[RenderedScene]:
        return [render(seed, width=200, height=200, gsd_m=1.5, style=style) for seed in (1, 2)]

    def share(style: str, category: str) -> float:
        return float(np.mean([scene.mask(category).mean() for scene in pair(style)]))

    assert share("rural", "field") > 0.3
    assert share("lakes", "lake") > 0.05
    assert share("downtown", "building") > share("suburb", "building") > share("rural", "building")
    assert share("informal", "building") > 0.15
    assert share("industrial", "storage_tank") > 0


def test_one_world_at_two_pixel_sizes() -> None:
    fine = render(9, width=480, height=400, gsd_m=0.5, style="suburb")
    coarse = render(9, width=240, height=200, gsd_m=1.0, style="suburb")

    def areas(scene: RenderedScene) -> list[float]:
        return sorted(o.attributes["area_m2"] for o in scene.objects if o.category == "building")

    assert len(areas(fine)) > 20
    np.testing.assert_allclose(areas(fine), areas(coarse))
    typical = float(np.median([a for a in areas(fine) if a > 40]))
    assert 60 < typical < 300, "a house has the size of a house"
    counted = fine.mask("building").sum() * 0.25, coarse.mask("building").sum() * 1.0
    assert counted[0] == pytest.approx(counted[1], rel=0.05)
    cars = [o.attributes["area_m2"] for o in fine.objects if o.category == "car" and not o.attributes["cut"]]
    assert all(5 < area < 10.5 for area in cars)


def test_objects_look_unlike_their_surroundings() -> None:
    scene = render(3, width=512, height=512, gsd_m=0.3, style="informal")
    blue = [i for i, o in enumerate(scene.objects, 1) if o.category == "building" and o.attributes["colour"] == "blue"]
    red = [i for i, o in enumerate(scene.objects, 1) if o.category == "building" and o.attributes["colour"] == "red"]
    hue = scene.rgb[..., 0].astype(float) - scene.rgb[..., 2]
    assert hue[np.isin(scene.top, red)].mean() > 20 + hue[np.isin(scene.top, blue)].mean()


@pytest.mark.parametrize(
    ("width", "height", "gsd"), [(64, 64, 0.1), (600, 64, 0.3), (65, 333, 2.0), (16, 31, 5.0), (600, 450, 0.15)]
)
def test_any_size(width: int, height: int, gsd: float) -> None:
    for style in ("downtown", "lakes"):
        scene = render(2, width=width, height=height, gsd_m=gsd, style=style)
        assert scene.rgb.shape == (height, width, 3)
        assert scene.rgb.dtype == np.uint8
        assert scene.top.shape == (height, width)
        assert scene.rgb.std() > 1


def test_nodata_corner() -> None:
    scene = render(8, width=200, height=150, gsd_m=0.5, style="suburb", nodata_corner=True)
    assert scene.nodata == 0
    assert 0.05 < 1 - scene.valid.mean() < 0.5
    assert not scene.top[~scene.valid].any()
    assert (scene.rgb[scene.valid] > 0).all()
    assert render(8, width=64, height=64).valid.all()


def test_geotiff_round_trip(tmp_path: Path) -> None:
    scene = render(5, width=300, height=200, gsd_m=0.4, nodata_corner=True)
    path = scene.write(tmp_path / "scene.tif")
    with rasterio.open(path) as src:
        np.testing.assert_array_equal(np.moveaxis(src.read(), 0, -1), scene.rgb)
        assert src.crs.to_string() == scene.crs
        assert src.crs.is_projected
        assert src.transform.almost_equals(scene.transform)
        assert src.res == pytest.approx((0.4, 0.4))
        assert src.nodata == 0
        assert src.profile["tiled"]
        assert src.overviews(1)
        assert src.tags()["RENDERED_SEED"] == "5"
    assert [p.name for p in tmp_path.iterdir()] == ["scene.tif"]


def test_truth_file_lies_on_the_raster(tmp_path: Path) -> None:
    scene = render(6, width=256, height=256, gsd_m=0.5, style="suburb")
    path = scene.write_truth(tmp_path / "truth.gpkg")
    meta, _, geometry, fields = pyogrio.raw.read(path, layer="truth")
    table = dict(zip(meta["fields"], fields, strict=True))
    assert meta["crs"] == scene.crs
    assert list(table["category"]) == [o.category for o in scene.objects]
    ids = table["id"].tolist()
    painted = rasterize(
        zip(shapely.from_wkb(geometry), ids, strict=True),
        out_shape=scene.shape,
        transform=scene.transform,
        dtype="int32",
    )
    # Map coordinates of millions of metres cost some bits, so that a pixel on an edge may fall to the other side.
    assert (painted != scene.top).mean() < 1e-3
    houses = table["category"] == "building"
    np.testing.assert_allclose(table["area_m2"][houses], shapely.area(shapely.from_wkb(geometry))[houses], rtol=1e-5)


def test_outputs_are_not_lost(tmp_path: Path) -> None:
    scene = render(1, width=32, height=32)
    path = tmp_path / "scene.tif"
    path.write_text("mine")
    with pytest.raises(OutputError, match="exists"):
        scene.write(path)
    with pytest.raises(OutputError, match="exists"):
        scene.write_truth(path)
    assert path.read_text() == "mine"
    with pytest.raises(OutputError, match="folder"):
        scene.write(tmp_path / "no" / "scene.tif")
    scene.write(path, overwrite=True)
    with rasterio.open(path) as src:
        assert src.count == 3


def test_demo_scene_has_what_the_demo_asks_for(tmp_path: Path) -> None:
    scene = demo_scene(tmp_path / "demo.tif")
    assert scene.shape == (1024, 1536)
    found = Counter(o.category for o in scene.objects)
    for category, least in {
        "building": 60,
        "road": 5,
        "car": 30,
        "lake": 1,
        "solar_panel": 5,
        "storage_tank": 4,
    }.items():
        assert found[category] >= least, category
    assert any(o.category == "solar_panel" and o.attributes["kind"] == "ground" for o in scene.objects)
    with rasterio.open(tmp_path / "demo.tif") as src:
        for rank in (0, 1):
            example = scene.example("building", rank=rank)
            assert example.name == f"building {example.index + 1}"
            assert example.crs == src.crs.to_string()
            row, column = src.index(*example.point)
            assert scene.labels("building")[row, column] == example.index + 1
            x0, y0, x1, y1 = example.box
            assert x0 < example.point[0] < x1
            assert y0 < example.point[1] < y1
            inside = src.window(*example.box)
            polygon = scene.objects[example.index].polygon
            np.testing.assert_allclose(
                (inside.col_off, inside.row_off, inside.col_off + inside.width, inside.row_off + inside.height),
                polygon.bounds,
                atol=1e-4,
            )
            assert scene.objects[example.index].attributes["visible"] > 0.97


def test_no_example() -> None:
    with pytest.raises(ConfigError, match="no wholly visible lake"):
        render(1, width=32, height=32, style="informal").example("lake")


def test_dataset_takes_styles_in_turn_and_repeats() -> None:
    scenes = list(dataset(7, 3, gsd_range=(0.2, 0.9), size=64))
    assert [s.style for s in scenes] == [*STYLES, STYLES[0]]
    assert all(0.2 <= s.gsd_m <= 0.9 and s.shape == (64, 64) for s in scenes)
    assert len({s.gsd_m for s in scenes}) > 4
    assert digest(next(iter(dataset(1, 3, gsd_range=(0.2, 0.9), size=64)))) == digest(scenes[0])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": 1, "width": 8}, "16 x 16"),
        ({"seed": 1, "height": 64.0}, "16 x 16"),
        ({"seed": 1, "width": 10**6, "height": 10**6}, "16384"),
        ({"seed": 1, "gsd_m": 0}, "pixel size"),
        ({"seed": 1, "gsd_m": float("nan")}, "pixel size"),
        ({"seed": 1, "gsd_m": 30}, "pixel size"),
        ({"seed": 1, "style": "moon"}, "suburb"),
    ],
)
def test_bad_arguments(arguments: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        render(**arguments)  # type: ignore[arg-type]


def test_bad_questions() -> None:
    scene = render(1, width=16, height=16)
    with pytest.raises(ConfigError, match="category"):
        scene.mask("roof")
    with pytest.raises(ConfigError, match="data set"):
        next(dataset(2, 0, gsd_range=(2.0, 0.1)))
