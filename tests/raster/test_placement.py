"""Scenes that RPCs or ground control points alone place: on the right spot, to a fraction of a pixel."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from pyproj import Transformer
from rasterio import Affine
from rasterio.control import GroundControlPoint
from rasterio.enums import ColorInterp
from rasterio.rpc import RPC

from terraprompt.errors import PromptError, SceneError
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene

LON, LAT, STEP, SIZE = 15.0, 48.0, 1e-5, 200
#: Degrees of longitude by which a metre of height moves the picture.
LEAN = 2e-7
MARK = (slice(120, 140), slice(60, 90))  # rows, columns
HEIGHT = 300.0


def scene_values(dtype: str = "uint8", count: int = 3) -> np.ndarray:
    values = np.random.default_rng(5).integers(60, 90, (count, SIZE, SIZE)).astype(dtype)
    values[:, *MARK] = 250
    return values


def rpcs(lon: float = LON) -> RPC:
    """Pixel = degrees / STEP, leaning to the east with height above 100 m."""
    half = SIZE / 2
    samples = [0.0, 1.0, 0.0, LEAN * 500 / (half * STEP)] + [0.0] * 16  # 1, longitude, latitude, height
    return RPC(
        err_bias=0, err_rand=0, height_off=100, height_scale=500, lat_off=LAT - half * STEP, lat_scale=half * STEP,
        line_den_coeff=[1.0] + [0.0] * 19, line_num_coeff=[0.0, 0.0, -1.0] + [0.0] * 17, line_off=half - 0.5,
        line_scale=half, long_off=lon + half * STEP, long_scale=half * STEP, samp_den_coeff=[1.0] + [0.0] * 19,
        samp_num_coeff=samples, samp_off=half - 0.5, samp_scale=half,
    )  # fmt: skip


def across(lat: float) -> float:
    """Degrees of longitude a pixel."""
    return STEP / np.cos(np.radians(lat)) if lat > 80 else STEP


def gcps(lon: float = LON, lat: float = LAT, count: int = 9) -> dict[str, Any]:
    places = [(r, c) for r in (0, SIZE / 2, SIZE) for c in (0, SIZE / 2, SIZE)]
    points = [GroundControlPoint(r, c, lon + c * across(lat), lat - r * STEP) for r, c in places]
    return {"gcps": points[:count], "crs": "EPSG:4326"}


def on_ground(scene: Any, row: float, column: float, *, moved: float = 0.0, lon: float = LON, lat: float = LAT) -> Any:
    """Pixel (x, y) of a scene where a pixel of the file lies on the ground, ``moved`` degrees to the west of it."""
    to_map = Transformer.from_crs("EPSG:4326", scene.crs.to_wkt(), always_xy=True)
    x, y = to_map.transform(lon + column * across(lat) - moved, lat - row * STEP)
    t = ~scene.transform
    return t.a * x + t.b * y + t.c, t.d * x + t.e * y + t.f


def bright_middle(scene: Any) -> np.ndarray:
    values, valid = scene.read(0, 0, scene.width, scene.height)
    y, x = np.nonzero((values[0].astype(float) > 170) & valid)
    return np.array([x.mean() + 0.5, y.mean() + 0.5])


PLACED = {
    "RPCs": lambda: ({"rpcs": rpcs(), "crs": None}, LON, LAT),
    "spline": lambda: (gcps(), LON, LAT),
    "polynomial": lambda: (gcps() | {"gcps": [gcps()["gcps"][i] for i in (0, 2, 7)]}, LON, LAT),
    "south": lambda: (gcps(lat=-33.0), LON, -33.0),
    "near the pole": lambda: (gcps(lat=86.0), LON, 86.0),
    "beside the antimeridian": lambda: ({"rpcs": rpcs(179.999), "crs": None}, 179.999, LAT),
}  # fmt: skip


def test_control_points_on_a_grid_with_northing_first(make_raster) -> None:
    to_map = Transformer.from_crs("EPSG:4326", "EPSG:31467", always_xy=True)
    points = [GroundControlPoint(p.row, p.col, *to_map.transform(p.x - 6, p.y)) for p in gcps()["gcps"]]
    with open_scene(make_raster(scene_values(), transform=None, gcps=points, crs="EPSG:31467")) as scene:
        np.testing.assert_allclose(bright_middle(scene), on_ground(scene, 130, 75, moved=6.0), atol=0.35)


@pytest.mark.parametrize("kind", PLACED)
@pytest.mark.parametrize("dtype", ["uint8", "uint16", "float32"])
def test_on_its_place(make_raster, kind: str, dtype: str) -> None:
    profile, lon, lat = PLACED[kind]()
    with open_scene(make_raster(scene_values(dtype), transform=None, **profile)) as scene:
        middle = on_ground(scene, 130, 75, lon=lon, lat=lat)
        np.testing.assert_allclose(bright_middle(scene), middle, atol=0.35)
        assert scene.transform.e < 0 < scene.transform.a
        assert scene.transform.a == -scene.transform.e
        assert "it was warped to" in scene.remarks[0]
        asked = scene.to_pixels(Prompt(points=((75, 130),), boxes=((60, 120, 90, 140),)))
        np.testing.assert_allclose(asked.points[0], middle, atol=0.2)
        corners = [on_ground(scene, r, c, lon=lon, lat=lat) for r in (120, 140) for c in (60, 90)]
        np.testing.assert_allclose(asked.boxes[0], [*np.min(corners, axis=0), *np.max(corners, axis=0)], atol=0.2)
        with pytest.raises(PromptError, match=r"x 0 to 200, y 0 to 200 \(pixels\)"):
            scene.to_pixels(Prompt(points=((205, 10),)))


def test_what_lies_outside_the_file_is_not_valid(make_raster) -> None:
    values = scene_values()
    values[:, *MARK] = 0
    turned = [
        GroundControlPoint(p.row, p.col, LON + (p.col + p.row) * STEP, LAT - (p.row - p.col) * STEP)
        for p in gcps()["gcps"]
    ]
    with open_scene(make_raster(values, transform=None, gcps=turned, crs="EPSG:4326")) as scene:
        stored, valid = scene.read(0, 0, scene.width, scene.height)
        assert 0.4 < valid.mean() < 0.6
        assert (stored[0][valid] < 5).any(), "black pixels of the file are data"


@pytest.mark.parametrize("how", ["declared", "option", "alpha", "mask", "none"])
def test_nodata_of_the_file_stays_so(make_raster, how: str) -> None:
    values = scene_values(count=4 if how == "alpha" else 3)
    values[:, *MARK] = 7
    extra: dict[str, Any] = {}
    if how in ("declared", "none"):
        extra["nodata"] = 7
    if how == "alpha":
        values[3], values[3, *MARK] = 255, 0
        extra["colors"] = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    if how == "mask":
        extra["mask"] = values[0] != 7
    path = make_raster(values, transform=None, **gcps(), **extra)
    with open_scene(path, nodata={"option": 7, "none": "none"}.get(how)) as scene:
        x, y = map(int, on_ground(scene, 130, 75))
        assert scene.read(x, y, 1, 1)[1].all() == (how == "none")
        assert scene.read(x + 40, y, 1, 1)[1].all()


def test_infrared_marked_as_alpha(make_raster) -> None:
    values = scene_values(count=4)
    values[3, *MARK] = 0
    rgba = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
    with open_scene(make_raster(values, transform=None, colors=rgba, **gcps())) as scene:
        x, y = map(int, on_ground(scene, 130, 75))
        assert scene.read(x, y, 1, 1)[1].all()


def test_bands_by_name(make_raster) -> None:
    values = np.stack([np.full((SIZE, SIZE), v, np.uint16) for v in (10, 20, 30, 40)])
    path = make_raster(values, transform=None, names=["B02", "B03", "B04", "B08"], **gcps())
    with open_scene(path) as scene:
        x, y = map(int, on_ground(scene, 100, 100))
        assert scene.read(x, y, 1, 1)[0].ravel().tolist() == [30, 20, 10]


def test_palette_values_are_not_mixed(make_raster) -> None:
    path = make_raster((scene_values(count=1) > 200).astype(np.uint8), transform=None, **gcps())
    with rasterio.open(path, "r+") as file:
        file.write_colormap(1, {0: (9, 9, 9, 255), 1: (200, 100, 50, 255)})
        file.colorinterp = [ColorInterp.palette]
    with open_scene(path) as scene:
        values, valid = scene.read(0, 0, scene.width, scene.height)
        assert {tuple(v) for v in values[:, valid].T.tolist()} == {(9, 9, 9), (200, 100, 50)}


def test_heights_move_the_picture(make_raster, tmp_path: Path) -> None:
    path = make_raster(scene_values(), transform=None, crs=None, rpcs=rpcs())
    dem = tmp_path / "dem.tif"
    with rasterio.open(
        dem, "w", driver="GTiff", width=40, height=40, count=1, dtype="float32", crs="EPSG:4326",
        transform=Affine(1e-4, 0, LON - 1e-3, 0, -1e-4, LAT + 1e-3),
    ) as file:  # fmt: skip
        file.write(np.full((1, 40, 40), HEIGHT, np.float32))
    for heights, above, said in ((None, 0.0, "one height of 100 m"), (HEIGHT, 200.0, "300 m"), (dem, 200.0, "dem.tif")):
        with open_scene(path, dem=heights) as scene:
            middle = on_ground(scene, 130, 75, moved=LEAN * above)
            np.testing.assert_allclose(bright_middle(scene), middle, atol=0.35)
            np.testing.assert_allclose(scene.to_pixels(Prompt(points=((75, 130),))).points[0], middle, atol=0.2)
            assert said in scene.remarks[0]
            assert (dem in scene.files) == (heights == dem)


def test_a_part_by_pixels_of_the_file(make_raster) -> None:
    path = make_raster(scene_values(), transform=None, **gcps())
    with open_scene(path, bbox=(50, 110, 100, 150), bbox_crs="pixel") as part:
        np.testing.assert_allclose(bright_middle(part), on_ground(part, 130, 75), atol=0.35)
        np.testing.assert_allclose(
            part.to_pixels(Prompt(points=((75, 130),))).points[0], on_ground(part, 130, 75), atol=0.2
        )
        assert part.width < 80


def test_unwarped_on_wish(make_raster) -> None:
    values = scene_values()
    for profile in ({"crs": None, "rpcs": rpcs()}, gcps()):
        path = make_raster(values, transform=None, **profile)
        with open_scene(path, warp=False) as scene:
            assert (scene.width, scene.height, scene.crs) == (SIZE, SIZE, None)
            np.testing.assert_array_equal(scene.read(0, 0, SIZE, SIZE)[0], values)
            assert "gdalwarp -" in scene.remarks[0]


@pytest.mark.parametrize(
    ("profile", "dem", "words"),
    [
        (lambda: gcps(count=2), None, "2 control points"),
        (lambda: gcps() | {"crs": rasterio.CRS()}, None, "no CRS"),
        (lambda: {"rpcs": rpcs(lon=float("nan")), "crs": None}, None, "cannot be placed"),
        (lambda: {"rpcs": rpcs(), "crs": None}, "missing.tif", "does not exist"),
        (lambda: {"rpcs": rpcs(), "crs": None}, float("inf"), "finite"),
        (lambda: gcps() | {"gcps": gcps()["gcps"][:1] * 4}, None, "gdalwarp -tps"),
    ],
    ids=["two points", "no CRS", "NaN", "no DEM", "infinite height", "one point four times"],
)  # fmt: skip
def test_what_cannot_be_placed(make_raster, profile, dem, words) -> None:
    with pytest.raises(SceneError, match=words) as error:
        open_scene(make_raster(scene_values(), transform=None, **profile()), dem=dem)
    assert "\n" not in str(error.value)


def test_a_dem_that_is_not_needed_is_said(make_raster) -> None:
    for profile in ({}, {"transform": None, **gcps()}):
        with open_scene(make_raster(scene_values(), **profile), dem=5.0) as scene:
            assert any("The DEM was not used" in remark for remark in scene.remarks)


def test_opened_again_on_the_same_grid(make_raster) -> None:
    path = make_raster(scene_values(), transform=None, crs=None, rpcs=rpcs())
    with open_scene(path, dem=HEIGHT) as scene, scene.reopened() as again:
        assert (again.transform, again.crs, again.remarks) == (scene.transform, scene.crs, scene.remarks)
        assert again.version() == scene.version()
