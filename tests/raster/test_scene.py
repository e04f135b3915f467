"""Scenes of every kind that GDAL reads: bands, validity, extent, coordinates and errors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyproj
import pytest
import rasterio
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from rasterio.enums import ColorInterp
from rasterio.transform import from_origin
from scene_rasters import NORTH_UP, ROTATED, UTM, on_map

from terraprompt.errors import PromptError, SceneError
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene


def numbered(bands: int, height: int = 20, width: int = 30, dtype: str = "uint8") -> np.ndarray:
    return np.stack([np.full((height, width), 10 * (i + 1), dtype) for i in range(bands)])


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "int16", "float32"])
@pytest.mark.parametrize(("bands", "seen"), [(1, (1,)), (2, (1,)), (3, (1, 2, 3)), (5, (1, 2, 3))])
def test_default_bands(make_raster, dtype, bands, seen):
    with open_scene(make_raster(numbered(bands, dtype=dtype))) as scene:
        values, valid = scene.read(0, 0, 30, 20)
        assert scene.bands == seen
        assert scene.dtype == np.dtype(dtype)
        assert values.dtype == np.dtype(dtype)
        assert [int(plane[0, 0]) for plane in values] == [10 * band for band in seen]
        assert valid.all()


def test_bands_follow_marked_colours_and_skip_alpha(make_raster):
    marks = [ColorInterp.blue, ColorInterp.green, ColorInterp.red, ColorInterp.undefined]
    with open_scene(make_raster(numbered(4), colors=marks)) as scene:
        assert scene.bands == (3, 2, 1)
    alpha_first = [ColorInterp.alpha, ColorInterp.undefined, ColorInterp.undefined, ColorInterp.undefined]
    with open_scene(make_raster(numbered(4), "a.tif", colors=alpha_first)) as scene:
        assert scene.bands == (2, 3, 4)


def test_bands_by_index_and_name(make_raster):
    path = make_raster(numbered(4), names=["B2", "B3", "B4", "NIR"])
    with open_scene(path, ["nir", "B4", 2]) as scene:
        assert scene.bands == (4, 3, 2)
    with open_scene(path, "NIR") as scene:
        assert scene.bands == (4,)
    with pytest.raises(SceneError, match="B2, B3, B4, NIR"):
        open_scene(path, "SWIR")
    with pytest.raises(SceneError, match="1 to 4"):
        open_scene(path, [1, 2, 5])
    with pytest.raises(SceneError, match="One band"):
        open_scene(path, [1, 2])


def test_nodata_means_all_bands_nodata(make_raster):
    values = numbered(3, dtype="uint16")
    values[:, :5] = 0
    values[0, 10] = 0  # a value of 0 in one band alone is a dark pixel
    with open_scene(make_raster(values, nodata=0)) as scene:
        _, valid = scene.read(0, 0, 30, 20)
        assert scene.nodata == 0
        assert not scene.always_valid
        np.testing.assert_array_equal(valid, (np.arange(20) >= 5)[:, None].repeat(30, 1))


def test_nan_and_infinite_are_invalid_without_a_declared_nodata(make_raster):
    values = numbered(1, dtype="float32")
    values[0, 0], values[0, 1] = np.nan, np.inf
    with open_scene(make_raster(values)) as scene:
        assert not scene.always_valid
        assert scene.read(0, 0, 30, 20)[1].sum() == 18 * 30


def test_float_nodata_is_compared_in_its_own_type(make_raster):
    values = numbered(1, dtype="float32")
    values[0, 0] = np.float32(-3.4e38)
    with open_scene(make_raster(values, nodata=-3.4e38)) as scene:
        assert scene.read(0, 0, 30, 20)[1].sum() == 19 * 30


def test_mask_and_alpha(make_raster):
    mask = np.full((20, 30), 255, np.uint8)
    mask[:, :7] = 0
    with rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True):
        masked = make_raster(numbered(3), "masked.tif", mask=mask)
    colours = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    alpha = make_raster(np.concatenate([numbered(3), mask[None]]), "alpha.tif", colors=colours)
    for path in (masked, alpha):
        with open_scene(path) as scene:
            assert scene.bands == (1, 2, 3)
            np.testing.assert_array_equal(scene.read(0, 0, 30, 20)[1], mask > 0)
            assert scene.read(0, 0, 30, 20, shape=(10, 15))[1].sum() in (10 * 11, 10 * 12)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp"])
def test_plain_pictures(tmp_path, suffix):
    path = tmp_path / f"plain.{suffix}"
    Image.fromarray(np.full((40, 60, 3), (200, 100, 50), np.uint8)).save(path)
    with open_scene(path) as scene:
        assert (scene.width, scene.height, scene.crs, scene.gsd_m) == (60, 40, None, None)
        np.testing.assert_allclose(scene.read(0, 0, 60, 40)[0][:, 5, 5], (200, 100, 50), atol=4)


def test_palette_is_expanded(tmp_path):
    picture = Image.fromarray(np.arange(16, dtype=np.uint8).reshape(4, 4) % 2, mode="P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.save(tmp_path / "palette.png")
    with open_scene(tmp_path / "palette.png") as scene:
        values, _ = scene.read(0, 0, 4, 4)
        assert scene.channels == 3
        assert values[:, 0, 0].tolist() == [255, 0, 0]
        assert values[:, 0, 1].tolist() == [0, 0, 255]


def test_bands_of_different_types(make_raster, tmp_path):
    a, b = make_raster(numbered(1), "a.tif"), make_raster(numbered(1, dtype="int16"), "b.tif")
    vrt = tmp_path / "mixed.vrt"
    source = "<SimpleSource><SourceFilename>{2}</SourceFilename></SimpleSource>"
    band = f'<VRTRasterBand dataType="{{0}}" band="{{1}}">{source}</VRTRasterBand>'
    bands = [band.format("Byte", 1, a), band.format("Int16", 2, b), band.format("Byte", 3, a)]
    vrt.write_text(f'<VRTDataset rasterXSize="30" rasterYSize="20">{"".join(bands)}</VRTDataset>')
    with open_scene(vrt) as scene:
        assert scene.dtype == np.int16
        assert scene.read(0, 0, 30, 20)[0].shape == (3, 20, 30)


# Ground size


@pytest.mark.parametrize(
    ("crs", "transform", "metres"),
    [
        (UTM, NORTH_UP, 0.5),
        (UTM, ROTATED, 0.5),
        ("EPSG:4326", from_origin(15, 60, 1e-5, 1e-5), 1e-5 * 111_320 * np.sqrt(0.5)),
        ("EPSG:3857", from_origin(0, 8_399_738, 1, 1), 0.5),  # 60 degrees north: Mercator is twice too large
        ("EPSG:2263", from_origin(990_000, 200_000, 1, 1), 0.3048),  # US survey feet
    ],
)
def test_ground_size_is_true_metres(make_raster, crs, transform, metres):
    with open_scene(make_raster(numbered(1), crs=crs, transform=transform)) as scene:
        assert scene.gsd_m == pytest.approx(metres, rel=5e-3)


# Extent


def test_bbox_clips_to_whole_pixels(make_raster):
    values = np.arange(600, dtype=np.uint16).reshape(20, 30)
    path = make_raster(values)
    with open_scene(path, bbox=(500_002.6, 5_399_994.0, 500_005.0, 5_399_999.0)) as scene:
        assert (scene.left, scene.top, scene.width, scene.height) == (5, 2, 5, 10)
        np.testing.assert_array_equal(scene.read(0, 0, 5, 10)[0][0], values[2:12, 5:10])
        assert on_map(scene.transform, 0, 0) == (500_002.5, 5_399_999.0)
        assert scene.whole().width == 30
    lonlat = pyproj.Transformer.from_crs(UTM, 4326, always_xy=True).transform_bounds(
        500_002.6, 5_399_994.2, 500_004.9, 5_399_998.9
    )
    with open_scene(path, bbox=lonlat, bbox_crs="EPSG:4326") as scene:
        assert (scene.left, scene.top, scene.width, scene.height) == (5, 2, 5, 10)
    with open_scene(path, bbox=(-100, -100, 7.5, 3), bbox_crs="pixel") as scene:
        assert (scene.left, scene.top, scene.width, scene.height) == (0, 0, 8, 3)
    with pytest.raises(SceneError, match=r"does not overlap.*spans x 500000 to 500015"):
        open_scene(path, bbox=(0, 0, 1, 1))
    with pytest.raises(SceneError, match="unknown"):
        open_scene(path, bbox=(0, 0, 1, 1), bbox_crs="EPSG:99999")
    with pytest.raises(SceneError, match="finite"):
        open_scene(path, bbox=(0, 0, float("nan"), 1))


def test_bbox_without_crs_is_in_pixels(make_raster):
    path = make_raster(numbered(1), crs=None, transform=None)
    with open_scene(path, bbox=(3, 4, 10, 9)) as scene:
        assert (scene.left, scene.top, scene.width, scene.height) == (3, 4, 7, 5)
    with pytest.raises(SceneError, match="no CRS"):
        open_scene(path, bbox=(3, 4, 10, 9), bbox_crs="EPSG:4326")


# Prompts


@pytest.mark.parametrize("transform", [NORTH_UP, ROTATED], ids=["north-up", "rotated"])
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(x=st.floats(0.01, 29.99), y=st.floats(0.01, 19.99), crs=st.sampled_from([UTM, "EPSG:4326", "EPSG:3857"]))
def test_map_points_come_back_to_their_pixel(make_raster, transform, x, y, crs):
    with open_scene(make_raster(numbered(1), transform=transform)) as scene:
        there = pyproj.Transformer.from_crs(UTM, crs, always_xy=True).transform(*on_map(transform, x, y))
        asked = scene.to_pixels(Prompt(points=(there,), crs=crs))
        assert asked.crs is None
        np.testing.assert_allclose(asked.points[0], (x, y), atol=1e-4)


def test_points_count_from_the_corner_of_the_bbox(make_raster):
    with open_scene(make_raster(numbered(1)), bbox=(10, 5, 30, 20), bbox_crs="pixel") as scene:
        asked = scene.to_pixels(Prompt(points=(on_map(NORTH_UP, 12.25, 8.5),), crs=UTM))
        np.testing.assert_allclose(asked.points[0], (2.25, 3.5))


def test_a_map_box_holds_its_corners_on_a_rotated_raster(make_raster):
    transform = ROTATED
    with open_scene(make_raster(numbered(1, 400, 600), transform=transform)) as scene:
        cx, cy = on_map(transform, 300, 200)
        box = (cx - 20, cy - 10, cx + 20, cy + 10)
        (x0, y0, x1, y1) = scene.to_pixels(Prompt(boxes=(box,), crs=UTM)).boxes[0]
        corners = [on_map(~transform, x, y) for x in box[::2] for y in box[1::2]]
        np.testing.assert_allclose((x0, x1), (min(c[0] for c in corners), max(c[0] for c in corners)))
        np.testing.assert_allclose((y0, y1), (min(c[1] for c in corners), max(c[1] for c in corners)))
        assert x1 - x0 > 40 / 0.5  # wider than the box itself, for it stands askew


def test_box_reaching_outside_is_clipped(make_raster):
    with open_scene(make_raster(numbered(1))) as scene:
        assert scene.to_pixels(Prompt(boxes=((-5, 3, 4, 90),))).boxes == ((0, 3, 4, 20),)


def test_prompts_outside_are_refused_with_the_extent(make_raster):
    with open_scene(make_raster(numbered(1))) as scene:
        with pytest.raises(PromptError, match=r"outside the scene.*x 0 to 30, y 0 to 20 \(pixels\)"):
            scene.to_pixels(Prompt(points=((31, 5),)))
        with pytest.raises(PromptError, match=r"spans x 15.* \(EPSG:4326\)"):
            scene.to_pixels(Prompt(points=((2.0, 48.0),), crs="EPSG:4326"))
        with pytest.raises(PromptError, match="outside"):
            scene.to_pixels(Prompt(boxes=((40, 0, 50, 5),)))
        with pytest.raises(PromptError, match="unknown"):
            scene.to_pixels(Prompt(points=((1, 1),), crs="nonsense"))
        assert scene.to_pixels(Prompt(points=((30, 20),))).points == ((30, 20),)


def test_map_prompt_on_a_plain_picture(make_raster):
    with (
        open_scene(make_raster(numbered(1), crs=None, transform=None)) as scene,
        pytest.raises(PromptError, match=r"no CRS.*pixel coordinates"),
    ):
        scene.to_pixels(Prompt(points=((1, 1),), crs="EPSG:4326"))


# Bad input


def test_missing_file(tmp_path):
    with pytest.raises(SceneError, match=r"does not exist.*nowhere\.tif"):
        open_scene(tmp_path / "nowhere.tif")


def test_not_a_raster(tmp_path):
    (tmp_path / "notes.tif").write_text("not a raster at all")
    with pytest.raises(SceneError, match="cannot be opened"):
        open_scene(tmp_path / "notes.tif")


@pytest.mark.parametrize("name", ["scene.tif", "photo.jpg", "photo.png"])
def test_truncation_shows_at_the_window(make_raster, tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 255, (3, 512, 512), np.uint8)
    if name.endswith("tif"):
        path = make_raster(noise, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
    else:
        path = tmp_path / name
        Image.fromarray(np.moveaxis(noise, 0, -1)).save(path)
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * 0.6)])
    with open_scene(path) as scene:
        if not name.endswith("png"):  # GDAL decodes a small PNG as a whole
            scene.read(0, 0, 512, 64)
        with pytest.raises(SceneError, match=r"x 0\.\.512, y 448\.\.512"):
            scene.read(0, 448, 512, 64)


def test_a_container_without_bands_names_what_is_inside(tmp_path):
    path = tmp_path / "two.gpkg"
    for table in ("summer", "winter"):
        options = {"RASTER_TABLE": table, "APPEND_SUBDATASET": "YES"}
        with rasterio.open(
            path,
            "w",
            driver="GPKG",
            width=30,
            height=20,
            count=3,
            dtype="uint8",
            crs=UTM,
            transform=NORTH_UP,
            **options,
        ) as out:
            out.write(numbered(3))
    with pytest.raises(SceneError, match=r"no bands.*winter"):
        open_scene(path)


def test_only_alpha(make_raster):
    with pytest.raises(SceneError, match="alpha"):
        open_scene(make_raster(numbered(1), colors=[ColorInterp.alpha]))


def test_complex_values(make_raster):
    with pytest.raises(SceneError, match="complex"):
        open_scene(make_raster(numbered(1, dtype="complex64")))


def test_closed_scene_and_wild_windows(make_raster):
    path: Path = make_raster(numbered(1))
    with open_scene(path) as scene, pytest.raises(SceneError, match="outside"):
        scene.read(25, 0, 10, 5)
    with pytest.raises(SceneError, match="closed"):
        scene.read(0, 0, 5, 5)
