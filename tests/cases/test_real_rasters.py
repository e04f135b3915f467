"""Rasters that failed in public use of such tools, each with the answer that is right; see ``files/NAME/README.md``."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio

from terraprompt.raster import open_scene
from terraprompt.raster.pixel_area import ground_area

FILES = Path(__file__).parent / "files"
Run = Callable[..., Any]


def mask(path: Path) -> Any:
    with rasterio.open(path) as file:
        return file.read(1)


def test_names_of_bands_tell_their_colours(run: Run) -> None:
    facts = run("info", FILES / "band-names-bgr/bgrn.tif", "--json").json
    assert facts["bands_used"] == [3, 2, 1]
    assert any("named as red, green and blue" in remark for remark in facts["remarks"])


def test_codes_of_sentinel_2_tell_their_colours(run: Run) -> None:
    assert run("info", FILES / "raster-and-text/s2_names_B2_B3_B4_B8.tif", "--json").json["bands_used"] == [3, 2, 1]


@pytest.mark.parametrize("bands", [[], ["-b", "1,2,3"]])
def test_infrared_marked_as_alpha_hides_nothing(run: Run, tmp_path: Path, bands: list[str]) -> None:
    done = run(
        "segment", FILES / "naip-nir-as-alpha/naip.tif", "the buildings", *bands, "-o", tmp_path / "m.tif", "--json"
    )
    assert any(remark.startswith("Band 4 is marked as alpha but holds") for remark in done.json["remarks"])
    assert (mask(tmp_path / "m.tif") != 255).all()


def test_an_undeclared_white_collar(run: Run, tmp_path: Path) -> None:
    scene = FILES / "white-collar-undeclared/white.tif"
    done = run("segment", scene, "the buildings", "-o", tmp_path / "m.tif", "--json")
    assert any("--nodata 255" in remark for remark in done.json["remarks"])
    outputs = ("-o", tmp_path / "n.tif", "--vector", tmp_path / "n.gpkg")
    assert run("segment", scene, "the buildings", "--nodata", "255", *outputs, "--json").code in (0, 3)
    found = mask(tmp_path / "n.tif")
    y, x = np.mgrid[: found.shape[0], : found.shape[1]]
    collar = (x + y < 110) | (x - y > 110)
    with rasterio.open(scene) as file:
        collar &= (file.read() == 255).all(axis=0)
    assert collar.sum() > 8000
    assert (found[collar] == 255).all()
    assert (found[~collar] != 255).mean() > 0.99


def test_a_site_grid(run: Run, tmp_path: Path) -> None:
    scene = FILES / "local-cs-crash/site.tif"
    facts = run("info", scene, "--json")
    assert (facts.code, facts.json["gsd_m"]) == (0, 0.15)
    assert "Site grid" in facts.json["crs"]
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg")
    done = run("segment", scene, "--box", "5,5,60,60", *outputs, "--json")
    assert done.code in (0, 3)
    with rasterio.open(scene) as source, rasterio.open(tmp_path / "m.tif") as made:
        assert (made.transform, made.crs) == (source.transform, source.crs)
        pixels = int((made.read(1) == 1).sum())
    assert done.json["area_m2"] == (pytest.approx(pixels * 0.0225, rel=1e-3) if pixels else None)


def test_a_site_grid_has_no_geojson_and_is_not_looked_at(run: Run, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(
        "terraprompt.engines.registry.load_engine", lambda *_, **__: pytest.fail("an engine was loaded")
    )
    done = run("segment", FILES / "local-cs-crash/site.tif", "--box", "5,5,60,60", "--vector", tmp_path / "m.geojson")
    assert done.code == 1
    assert "no place on the Earth" in done.said
    assert ".gpkg" in done.said
    assert "Traceback" not in done.err
    assert list(tmp_path.iterdir()) == []


def test_longitudes_of_0_to_360(run: Run, tmp_path: Path) -> None:
    scene, masks = FILES / "longitude-0-360/lon285.tif", []
    for lon in ("-74.9999", "285.0001"):
        outputs = ("-o", tmp_path / f"{lon}.tif", "--stac", tmp_path / f"{lon}.json")
        run("segment", scene, "--point", f"{lon},-17.0001", "--prompt-crs", "EPSG:4326", *outputs, "--json")
        masks.append(mask(tmp_path / f"{lon}.tif"))
    np.testing.assert_array_equal(*masks)
    assert (masks[0] == 1).any()
    box = json.loads((tmp_path / "285.0001.json").read_text())["bbox"]
    assert -75.0 <= box[0] < box[2] <= -74.9997962


def test_a_scene_placed_by_rpcs_alone(run: Run, tmp_path: Path) -> None:
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "m.gpkg")
    done = run("segment", FILES / "rpc-only/rpc.tif", "--box", "20,20,170,170", *outputs, "--json")
    assert any("placed by RPCs only" in remark and "1600 m" in remark for remark in done.json["remarks"])
    with rasterio.open(tmp_path / "m.tif") as made:
        assert made.crs.to_epsg() == 32737
        west, south, east, north = rasterio.warp.transform_bounds(made.crs, "EPSG:4326", *made.bounds)
    assert (west, north) == (pytest.approx(36.89, abs=2e-4), pytest.approx(-1.29, abs=2e-4))
    assert (east, south) == (pytest.approx(36.91, abs=2e-4), pytest.approx(-1.31, abs=2e-4))
    assert "32737" in pyogrio.read_info(tmp_path / "m.gpkg")["crs"]


def test_a_scene_beyond_what_the_model_knows(run: Run, tmp_path: Path) -> None:
    scene = FILES / "raster-and-text/s2_10m_buildings.tif"
    done = run("segment", scene, "the buildings", "-o", tmp_path / "m.tif", "--json")
    assert any("The scene has 10 m a pixel" in remark for remark in done.json["remarks"])


@pytest.mark.parametrize(("name", "top"), [("era5_like_top_90", 90.0), ("era5_grid_top_90.125", 90.125)])
def test_areas_beside_the_pole(name: str, top: float) -> None:
    with open_scene(FILES / f"raster-and-text/{name}.tif") as scene:
        assert scene.transform.f == top
        step = scene.transform.a
        ground = ground_area(scene.crs, scene.transform, scene.width, scene.height)
        assert ground is not None
        a, e2 = 6378137.0, 0.0066943799901413165
        sine = np.sin(np.radians(np.clip(top + scene.transform.e * np.arange(scene.height + 1), -90, 90)))
        e = np.sqrt(e2)
        zone = np.pi * a**2 * (1 - e2) * (sine / (1 - e2 * sine**2) + np.arctanh(e * sine) / e)
        true = -np.diff(zone) * step / 360
        np.testing.assert_allclose(
            ground.pixel_area(np.full(scene.height, 3.0), np.arange(scene.height) + 0.5), true, rtol=1e-6
        )


def test_a_vrt_of_many_gigapixels(run: Run, tmp_path: Path) -> None:
    done = run("segment", FILES / "raster-and-text/huge.vrt", "the buildings", "-o", tmp_path / "m.tif")
    assert done.code == 1
    assert "The scene is too large" in done.said
    assert "Traceback" not in done.err
