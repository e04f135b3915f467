"""Ground area against geodesic squares."""

from __future__ import annotations

import numpy as np
import pytest
from pyproj import Geod, Transformer
from rasterio import Affine

from terraprompt.raster.pixel_area import ground_area


def geodesic(crs: str, transform: Affine, x: float, y: float, side: float = 10) -> float:
    """m2 of one pixel, from a square of ``side`` pixels round it whose edges are cut into short pieces."""
    t = np.linspace(0, 1, 21)[:-1]
    along = np.concatenate([t, np.ones(20), 1 - t, np.zeros(20)]) - 0.5
    u, v = x + side * np.roll(along, 20), y + side * along
    east, north = (
        transform.a * u + transform.b * v + transform.c,
        transform.d * u + transform.e * v + transform.f,
    )
    lon, lat = Transformer.from_crs(crs, "EPSG:4326", always_xy=True).transform(east, north)
    return abs(Geod(ellps="WGS84").polygon_area_perimeter(lon, lat)[0]) / side**2


@pytest.mark.parametrize(
    ("crs", "transform"),
    [
        ("EPSG:4326", Affine(1e-4, 0, 10, 0, -1e-4, 60)),
        ("EPSG:4326", Affine(2e-3, 1e-3, 10, 1e-3, -2e-3, -30)),
        ("EPSG:3857", Affine(10, 0, 1_113_194.9, 0, -10, 8_399_737.9)),
        ("EPSG:3857", Affine(500, 0, -3e6, 0, -500, 3e6)),
        ("EPSG:3413", Affine(1000, 0, -1.5e6, 0, -1000, 1.5e6)),
    ],
)
def test_ellipsoidal_where_the_projection_lies(crs: str, transform: Affine) -> None:
    ground = ground_area(crs, transform, 2000, 1000)
    assert ground is not None
    for x, y in [(20, 20), (1000, 500), (1980, 700)]:
        assert float(ground.pixel_area(x, y)) == pytest.approx(geodesic(crs, transform, x, y), rel=2e-3)


def test_web_mercator_at_sixty_degrees_is_a_quarter() -> None:
    ground = ground_area("EPSG:3857", Affine(1, 0, 0, 0, -1, 8_399_737.9), 100, 100)
    assert ground is not None
    assert float(ground.pixel_area(50, 50)) == pytest.approx(0.25, rel=0.01)
    assert ground.gsd == pytest.approx(0.5, rel=0.005)


@pytest.mark.parametrize(
    ("crs", "transform", "area"),
    [
        ("EPSG:32631", Affine(0.5, 0, 5e5, 0, -0.5, 5.5e6), 0.25),
        ("EPSG:32631", Affine.translation(5e5, 5.5e6) @ Affine.rotation(30) @ Affine.scale(2, -3), 6.0),
        ("EPSG:3035", Affine(10, 0, 4e6, 0, -10, 3e6), 100.0),
        ("EPSG:2263", Affine(1, 0, 9.8e5, 0, -1, 2e5), (1200 / 3937) ** 2),  # US survey feet
    ],
)
def test_planar_where_the_projection_keeps_areas(crs: str, transform: Affine, area: float) -> None:
    ground = ground_area(crs, transform, 100, 100)
    assert ground is not None
    assert float(ground.pixel_area(1, 99)) == pytest.approx(area, rel=1e-12)


def test_no_crs_no_area() -> None:
    assert ground_area(None, Affine.identity(), 5, 5) is None


def test_a_local_grid_is_taken_at_its_word() -> None:
    local = 'LOCAL_CS["site",UNIT["metre",1]]'
    ground = ground_area(local, Affine(2, 0, 0, 0, -2, 0), 5, 5)
    assert ground is not None
    assert float(ground.pixel_area(2, 2)) == pytest.approx(4)
