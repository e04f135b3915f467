"""Pictures for people and items for catalogues."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rasterio import Affine

from terraprompt.errors import ConfigError
from terraprompt.outputs import Result, save_stac, stac_item
from terraprompt.prompt import Prompt

Paint = Callable[..., Result]


def test_points_and_boxes_are_drawn(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    prompt = Prompt(points=((60.5, 50.5), (70.5, 5.5)), labels=(1, 0), boxes=((4.0, 40.0, 20.0, 56.0),))
    path = paint(squares).save_picture(tmp_path / "p.png", prompt=prompt)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    scale = picture.shape[1] // 80
    assert picture[int(50.5 * scale), int(60.5 * scale)].tolist() == [90, 220, 255]
    assert picture[int(5.5 * scale) - 4, int(70.5 * scale)].tolist() == [255, 90, 60]
    assert picture[48 * scale, 4 * scale + 1].tolist() == [90, 220, 255], "the left side of the box"


def test_the_overlay_shows_scene_and_mask(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    scene = np.full((60, 80, 3), 40, np.uint8)
    asked = []

    def read(height: int, width: int) -> np.ndarray:
        asked.append((height, width))
        return scene.repeat(8, 0).repeat(8, 1)

    path = paint(squares).save_picture(tmp_path / "p.png", scene_rgb=read)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert asked == [(480, 640)], "a small scene is enlarged by a whole factor"
    assert picture.shape[1] == 640
    assert picture.shape[0] > 480, "a strip of text below"
    assert picture[8 * 55, 8 * 5].tolist() == [40, 40, 40]
    red, green, _ = picture[8 * 35, 8 * 35]
    assert red > 80 > green, "the mask is tinted"
    assert picture[8 * 12, 8 * 12].tolist() == [40, 40, 40], "a hole is not"
    assert abs(picture[240:241, 600:640] - 40).max() > 5, "nodata is hatched"
    assert picture[480:].max() > 200, "text"
    assert Image.open(path).text["terraprompt:instruction"] == "the lakes, où ?"


def test_a_large_scene_is_shrunk_and_thin_things_still_show(paint: Paint, tmp_path: Path) -> None:
    mask = np.zeros((700, 900), np.uint8)
    mask[300:303] = 1
    result = paint(mask)
    path = result.save_picture(tmp_path / "p.png", max_side=90)
    picture = np.asarray(Image.open(path).convert("RGB")).astype(int)
    left = (picture.shape[1] - 90) // 2
    column = picture[:70, left + 45]
    assert abs(column - column[0]).max() > 20


@pytest.mark.parametrize("name", ["p.png", "p.jpg", "p.webp"])
def test_formats_statuses_and_long_instructions(paint: Paint, name: str, tmp_path: Path) -> None:
    notes = {"instruction": "find every " + "very " * 80 + "large roof"}
    result = paint(np.zeros((5, 400), np.uint8), provenance=notes, crs=None, transform=Affine.identity())
    with Image.open(result.save_picture(tmp_path / name)) as picture:
        assert picture.width >= 400


def test_a_backdrop_must_be_rgb(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="height, width, 3"):
        paint(squares).save_picture(tmp_path / "p.png", scene_rgb=np.zeros((60, 80), np.uint8))


def test_a_stac_item_says_where_and_how(paint: Paint, squares: np.ndarray, tmp_path: Path) -> None:
    result = paint(squares)
    path = save_stac(result, tmp_path / "m.json", {"mask": tmp_path / "m.tif", "vector": "/elsewhere/v.gpkg"})
    item = json.loads(path.read_text())
    assert (item["type"], item["stac_version"], item["id"]) == ("Feature", "1.0.0", "m")
    assert item["assets"]["mask"]["href"] == "m.tif"
    assert item["assets"]["vector"]["href"] == "/elsewhere/v.gpkg"
    assert "cloud-optimized" in item["assets"]["mask"]["type"]
    assert item["properties"]["datetime"] == "2025-01-02T03:04:05+00:00"
    assert item["properties"]["proj:code"] == "EPSG:32631"
    assert item["properties"]["proj:shape"] == [60, 80]
    assert item["properties"]["terraprompt:status"] == "found"
    west, south, east, north = item["bbox"]
    assert 2.99 < west < east < 3.01
    assert 49.6 < south < north < 49.7
    ring = item["geometry"]["coordinates"][0]
    assert ring[0] == ring[-1]
    area = sum(x0 * y1 - x1 * y0 for (x0, y0), (x1, y1) in pairwise(ring))
    assert area > 0, "counter-clockwise"


def test_a_stac_item_without_a_place(paint: Paint, squares: np.ndarray) -> None:
    item = stac_item(paint(squares, crs=None, transform=Affine.identity(), provenance={}), {"mask": "m.tif"})
    assert item["geometry"] is None
    assert "bbox" not in item
    assert item["properties"]["datetime"]
