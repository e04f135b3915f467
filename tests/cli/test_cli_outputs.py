"""``terraprompt segment``: styles, Shapefiles, default names, several instructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyogrio
import pytest
import rasterio

BOX = ("--box", "20,20,60,60")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_styles_and_a_shapefile(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "v.shp", "--style")
    done = run("segment", town.path, *BOX, *outputs, "--json")
    assert done.code == 0
    parts = {f"v{part}" for part in (".shp", ".shx", ".dbf", ".prj", ".cpg", ".qml")}
    assert names(tmp_path) == {"m.tif", "m.qml", *parts}
    assert {Path(path).name for path in done.json["files"].values()} == {"m.tif", "v.shp", "m.qml", "v.qml"}
    again = run("segment", town.path, *BOX, *outputs)
    assert again.code == 1
    assert "already there" in again.said


@pytest.mark.parametrize(
    ("outputs", "code", "said"),
    [
        (("-o", "m.tif", "--vector", "m.fgb"), 2, "The mask style and the vector style would go to one file"),
        (("-o", "m.tif", "--vector", "m.shp"), 2, "The mask style and the vector style would go to one file"),
        (("--picture", "m.png"), 2, "--style is of -o and --vector"),
        (("-o", "there.tif"), 1, "already there"),
        (("--vector", "there.fgb"), 1, "already there"),
    ],
)
def test_styles_that_cannot_be_written_are_told_before_any_work(
    run: Callable[..., Any], town: Any, tmp_path: Path, outputs: tuple[str, ...], code: int, said: str
) -> None:
    (tmp_path / "there.qml").write_text("mine")
    paths = [tmp_path / part if "." in part else part for part in outputs]
    done = run("segment", town.path, *BOX, *paths, "--style")
    assert (done.code, said in done.said) == (code, True), done.said
    assert names(tmp_path) == {"there.qml"}


def test_default_names_never_replace(
    run: Callable[..., Any], town: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "town_boxes.gpkg").write_text("mine")
    done = run("segment", town.path, *BOX)
    assert done.code == 0
    assert names(tmp_path) == {"town_boxes.gpkg", "town_boxes_2.tif", "town_boxes_2.gpkg"}
    assert (tmp_path / "town_boxes.gpkg").read_text() == "mine"


def test_several_instructions_in_one_run(run: Callable[..., Any], town: Any, tmp_path: Path) -> None:
    outputs = ("-o", tmp_path / "m.tif", "--vector", tmp_path / "v.gpkg", "--picture", tmp_path / "p.png")
    done = run("segment", town.path, "the buildings", "-t", "the roads", *outputs, "--json")
    assert done.code == 0, done.said
    first, second = done.json["results"]
    assert names(tmp_path) == {"m.tif", "v.gpkg", "p_buildings.png", "p_roads.png"}
    assert [each["provenance"]["instruction"] for each in (first, second)] == ["the buildings", "the roads"]
    assert (first["band"], second["band"]) == (1, 2)
    assert (first["layer"], second["layer"]) == ("the_buildings", "the_roads")
    assert [Path(each["files"]["picture"]).name for each in (first, second)] == ["p_buildings.png", "p_roads.png"]
    with rasterio.open(tmp_path / "m.tif") as file:
        assert file.descriptions == ("the buildings", "the roads")
        assert file.tags(2)["TERRAPROMPT_INSTRUCTION"] == "the roads"
        assert file.tags()["TERRAPROMPT_ENGINE"] == "nano"
        bands = file.read()
        area = abs(file.transform.determinant)
    for each, band in zip((first, second), bands, strict=True):
        *_, columns = pyogrio.raw.read(tmp_path / "v.gpkg", layer=each["layer"])
        assert len(columns[0]) == each["objects"] > 0
        assert (band == 1).sum() * area == pytest.approx(each["area_m2"])
    assert (bands[0] != bands[1]).any()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("-t", "the roads", *BOX), ""),
        (("the buildings", "-t", "the roads", *BOX), "Several instructions go without points and boxes"),
        (("the buildings", "-t", "the roads", "--point", "5,5"), "Several instructions go without points and boxes"),
        (("the buildings", "-t", "all the buildings"), "would have one name"),
        (("-t", "roads", "-t", "the Roads!"), "would have one name"),
        (("-t", "roads", "-t", "lakes", "--layer", "x", "--vector", "v.gpkg"), "--layer names one layer"),
        (("-t", "roads", "-t", ""), "instruction is empty"),
        (("-t", "roads", "-t", "lakes", "--vector", "there.fgb"), "already there"),
    ],
)
def test_several_instructions_that_do_not_go_together(
    run: Callable[..., Any],
    town: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: tuple[str, ...],
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there_lakes.fgb").write_text("mine")
    if not said:  # one text beside a box is what it always was
        assert run("segment", town.path, *arguments).code == 0
        return
    done = run("segment", town.path, *arguments)
    assert (done.code, said in done.said) in ((2, True), (1, True)), done.said
    assert names(tmp_path) == {"there_lakes.fgb"}
