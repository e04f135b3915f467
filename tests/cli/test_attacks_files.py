"""Attacks with names of outputs and with values of options: refused in one line before any work, nothing changed."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rasterio.transform import from_origin

from terraprompt.errors import OutputError
from terraprompt.io.files import check_writable, replacing

TEXT = "the buildings"
OUT = ("-o", "new.tif")


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write_raster: Callable[..., Path]) -> Path:
    """The current folder: a scene, files that are there, folders, links, a pipe."""
    monkeypatch.chdir(tmp_path)
    grid = {"crs": "EPSG:32631", "transform": from_origin(500_000, 5_500_000, 0.5, 0.5)}
    write_raster(tmp_path / "scene.tif", np.random.default_rng(0).integers(0, 255, (3, 64, 64), np.uint8), **grid)
    for name in ("old.tif", "old.gpkg", "old.geojson", "old.png", "old.json", "plain.txt"):
        (tmp_path / name).write_bytes(b"precious")
    for name in ("folder.tif", "folder.gpkg"):
        (tmp_path / name).mkdir()
    for name, target in (
        ("round.tif", "about.tif"), ("about.tif", "round.tif"), ("self.gpkg", "self.gpkg"), ("lost.tif", "no/x.tif"),
        ("same.tif", "scene.tif"), ("device.tif", "/dev/null"), ("to_old.tif", "old.tif"),
    ):  # fmt: skip
        (tmp_path / name).symlink_to(target)
    os.link(tmp_path / "scene.tif", tmp_path / "hard.tif")
    os.mkfifo(tmp_path / "pipe.tif")
    return tmp_path


def everything(folder: Path) -> dict[str, tuple[int, bytes | str]]:
    """Kind and content of all that is in a folder."""
    found: dict[str, tuple[int, bytes | str]] = {}
    for path in folder.rglob("*"):
        kind = stat.S_IFMT(path.lstat().st_mode)
        content: bytes | str = str(path.readlink()) if path.is_symlink() else b""
        if kind == stat.S_IFREG:
            content = path.read_bytes()
        found[str(path)] = kind, content
    return found


def refused(done: Any, code: int, words: str) -> None:
    assert (done.code, done.out) == (code, ""), done
    assert "Traceback" not in done.err
    said = done.said
    if code == 1:
        assert done.err.count("\n") == 1, done.err
        assert done.err.startswith("Error: ")
    for part in words.split("|"):
        assert part in said, said


FORBIDDEN = [
    # Files that are there, and what is no file
    ([TEXT, "-o", "old.tif"], 1, "already there. Received: |/old.tif. Allow it with --overwrite, or choose another"),
    ([TEXT, "--vector", "old.gpkg"], 1, "already there.|old.gpkg"),
    ([TEXT, "--vector", "old.geojson"], 1, "already there.|old.geojson"),
    ([TEXT, "--picture", "old.png"], 1, "already there.|old.png"),
    ([TEXT, "--stac", "old.json", *OUT], 1, "already there.|old.json"),
    ([TEXT, "--probability", "to_old.tif"], 1, "already there.|/old.tif"),
    ([TEXT, "-o", "folder.tif", "--overwrite"], 1, "The output is a folder. Received: |/folder.tif. Give the name of"),
    ([TEXT, "--vector", "folder.gpkg", "--overwrite"], 1, "The output is a folder.|/folder.gpkg"),
    ([TEXT, "-o", "pipe.tif", "--overwrite"], 1, "no regular file. Received: |/pipe.tif. Give the name of a file."),
    ([TEXT, "-o", "device.tif", "--overwrite"], 1, "no regular file. Received: /dev/null."),
    ([TEXT, "-o", "round.tif"], 1, "a link that leads round in a circle. Received: |.tif. Remove it."),
    ([TEXT, "--vector", "self.gpkg", "--overwrite"], 1, "a link that leads round in a circle.|self.gpkg"),
    ([TEXT, "-o", "lost.tif"], 1, "The folder of the output does not exist. Received: |/no. Create it first."),
    # Inputs
    ([TEXT, "-o", "scene.tif", "--overwrite"], 1, "The output is also an input. Received: scene.tif."),
    ([TEXT, "-o", "same.tif", "--overwrite"], 1, "The output is also an input. Received: same.tif."),
    ([TEXT, "-o", "hard.tif", "--overwrite"], 1, "The output is also an input. Received: hard.tif."),
    ([TEXT, "-o", "./folder.tif/../scene.tif", "--overwrite"], 1, "The output is also an input."),
    ([TEXT, "--probability", "same.tif", "--overwrite"], 1, "The output is also an input. Received: same.tif."),
    # Names
    ([TEXT, "-o", f"{'n' * 300}.tif"], 1, "The name of the output is too long. Received: |Choose a shorter one."),
    ([TEXT, "--vector", f"{'é' * 130}.gpkg"], 1, "The name of the output is too long.|Choose a shorter one."),
    ([TEXT, "-o", "bad\udcff.tif"], 1, r"not UTF-8 text. Received: 'bad\udcff.tif'. Choose another name."),
    ([TEXT, "--vector", "bad\udcff.gpkg"], 1, "not UTF-8 text."),
    ([TEXT, "-o", "no/such/m.tif"], 1, "The folder of the output does not exist.|/no/such. Create it first."),
    ([TEXT, "-o", "plain.txt/m.tif"], 1, "The folder of the output does not exist.|plain.txt"),
    ([TEXT, "-o", "-"], 1, "told by its extension. Received: -. Use .tif"),
    ([TEXT, "--vector", "-"], 1, "told by its extension. Received: -. Use .gpkg"),
    ([TEXT, "-o", ""], 1, "told by its extension.|Use .tif"),
    ([TEXT, "-o", "."], 1, "told by its extension. Received: .. Use .tif"),
    ([TEXT, "-o", ".tif"], 1, "told by its extension. Received: .tif."),
    ([TEXT, "-o", "m.tif "], 1, "told by its extension. Received: m.tif ."),
    ([TEXT, "-o", "scene.tif.aux.xml"], 1, "told by its extension."),
    ([TEXT, "-o", "/dev/full"], 1, "told by its extension. Received: /dev/full."),
    ([TEXT, "-o", "/proc/m.tif"], 1, "Writing failed: |Received: /proc/m.tif.|untouched"),
    ([TEXT, "-o", "s3://bucket/m.tif"], 1, "The folder of the output does not exist."),
    ([TEXT, "-o", "/vsimem/m.tif"], 1, "The folder of the output does not exist. Received: /vsimem."),
    ([TEXT, "-o", "a\0b.tif"], 2, "--output|null byte"),
    # Two to one
    ([TEXT, "-o", "a.tif", "--probability", "./a.tif"], 2, "The mask and the probability would go to one file."),
    ([TEXT, "-o", "a.png", "--picture", "folder.tif/../a.png"], 2, "The mask and the picture would go to one file."),
    ([TEXT, "--vector", "a.json", "--stac", "a.json"], 2, "The vector and the stac would go to one file."),
]
NUMBERS = [
    *(
        ([TEXT, *OUT, option, value], 2, option)
        for option in ("--threshold", "--min-area", "--fill-holes", "--simplify")
        for value in ("nan", "inf", "-inf", "-1", "1,5", "1e400", "", "abc")
    ),
    ([TEXT, *OUT, "--threshold", "0"], 2, "--threshold"),
    ([TEXT, *OUT, "--threshold", "1e308"], 2, "--threshold"),
    *(
        ([TEXT, *OUT, option, value], 2, option)
        for option in ("--min-pixels", "--batch")
        for value in ("nan", "-1", "0", "1,5", "")
    ),
    *(([TEXT, *OUT, "--nodata", value], 2, "--nodata takes a number") for value in ("", "x", "1,5")),
    *(([TEXT, *OUT, "--co", f"BLOCKSIZE={value}"], 1, f"BLOCKSIZE is a multiple of 16|Received: {value}")
      for value in ("-1", "abc", "0", "17", "1e3", "99999999999")),
    ([TEXT, *OUT, "--co", "=1"], 2, "--co takes KEY=VALUE. Received: =1"),
    *(([TEXT, *OUT, "-b", value], 1, "Give indexes 1 to 3.") for value in ("0", "-1", "nan", "1.5", "9" * 20)),
    *(([TEXT, *OUT, "-b", value], 1, "One band (grey) or three bands") for value in ("1,2", "1,2,3,1")),
]  # fmt: skip
PLACES = [
    *(
        (
            [TEXT, *OUT, "--bbox", value],
            1,
            "The bbox does not overlap the scene. Received: |The scene spans x 500000 to",
        )
        for value in ("64,64,0,0", "1e308,1e308,-1e308,-1e308", "0,0,0,0", "5e5,5.5e6,5e5,5.5e6", "3,49,4,50")
    ),
    *(
        ([TEXT, *OUT, "--bbox", value], 1, "four finite numbers x0,y0,x1,y1. Received: |The scene spans")
        for value in ("nan,0,1,1", "inf,inf,inf,inf", "0,0,1,1e400")
    ),
    *(([TEXT, *OUT, "--bbox", value], 2, "--bbox takes 4 numbers") for value in ("", "1,2,3", "0;0;1;1", "1,2,3,4,5")),
    *(
        ([TEXT, *OUT, "--bbox", "0,0,9,9", "--bbox-crs", value], 1, "CRS of the bbox is unknown|Name it like EPSG:4326")
        for value in ("EPSG:0", "", "pixels", "+proj=bad", "\x01")
    ),
    ([TEXT, *OUT, "--bbox", "0,0,9,9", "--bbox-crs", "EPSG:4326"], 1, "does not overlap|spans x 3 to"),
    *((["--point", value, *OUT], 1, "A point must be finite.|Remove NaN") for value in ("nan,1", "1,inf", "1e400,1")),
    *((["--point", value, *OUT], 1, "outside the scene.|spans x 0 to 64") for value in ("65,1", "-1,-1", "1e308,1")),
    *((["--point", value, *OUT], 2, "--point takes 2 or 3") for value in ("", ",", "1 2", "1,2,1,1", "1.5.2,1")),
    (["--point", "1,2,0.5", *OUT], 2, "The label of --point is 1 (on the target) or 0."),
    (["--point", "400,50", "--prompt-crs", "EPSG:4326", *OUT], 1, "outside the scene.|(EPSG:4326)"),
    *((["--box", value, *OUT], 1, "A box must be finite.") for value in ("nan,nan,nan,nan", "0,0,inf,1")),
    *((["--box", value, *OUT], 1, "A box has no area.|opposite corners") for value in ("0,0,0,0", "1,1,1,9")),
    (["--box", "70,70,80,80", *OUT], 1, "A box lies outside the scene."),
]
WORDS = [
    *(([text, *OUT], 1, "The instruction is empty.|Say what to find") for text in ("", "   ", "\n\n", "\u2003")),
    *(
        ([text, *OUT], 1, f"at most 10,000 characters|Received: {count} characters|Say it in a sentence.")
        for text, count in (("a" * 100_000, "100,000"), ("lake " * 3000, "14,999"))
    ),
    *(
        ([text, *OUT], 1, "all of which can be printed.|beginning with|Say it in a sentence.")
        for text in (
            "the \x00 houses",
            "the\x1b[31m houses",
            "\u202ehouses",
            "houses\udcff",
            "\x9b2J",
            "a\x7fb",
            "\x07",
        )
    ),
    (["-houses", *OUT], 2, "No such option"),
    (["--houses", *OUT], 2, "No such option: --houses"),
    (["--", "-houses", "-o", "new.tif"], 2, "unexpected extra argument"),
    ([TEXT, "roads", *OUT], 2, "unexpected extra argument"),
    ([], 2, "Say what to find"),
    # Options that do not go together
    ([TEXT, *OUT, "--layer", "x"], 2, "--layer names the layer of --vector. Give that too."),
    ([TEXT, "--vector", "v.gpkg", "--layer", ""], 1, "A layer cannot have this name. Received: ''."),
    ([TEXT, "--vector", "v.gpkg", "--layer", "a\tb"], 1, r"A layer cannot have this name. Received: 'a\tb'."),
    ([TEXT, *OUT, "--bbox-crs", "EPSG:4326"], 2, "Give --bbox too."),
    ([TEXT, *OUT, "--prompt-layer", "x"], 2, "--prompt-layer names a layer of --prompt-file. Give that too."),
    ([TEXT, *OUT, "--task", "interactive"], 1, "An interactive task needs a point or a box."),
    (["--point", "1,1", *OUT, "--task", "reasoning"], 1, "A reasoning task needs a text."),
    (["--point", "1,1", *OUT, "--prompt-file", "scene.tif"], 2, "not both"),
    ([TEXT, *OUT, "--prompt-file", "."], 1, "The prompt file is missing."),
    ([TEXT, "--probability", "p.png"], 1, "A PNG cannot hold probabilities.|Use .tif."),
    ([TEXT, *OUT, "--device", ""], 1, "The device cannot be used|Leave out --device"),
]
ATTACKS = [*FORBIDDEN, *NUMBERS, *PLACES, *WORDS]


@pytest.mark.parametrize(
    ("arguments", "code", "words"), ATTACKS, ids=[ascii(" ".join(words))[:60] for words, _, _ in ATTACKS]
)
def test_an_attack_is_refused_before_any_work(
    run: Callable[..., Any], place: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, words: str
) -> None:
    monkeypatch.setattr("terraprompt.engines.registry.load_engine", lambda *_, **__: pytest.fail("a model was loaded"))
    before = everything(place)
    refused(run("segment", "scene.tif", *arguments), code, words)
    assert everything(place) == before


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        (["-o", "a.tif", "-o", "old.tif"], "-o"),
        (["--vector=a.gpkg", "--vector", "old.gpkg"], "--vector"),
        (["-o", "old.tif", "--threshold", "0.1", "--threshold=0.9"], "--threshold"),
    ],
)
def test_an_option_that_is_given_twice_is_said(
    run: Callable[..., Any], place: Path, arguments: list[str], name: str
) -> None:
    done = run("segment", "scene.tif", TEXT, *arguments)
    assert done.code == 1
    assert f"Note: {name} is given 2 times; the last one counts. Error: The output is already there." in done.said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["-e", ""], "Unknown engine."),
        (["--weights", "."], "weights|Received: ."),
        (["--weights", "scene.tif"], "weights"),
        (["--set", "nonsense=1"], "nonsense"),
    ],
)
def test_an_engine_that_cannot_be_loaded_changes_nothing(
    run: Callable[..., Any], place: Path, arguments: list[str], words: str
) -> None:
    before = everything(place)
    refused(run("segment", "scene.tif", TEXT, *OUT, *arguments), 1, words)
    assert everything(place) == before


@pytest.mark.parametrize(
    "name",
    ["湖" * 80 + ".tif", "é" * 120 + ".tif", "n" * 251 + ".tif", "a b'c\"d.tif", "-o.tif", "%s{0}.tif"],
)
def test_names_that_the_disk_takes_are_written(tmp_path: Path, name: str) -> None:
    with replacing(tmp_path / name) as temporary:
        temporary.write_bytes(b"whole")
    assert [(path.name, path.read_bytes()) for path in tmp_path.iterdir()] == [(name, b"whole")]


@pytest.mark.parametrize("name", ["round.tif", "self.gpkg", "pipe.tif", "device.tif", "folder.tif", "bad\udcff.tif"])
def test_python_refuses_the_same(place: Path, name: str) -> None:
    before = everything(place)
    with pytest.raises(OutputError):
        check_writable(place / name, overwrite=True)
    assert everything(place) == before
