"""``terraprompt demo``, as ``make demo`` calls it."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
from PIL import Image

from terraprompt_synthetic import demo_scene

NAMES = ("text", "reasoning", "solar", "point", "box")


def test_the_demo_gives_a_cog_polygons_and_a_picture_for_every_kind_of_prompt(
    run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    renderer = sys.modules[demo_scene.__module__]
    whole = renderer._render  # type: ignore[attr-defined]
    # a fifth of the demo's scene, with every kind of target in it
    monkeypatch.setattr(renderer, "_render", lambda seed, width, height, *style: whole(6, 640, 512, *style))
    folder = tmp_path / "new" / "demo"
    done = run("demo", folder)
    assert done.code == 0
    expected = {"scene.tif", *(name + end for name in NAMES for end in (".tif", ".gpkg", ".png"))}
    assert {p.name for p in folder.iterdir()} == expected
    with rasterio.open(folder / "scene.tif") as scene:
        grid = scene.crs, scene.transform, scene.shape
    tasks = set()
    for name in NAMES:
        with rasterio.open(folder / f"{name}.tif") as mask:
            assert (mask.crs, mask.transform, mask.shape) == grid
            assert mask.tags(ns="IMAGE_STRUCTURE")["LAYOUT"] == "COG"
            assert mask.read(1).any()
            tasks.add(mask.tags()["TERRAPROMPT_TASK"])
            instruction = mask.tags()["TERRAPROMPT_INSTRUCTION"]
            count = int(mask.tags()["TERRAPROMPT_OBJECTS"])
        info = pyogrio.read_info(folder / f"{name}.gpkg")
        assert (info["crs"], info["features"]) == (grid[0].to_string(), count)
        with Image.open(folder / f"{name}.png") as picture:
            assert np.asarray(picture).shape[1] == 2 * grid[2][1], "a small scene is enlarged"
        shown = "a (point|box) [a-z ]+" if name in ("point", "box") else f'"{instruction}"'
        assert re.search(rf"\n{shown} +{count} objects? +[01]\.\d\d   {name}\.tif \.gpkg \.png\n", done.out)
    assert tasks == {"referring", "reasoning", "interactive"}
    assert f"Look at {folder / 'text.png'}" in done.out

    # A second demo in the same folder is refused before any work, and changes nothing.
    before = {p: p.read_bytes() for p in folder.iterdir()}
    (folder / "scene.tif").unlink()
    again = run("demo", folder)
    assert (again.code, again.out) == (1, "")
    assert f"The output is already there. Received: {folder / 'text.tif'}. Allow it with --overwrite" in again.said
    del before[folder / "scene.tif"]
    assert {p: p.read_bytes() for p in folder.iterdir()} == before


def test_a_folder_that_cannot_be(run: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("a file")
    done = run("demo", tmp_path / "demo", "--overwrite")
    assert (done.code, done.out) == (1, "")
    assert f"The folder cannot be created (File exists). Received: {tmp_path / 'demo'}." in done.said
    assert (tmp_path / "demo").read_text() == "a file"


@pytest.mark.parametrize("name", ["scene.tif", "box.gpkg"])
def test_one_old_file_is_enough_to_stop(run: Callable[..., Any], tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"precious")
    assert run("demo", tmp_path).code == 1
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [(name, b"precious")]


def test_without_the_renderer(run: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "terraprompt_synthetic", None)
    done = run("demo", tmp_path / "demo")
    assert (done.code, done.out) == (1, "")
    assert 'not installed. Install it: pip install "terraprompt[synthetic]", or' in done.said
    assert not (tmp_path / "demo").exists()
