"""Ground area and place near poles, over the antimeridian, with longitudes 0 to 360, and on grids of nowhere."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import CRS, Geod
from rasterio import Affine

from terraprompt.errors import PromptError
from terraprompt.prompt import Prompt
from terraprompt.raster import open_scene
from terraprompt.raster.pixel_area import ground_area, ground_size

GLOBE = 5.10065621724e14  # m2, WGS 84
SITE = 'LOCAL_CS["Site grid",UNIT["metre",1],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
FEET = 'LOCAL_CS["Site grid",UNIT["foot",0.3048],AXIS["Easting",EAST],AXIS["Northing",NORTH]]'
DEGREES = 'LOCAL_CS["Sky",UNIT["degree",0.0174532925199433],AXIS["X",EAST],AXIS["Y",NORTH]]'
ENGINEERING = 'ENGCRS["Mine",EDATUM["Mine"],CS[Cartesian,2],AXIS["x",east],AXIS["y",north],LENGTHUNIT["metre",1]]'
MOON = "+proj=longlat +a=1737400 +b=1737400 +no_defs"


def area(crs: str, transform: Affine, width: int, height: int, x: slice, y: slice) -> float:
    """m2 of a rectangle of pixels, summed as objects are."""
    ground = ground_area(crs, transform, width, height)
    assert ground is not None
    rows, columns = np.arange(height)[y], np.arange(width)[x]
    start = rows * width + columns[0]
    length = np.full(len(rows), len(columns))
    return float(ground.of_runs(np.zeros(len(rows), np.int32), 1, start, length)[0])


@pytest.mark.parametrize(
    ("west", "top", "rows"),
    [(-180, 90, 720), (-180, 90.125, 721), (0, 90, 720), (-180, 95, 760), (-180.125, 90.125, 721)],
)
def test_the_globe_in_longitude_and_latitude(west, top, rows):
    transform = Affine(0.25, 0, west, 0, -0.25, top)
    whole = slice(None)
    assert area("EPSG:4326", transform, 1440, rows, whole, whole) == pytest.approx(GLOBE, rel=1e-6)


@pytest.mark.parametrize(("south", "north"), [(80, 90), (0, 60), (-90, -89), (45, 45.25)])
@pytest.mark.parametrize("up", [-1, 1], ids=["north up", "south up"])
def test_a_zone_against_the_geodesic_polygon(south, north, up):
    transform = Affine(0.25, 0, 0, 0, 0.25 * up, 90 if up < 0 else -90)
    rows = sorted(round((90 - up * -lat) / 0.25) if up < 0 else round((lat + 90) / 0.25) for lat in (south, north))
    lon = np.linspace(0, 10, 400)
    ring = np.concatenate([lon, lon[::-1]]), np.concatenate([np.full(400, south), np.full(400, north)])
    true = abs(Geod(ellps="WGS84").polygon_area_perimeter(*ring)[0])
    assert area("EPSG:4326", transform, 1440, 720, slice(0, 40), slice(*rows)) == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize("crs", ["EPSG:3413", "EPSG:3995", "EPSG:32661", "EPSG:6931"])
def test_a_cap_round_the_pole(crs):
    """A square round the pole of a polar projection is as large as on the sphere of equal area."""
    from pyproj import Transformer

    half, n = 2.5e6, 200
    falseness = 2e6 if crs == "EPSG:32661" else 0
    transform = Affine(2 * half / n, 0, falseness - half, 0, -2 * half / n, falseness + half)
    edge = np.linspace(-half, half, 200) + falseness
    low, high = np.full(200, falseness - half), np.full(200, falseness + half)
    x, y = np.concatenate([edge, high, edge[::-1], low]), np.concatenate([low, edge, high, edge[::-1]])
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(x, y)
    true = abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0])
    true = min(true, GLOBE - true)
    assert area(crs, transform, n, n, slice(None), slice(None)) == pytest.approx(true, rel=1e-3)


def test_web_mercator_of_the_world():
    edge = 20037508.342789244
    transform = Affine(2 * edge / 1024, 0, -edge, 0, -2 * edge / 1024, edge)
    south, north = np.radians([-85.0511287798, 85.0511287798])
    e = 0.0818191908426215
    q = [(1 - e**2) * (np.sin(v) / (1 - (e * np.sin(v)) ** 2) + np.arctanh(e * np.sin(v)) / e) for v in (south, north)]
    true = np.pi * 6378137.0**2 * (q[1] - q[0])
    assert area("EPSG:3857", transform, 1024, 1024, slice(None), slice(None)) == pytest.approx(true, rel=1e-3)


@pytest.mark.parametrize(
    ("crs", "pixel"),
    [(SITE, 0.0225), (ENGINEERING, 0.0225), (FEET, 0.0225 * 0.3048**2), (DEGREES, None)],
    ids=["metre", "ENGCRS", "foot", "degree"],
)
def test_a_grid_of_nowhere(make_raster, crs, pixel):
    transform = Affine(0.15, 0, 1000, 0, -0.15, 2000)
    ground = ground_area(crs, transform, 64, 64)
    assert (None if ground is None else float(ground.pixel_area(3, 3))) == (pixel and pytest.approx(pixel))
    size = ground_size(crs, transform, 64, 64)
    assert size == (pixel and pytest.approx(pixel**0.5))
    with open_scene(make_raster(np.full((3, 64, 64), 7, np.uint8), crs=SITE, transform=transform)) as scene:
        assert scene.gsd_m == pytest.approx(0.15)
        with pytest.raises(PromptError, match="outside the scene"):
            scene.to_pixels(Prompt(points=((3.0, 4.0),), labels=(1,), crs="EPSG:4326"))


def test_another_body_has_its_own_size():
    ground = ground_area(CRS.from_user_input(MOON), Affine(1, 0, -180, 0, -1, 90), 360, 180)
    assert ground is not None
    assert float(ground.grid.sum() * 360) == pytest.approx(4 * np.pi * 1737400.0**2, rel=1e-9)


@pytest.mark.parametrize("turn", [-360, 0, 360])
def test_longitudes_count_modulo_a_turn(make_raster, turn):
    path = make_raster(np.full((40, 50), 7, np.uint8), crs="EPSG:4326", transform=Affine(0.1, 0, 283, 0, -0.1, -17))
    with open_scene(path) as scene:
        prompt = Prompt(
            points=((285.05 + turn, -18.05),), labels=(1,), boxes=((284.0 + turn, -19.0, 285 + turn, -18.0),),
            crs="EPSG:4326",
        )  # fmt: skip
        found = scene.to_pixels(prompt)
        np.testing.assert_allclose(found.points, [(20.5, 10.5)], atol=1e-6)
        np.testing.assert_allclose(found.boxes, [(10, 10, 20, 20)], atol=1e-6)
    with open_scene(path, bbox=(284 + turn, -19, 285 + turn, -18), bbox_crs="EPSG:4326") as part:
        assert (part.left, part.top, part.width, part.height) == (10, 10, 10, 10)


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(0.1, 0, 178, 0, -0.1, -17)),
        ("EPSG:4326", Affine(0.1, 0, -182, 0, -0.1, -17)),
        ("EPSG:32701", Affine(10_000, 0, 70_000, 0, -10_000, 8_120_000)),
        ("EPSG:3832", Affine(10_000, 0, 3_100_000, 0, -10_000, -1_900_000)),
    ],
)
def test_a_bbox_over_the_antimeridian(make_raster, crs, transform):
    path = make_raster(np.full((40, 50), 7, np.uint8), crs=crs, transform=transform)
    with open_scene(path, bbox=(179.9, -18.5, -179.9, -18.0), bbox_crs="EPSG:4326") as part:
        assert 1 <= part.width <= 4
        assert part.height < 10
