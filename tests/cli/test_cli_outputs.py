"""``terraprompt segment``: styles, Shapefiles, default names, several instructions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

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
