"""Whatever is wrong: a clear error, the right exit code, and every file as it was."""

from __future__ import annotations

import errno
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyogrio
import pytest
import rasterio
import shapely
from PIL import Image

from terraprompt.engines.weights import packaged

OUTPUTS = {"-o": "mask.tif", "--probability": "p.tif", "--vector": "v.gpkg", "--picture": "v.png", "--stac": "v.json"}


@pytest.fixture
def inputs(made: Path, tmp_path: Path) -> Path:
    """A folder of rasters and vector files, most of them unusable."""
    return Path(shutil.copytree(made, tmp_path / "inputs"))


@pytest.fixture(scope="module")
def made(town: Any, tmp_path_factory: pytest.TempPathFactory, write_raster: Callable[..., Path]) -> Path:
    folder = tmp_path_factory.mktemp("inputs")
    rgb, place = np.moveaxis(town.truth.rgb, -1, 0), {"crs": town.truth.crs, "transform": town.truth.transform}
    good = write_raster(folder / "good.tif", rgb, **place)
    content = good.read_bytes()
    (folder / "half.tif").write_bytes(content[: len(content) // 2])
    (folder / "stub.tif").write_bytes(content[:100])
    (folder / "text.tif").write_text("not a raster")
    (folder / "empty.tif").write_bytes(b"")
    for table in ("summer", "winter"):  # a container of rasters has no bands of its own
        options = {"driver": "GPKG", "RASTER_TABLE": table, "APPEND_SUBDATASET": "YES"}
        write_raster(folder / "bandless.gpkg", rgb, **place, **options)
    write_raster(folder / "nodata.tif", np.zeros_like(rgb), nodata=0, **place)
    write_raster(folder / "nan.tif", np.full((1, 64, 64), np.nan, np.float32), **place)
    holey = rgb.copy()
    holey[:, :, 150:] = 0
    write_raster(folder / "holey.tif", holey, nodata=0, **place)
    write_raster(folder / "complex.tif", np.ones((1, 64, 64), np.complex64), **place)
    Image.fromarray(town.truth.rgb).save(folder / "photo.png")
    sky = 'LOCAL_CS["Sky",UNIT["degree",0.0174532925199433],AXIS["X",EAST],AXIS["Y",NORTH]]'
    write_raster(folder / "sky.tif", rgb, crs=sky, transform=town.truth.transform)
    (folder / "mosaic.vrt").write_text(_mosaic(good))

    def vector(name: str, shapes: list[Any], **options: Any) -> None:
        wkb = np.array([None if s is None else shapely.to_wkb(s) for s in shapes], object)
        fields = options.pop("fields", {})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that one file has no CRS is intended
            pyogrio.raw.write(
                folder / name, geometry=wkb, field_data=list(fields.values()), fields=list(fields), **options
            )

    house = shapely.Point(town.house.point)
    crs = town.truth.crs
    vector("house.gpkg", [house], geometry_type="Point", crs=crs)
    vector("nowhere.gpkg", [shapely.Point(0, 0)], geometry_type="Point", crs=crs)
    vector("line.gpkg", [shapely.LineString([(0, 0), (1, 1)])], geometry_type="LineString", crs=crs)
    vector("nulls.gpkg", [None, None], geometry_type="Point", crs=crs)
    vector("label.gpkg", [house], geometry_type="Point", crs=crs, fields={"label": np.array([7])})
    vector("placeless.fgb", [house], geometry_type="Point", crs=None)
    (folder / "none.geojson").write_text('{"type": "FeatureCollection", "features": []}')
    (folder / "table.csv").write_text("name,value\na,1\n")
    (folder / "broken.geojson").write_text('{"type": "FeatureColl')
    return folder


def _mosaic(source: Path) -> str:
    with rasterio.open(source) as dataset:
        size = f'rasterXSize="{dataset.width}" rasterYSize="{dataset.height}"'
    band = '<VRTRasterBand dataType="Byte" band="{0}"><SimpleSource><SourceFilename relativeToVRT="1">good.tif'
    band += "</SourceFilename><SourceBand>{0}</SourceBand></SimpleSource></VRTRasterBand>"
    return f"<VRTDataset {size}>{''.join(band.format(i) for i in (1, 2, 3))}</VRTDataset>"


@pytest.fixture
def old(tmp_path: Path) -> Path:
    """A folder with one file under every name that is written to."""
    folder = tmp_path / "outputs"
    folder.mkdir()
    for name in OUTPUTS.values():
        (folder / name).write_bytes(b"precious")
    return folder


def content(*folders: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for folder in folders for path in folder.rglob("*") if path.is_file()}


def to(folder: Path) -> list[object]:
    return [part for option, name in OUTPUTS.items() for part in (option, folder / name)]


SCENES = [
    ("missing.tif", "The scene does not exist. Received: {0}. Check the path."),
    ("half.tif", "damaged or truncated|Received: {0}.|gdalinfo"),
    ("stub.tif", "cannot be opened as a raster|Received: {0}.|gdalinfo"),
    ("text.tif", "cannot be opened as a raster|Received: {0}.|gdalinfo"),
    ("empty.tif", "cannot be opened as a raster|Received: {0}.|gdalinfo"),
    ("bandless.gpkg", "The scene has no bands. Received: {0}. Open one of its subdatasets: |winter"),
    ("nodata.tif", "No pixel of the scene is valid|Received: {0}.|Check its nodata value"),
    ("nan.tif", "No pixel of the scene is valid|Received: {0}.|Check its nodata value"),
    ("complex.tif", "The scene holds complex values. Received: {0}|amplitude"),
]
HERE = "--prompt-crs EPSG:4326"
REQUESTS = [
    ("good.tif", [""], "The instruction is empty. Received: ''. Say what to find"),
    ("good.tif", [" \t"], "The instruction is empty.|Say what to find"),
    ("good.tif", ["--point", "nan,5"], "A point must be finite. Received: (nan, 5.0).|Remove NaN"),
    ("good.tif", ["--point", "5,inf"], "A point must be finite. Received: (5.0, inf).|Remove NaN"),
    ("good.tif", ["--box", "1,2,nan,9"], "A box must be finite. Received: (1.0, 2.0, nan, 9.0).|Remove NaN"),
    ("good.tif", ["--box", "5,5,5,9"], "A box has no area. Received: (5.0, 5.0, 5.0, 9.0).|two opposite corners"),
    ("good.tif", ["--point", "500,5"], "outside the scene. Received: (500.0, 5.0).|x 0 to 224, y 0 to 192 (pixels)"),
    ("good.tif", ["--point", "-1,5"], "outside the scene. Received: (-1.0, 5.0).|x 0 to 224, y 0 to 192 (pixels)"),
    ("good.tif", ["--box", "-9,-9,-1,-1"], "A box lies outside the scene. Received: (-9.0, -9.0|x 0 to 224"),
    ("good.tif", ["--point", "0,0", *HERE.split()], "outside the scene. Received: (0.0, 0.0).|(EPSG:4326)"),
    ("good.tif", ["--point", "500,95", *HERE.split()], "outside the scene. Received: (500.0, 95.0).|(EPSG:4326)"),
    ("good.tif", ["--point", "1,1,0"], "All points are negative|Received: (0,).|Add a point with label 1"),
    ("good.tif", ["--point", "1,1", "--prompt-crs", "EPSG:999999"], "CRS of the prompt is unknown|Name it like EPSG"),
    ("good.tif", ["x", "--task", "interactive"], "An interactive task needs a point or a box.|choose another task"),
    ("good.tif", ["--point", "1,1", "--task", "reasoning"], "A reasoning task needs a text.|choose interactive"),
    ("photo.png", ["--point", "31,-33", *HERE.split()], "the scene has no CRS. Received: EPSG:4326. Give pixel coord"),
    ("photo.png", ["--point", "5,5", "--prompt-crs", "scene"], "The scene has no CRS.|Use pixel coordinates."),
    ("photo.png", ["x", "--bbox", "1,1,9,9", "--bbox-crs", "EPSG:4326"], "no CRS, so its bbox must be in pixels|Leave"),
    (
        "photo.png",
        ["x", "--min-area", "5"],
        "--min-area is in square metres, but the scene's pixels have no known size|Received: 5.0. Use --min-pixels",
    ),
    (
        "sky.tif",
        ["x", "--min-area", "5"],
        "--min-area is in square metres, but|Received: 5.0. Use --min-pixels instead.",
    ),
    ("sky.tif", ["x", "--fill-holes", "5"], "--fill-holes is in square metres, but|Received: 5.0. Leave it out."),
    ("sky.tif", ["buildings over 50 m2"], "A limit in square metres was asked for, but|Leave the limit out."),
    ("holey.tif", ["--box", "190,80,210,100"], "The prompt lies where the scene has no data. Point at valid pixels."),
    (
        "holey.tif",
        ["lakes", "--bbox", "160,9,220,90", "--bbox-crs", "pixel"],
        "No pixel within the extent is valid.|bbox",
    ),
    (
        "good.tif",
        ["x", "--bbox", "1,2,3,4"],
        "The bbox does not overlap the scene. Received: (1.0, 2.0, 3.0, 4.0).|span",
    ),
    (
        "good.tif",
        ["x", "--bbox", "1,2,nan,4"],
        "four finite numbers x0,y0,x1,y1. Received: (1.0, 2.0, nan, 4.0).|spans",
    ),
    ("good.tif", ["x", "--bbox", "1,2,3,4", "--bbox-crs", "nonsense"], "CRS of the bbox is unknown|Name it like EPSG"),
    ("good.tif", ["x", "-b", "9"], "The band index is out of range. Received: 9. Give indexes 1 to 3."),
    ("good.tif", ["x", "-b", "nir"], "no band of this name. Received: nir. Give indexes 1 to 3."),
    ("good.tif", ["x", "-e", "nanno"], 'Unknown engine. Received: nanno. Did you mean "nano"? Engines: geoseg, nano'),
    ("good.tif", ["x", "--weights", "none.safetensors"], "weights file is missing. Received: none.safetensors. Both"),
    ("good.tif", ["x", "--device", "abacus"], "The device cannot be used|Received: abacus. Leave out --device for cpu"),
]
FILES = [
    ("missing.gpkg", "The prompt file is missing. Received: {0}. Check the path."),
    ("broken.geojson", "The prompt file cannot be read. Received: {0}|Give a vector file"),
    ("table.csv", "The prompt file has no geometry. Received: {0}. Give points or boxes"),
    ("none.geojson", "The prompt file|no geometry|Received: {0}|point"),
    ("nulls.gpkg", "The prompt file holds no geometry. Received: {0} with 2 features. Draw at least one"),
    ("line.gpkg", "made of points and areas. Received: LineString in {0}.|draw a box"),
    ("label.gpkg", '"label" is 1 (on the target) or 0 (not on it). Received: 7 in {0}.|Correct the attribute'),
    ("placeless.fgb", "The prompt file has no CRS. Received: {0}. Say it with --prompt-crs"),
    ("nowhere.gpkg", "A point lies outside the scene. Received: (0.0, 0.0). The scene spans"),
]


def refused(done: Any, code: int, words: str, *, frame: str = "Error: ") -> None:
    """The command ended with this code, said these words and nothing on stdout."""
    assert (done.code, done.out) == (code, ""), done
    assert frame in done.said
    assert "Traceback" not in done.err
    for part in words.split("|"):
        assert part in done.said, done.said


@pytest.mark.parametrize(("name", "words"), SCENES, ids=[name for name, _ in SCENES])
def test_an_unusable_scene(run: Callable[..., Any], inputs: Path, old: Path, name: str, words: str) -> None:
    before = content(inputs, old)
    done = run("segment", inputs / name, "the buildings", *to(old), "--overwrite", "--json")
    refused(done, 1, words.format(inputs / name))
    assert content(inputs, old) == before


@pytest.mark.parametrize(("name", "request_", "words"), REQUESTS, ids=[f"{n} {' '.join(r)}" for n, r, _ in REQUESTS])
def test_an_unusable_request(
    run: Callable[..., Any], inputs: Path, old: Path, name: str, request_: list[str], words: str
) -> None:
    before = content(inputs, old)
    refused(run("segment", inputs / name, *request_, *to(old), "--overwrite"), 1, words)
    assert content(inputs, old) == before


@pytest.mark.parametrize(("name", "words"), FILES, ids=[name for name, _ in FILES])
def test_an_unusable_prompt_file(run: Callable[..., Any], inputs: Path, old: Path, name: str, words: str) -> None:
    before = content(inputs, old)
    done = run("segment", inputs / "good.tif", "--prompt-file", inputs / name, *to(old), "--overwrite")
    refused(done, 1, words.format(inputs / name))
    assert content(inputs, old) == before


USAGE = [
    ([], "Say what to find: an INSTRUCTION, --point, --box or --prompt-file."),
    (["--point", "1"], "--point takes 2 or 3 numbers with commas between. Received: 1"),
    (["--point", "1;2"], "--point takes 2 or 3 numbers with commas between. Received: 1;2"),
    (["--point", "1,2,5"], "The label of --point is 1 (on the target) or 0. Received: 1,2,5"),
    (["--point", "1,2,nan"], "The label of --point is 1 (on the target) or 0. Received: 1,2,nan"),
    (["--box", "1,2,3"], "--box takes 4 numbers with commas between. Received: 1,2,3"),
    (["--box", "a,b,c,d"], "--box takes 4 numbers with commas between. Received: a,b,c,d"),
    (["x", "--bbox", "1,2"], "--bbox takes 4 numbers with commas between. Received: 1,2"),
    (["x", "--bbox-crs", "EPSG:4326"], "Give --bbox too."),
    (["x", "--prompt-crs", "EPSG:4326"], "--prompt-crs says what --point and --box are in."),
    (["--point", "1,1", "--prompt-file", "p.gpkg"], "Give --prompt-file, or --point and --box, not both."),
    (["x", "-b", ""], "--bands takes one or three indexes or names with commas between. Received: ''"),
    (["x", "--co", "LZW"], "--co takes KEY=VALUE. Received: LZW"),
    (["x", "--threshold", "1.5"], "--threshold"),
    (["x", "--batch", "0"], "--batch"),
    (["x", "--min-area", "-1"], "--min-area"),
    (["x", "--min-pixels", "0"], "--min-pixels"),
    (["x", "--min-pixels", "2.5"], "--min-pixels"),
    (["x", "--fill-holes", "nan"], "--fill-holes"),
    (["x", "--task", "guessing"], "--task"),
    (["x", "--colour", "red"], "--colour"),
]


@pytest.mark.parametrize(("request_", "words"), USAGE, ids=[" ".join(r) or "nothing" for r, _ in USAGE])
def test_wrong_usage(run: Callable[..., Any], inputs: Path, old: Path, request_: list[str], words: str) -> None:
    before = content(inputs, old)
    done = run("segment", inputs / "good.tif", *request_, *to(old), "--overwrite")
    refused(done, 2, words, frame="Usage: ")
    assert content(inputs, old) == before


# Outputs


@pytest.mark.parametrize("option", OUTPUTS)
def test_an_output_that_is_there_stays(
    run: Callable[..., Any], inputs: Path, old: Path, option: str, tmp_path: Path
) -> None:
    before = content(inputs, old)
    path = old / OUTPUTS[option]
    done = run("segment", inputs / "good.tif", "the buildings", option, path, "-o", tmp_path / "new.tif", option, path)
    refused(
        done, 1, f"The output is already there. Received: {path}. Allow it with --overwrite, or choose another name."
    )
    assert content(inputs, old) == before
    assert not (tmp_path / "new.tif").exists()


@pytest.mark.parametrize(
    ("option", "name", "words"),
    [
        ("-o", "m.gpkg", "format of a mask file is told by its extension|m.gpkg. Use .tif"),
        ("--vector", "v.dxf", "format of a vector file is told by its extension|v.dxf. Use .gpkg, .geojson"),
        ("--vector", "v", "format of a vector file is told by its extension|Use .gpkg"),
        ("--picture", "p.svg", "format of a picture file is told by its extension|p.svg. Use .png"),
        ("--stac", "item.yaml", "format of a json file is told by its extension|item.yaml. Use .json"),
        ("--probability", "p.png", "A PNG cannot hold probabilities.|p.png. Use .tif."),
        ("-o", "nowhere/m.tif", "The folder of the output does not exist.|nowhere. Create it first."),
        ("-o", "folder.tif", "The output is a folder.|folder.tif. Give the name of a file."),
    ],
)
def test_an_output_that_cannot_be(
    run: Callable[..., Any], inputs: Path, old: Path, option: str, name: str, words: str
) -> None:
    (old / "folder.tif").mkdir()
    before = content(inputs, old)
    refused(run("segment", inputs / "good.tif", "the buildings", option, old / name, "--overwrite"), 1, words)
    assert content(inputs, old) == before


@pytest.mark.parametrize(
    ("scene", "output"), [("good.tif", "good.tif"), ("good.tif", "link.tif"), ("mosaic.vrt", "good.tif")]
)
def test_the_scene_is_never_overwritten(run: Callable[..., Any], inputs: Path, scene: str, output: str) -> None:
    (inputs / "link.tif").symlink_to(inputs / "good.tif")
    before = content(inputs)
    done = run("segment", inputs / scene, "the buildings", "-o", inputs / output, "--overwrite")
    refused(done, 1, f"The output is also an input. Received: {inputs / output}. Choose another name")
    assert content(inputs) == before


def test_the_prompt_file_is_never_overwritten(run: Callable[..., Any], inputs: Path) -> None:
    before = content(inputs)
    path = inputs / "house.gpkg"
    done = run("segment", inputs / "good.tif", "--prompt-file", path, "--vector", path, "--overwrite")
    refused(done, 1, f"The output is also an input. Received: {path}.")
    assert content(inputs) == before


def test_two_outputs_need_two_names(run: Callable[..., Any], inputs: Path, old: Path) -> None:
    before = content(old)
    path = old / "mask.tif"
    done = run("segment", inputs / "good.tif", "the buildings", "-o", path, "--probability", path, "--overwrite")
    refused(done, 2, f"The mask and the probability would go to one file. Received: {path}", frame="Usage: ")
    assert content(old) == before


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(run: Callable[..., Any], inputs: Path, old: Path) -> None:
    old.chmod(0o500)
    try:
        done = run("segment", inputs / "good.tif", "the buildings", *to(old), "--overwrite")
        refused(done, 1, f"Permission denied|Received: {old / 'mask.tif'}.|Choose a folder you may write to.")
        assert set(content(old).values()) == {b"precious"}
    finally:
        old.chmod(0o700)


def test_a_read_only_folder_is_told_before_any_work(
    run: Callable[..., Any], inputs: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read_only(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(
        "terraprompt.engines.registry.load_engine", lambda *_, **__: pytest.fail("the model was loaded")
    )
    done = run("segment", inputs / "good.tif", "the buildings", *to(old), "--overwrite")
    refused(done, 1, f"Received: {old / 'mask.tif'}.|Choose a folder you may write to.|untouched")
    assert set(content(old).values()) == {b"precious"}


@pytest.mark.parametrize("option", [*OUTPUTS, "work"])
def test_a_full_disk_leaves_the_old_file(
    run: Callable[..., Any], inputs: Path, old: Path, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A limit on the size of files, set when writing begins, acts as a full disk does."""
    from terraprompt.cli import segment as verb
    from terraprompt.flow.session import Session
    from terraprompt.outputs import Result

    was = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(call: Callable[..., Any]) -> Callable[..., Any]:
        def inner(*arguments: Any, **options: Any) -> Any:
            resource.setrlimit(resource.RLIMIT_FSIZE, (300, was[1]))
            try:
                return call(*arguments, **options)
            finally:
                resource.setrlimit(resource.RLIMIT_FSIZE, was)

        return inner

    if option == "work":
        monkeypatch.setattr(Session, "segment_all", limited(Session.segment_all))
        outputs = to(old)
    else:
        monkeypatch.setattr(verb, "_save", limited(verb._save))
        outputs = [option, old / OUTPUTS[option]]
        if option == "--stac":  # an item alone: without the mask and the polygons that would come by default
            monkeypatch.setattr(Result, "save_picture", lambda *_, **__: None)
            outputs += ["--picture", old / "v.png"]
    done = run("segment", inputs / "good.tif", "the buildings", *outputs, "--overwrite")
    refused(done, 1, "Writing failed|Received: |What was there before is untouched.")
    assert content(old) == {old / name: b"precious" for name in OUTPUTS.values()}


# Weights


def _copy(folder: Path) -> Path:
    for ending in (".safetensors", ".json"):
        shutil.copy(packaged("nano").with_suffix(ending), folder / f"mine{ending}")
    return folder / "mine.safetensors"


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1000] ^= 1
    path.write_bytes(data)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1000])


def _cut_and_signed(path: Path) -> None:
    import hashlib

    _cut(path)
    card = path.with_suffix(".json")
    card.write_text(
        json.dumps(json.loads(card.read_text()) | {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()})
    )


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (_flip, "The weights are damaged or were changed.|mine.safetensors with sha256 |Expected |again"),
        (_cut, "The weights are damaged or were changed.|mine.safetensors with sha256 |Expected |again"),
        (_cut_and_signed, "The weights cannot be read.|mine.safetensors"),
        (lambda p: p.with_suffix(".json").unlink(), "A weights file is missing.|mine.json. Both"),
        (lambda p: p.with_suffix(".json").write_text("{"), "The weights' card is damaged.|mine.json|again"),
        (lambda p: p.with_suffix(".json").write_text("[1]"), "The weights' card is damaged.|mine.json|again"),
        (lambda p: p.with_suffix(".json").write_bytes(b"\xff\xfe{"), "The weights' card is damaged.|mine.json|again"),
    ],
    ids=["flipped bit", "truncated", "truncated, right checksum", "no card", "half a card", "other card", "no text"],
)
def test_damaged_weights(
    run: Callable[..., Any],
    inputs: Path,
    old: Path,
    tmp_path: Path,
    damage: Callable[[Path], Any],
    words: str,
) -> None:
    weights = _copy(tmp_path)
    damage(weights)
    before = content(inputs, old)
    done = run("segment", inputs / "good.tif", "the buildings", "--weights", weights, *to(old), "--overwrite")
    refused(done, 1, words)
    assert content(inputs, old) == before


# Ctrl-C


def test_ctrl_c_while_writing(
    run: Callable[..., Any], inputs: Path, old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    done = run("segment", inputs / "good.tif", "the buildings", *to(old), "--overwrite")
    refused(done, 130, "Interrupted; no file was left half written.", frame="")
    assert content(old) == {old / name: b"precious" for name in OUTPUTS.values()}


ENDS = {signal.SIGINT: (130, "Interrupted"), signal.SIGTERM: (143, "Terminated"), signal.SIGHUP: (129, "Hung up")}


@pytest.mark.parametrize("number", ENDS)
def test_a_signal_while_looking(
    town: Any, old: Path, tmp_path: Path, write_raster: Callable[..., Path], number: int
) -> None:
    big = write_raster(tmp_path / "big.tif", np.tile(np.moveaxis(town.truth.rgb, -1, 0), (1, 7, 6)))
    work = tmp_path / "work"
    work.mkdir()
    command = [sys.executable, "-m", "terraprompt", "segment", str(big), "the buildings", *map(str, to(old))]
    process = subprocess.Popen(
        [*command, "--overwrite"],
        env=os.environ | {"TMPDIR": str(work)},
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )
    while not any(work.glob("terraprompt-*/*")) and process.poll() is None:
        time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate()
    code, word = ENDS[number]
    assert (process.returncode, err) == (code, f"{word}; no file was left half written.\n")
    assert list(work.glob("terraprompt-*")) == []
    assert content(old) == {old / name: b"precious" for name in OUTPUTS.values()}


IMPORTING = """
import os, sys

class Signalling:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), int(sys.argv[2]))

sys.meta_path.insert(0, Signalling())
from terraprompt.cli import main

main(sys.argv[3:])
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [
        ("typer", signal.SIGINT),
        ("numpy", signal.SIGTERM),
        ("rasterio._base", signal.SIGINT),
        ("scipy.special", signal.SIGHUP),
        ("onnxruntime", signal.SIGINT),
    ],
)
def test_a_signal_during_imports_is_silent(inputs: Path, tmp_path: Path, module: str, number: int) -> None:
    arguments = ["segment", str(inputs / "good.tif"), "the buildings", "-o", str(tmp_path / "m.tif")]
    done = subprocess.run(
        [sys.executable, "-c", IMPORTING, module, str(int(number)), *arguments],
        env=os.environ | {"TMPDIR": str(tmp_path)},  # what other killed runs left is not spoken of
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    code, word = ENDS[number]
    assert (done.returncode, done.stdout, done.stderr) == (code, "", f"{word}; no file was left half written.\n")
    assert not (tmp_path / "m.tif").exists()


def test_what_killed_runs_left_is_offered_and_removed(
    run: Callable[..., Any], inputs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from terraprompt.io.leftovers import owner

    if not (dead := os.fork()):
        os._exit(0)
    os.waitpid(dead, 0)
    monkeypatch.chdir(tmp_path)
    (out := tmp_path / "out").mkdir()
    (left := out / f".tmp-{owner().partition('-')[0]}-{dead}-0-m.tif").write_bytes(bytes(2_000_000))
    (used := out / f".tmp-{owner()}-0-m.tif").write_bytes(b"in use")
    done = run("segment", inputs / "good.tif", "the buildings", "-o", out / "m.tif")
    assert f"killed left {left} (2.0 MB). Remove with: terraprompt clean --remove {out}" in done.said
    listed = run("clean", out)
    assert (listed.code, listed.out, left.exists()) == (0, f"{left} (2.0 MB)\n", True)
    assert "1 leftover, 2.0 MB. Remove with --remove." in listed.said
    assert run("clean", "--remove", out).out == f"{left} (2.0 MB)\n"
    assert (left.exists(), used.exists()) == (False, True)
    assert "0 leftovers" in run("clean", out).said
