"""Nothing half-written, nothing lost."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyogrio
import pytest
import rasterio

from terraprompt.errors import OutputError
from terraprompt.outputs import Result, check_target, save_stac

Paint = Callable[..., Result]
Save = Callable[..., Path]

NAMES = ["m.tif", "m.png", "v.gpkg", "v.geojson", "v.fgb", "v.parquet", "p.jpg", "s.json"]


def save(result: Result, path: Path, overwrite: bool = False) -> Path:
    if path.name == "s.json":
        return save_stac(result, path, {"mask": "m.tif"}, overwrite=overwrite)
    if path.suffix in (".tif", ".png"):
        return result.save_mask(path, overwrite=overwrite)
    if path.suffix == ".jpg":
        return result.save_picture(path, overwrite=overwrite)
    return result.save_vector(path, overwrite=overwrite)


@pytest.fixture
def result(paint: Paint, squares: np.ndarray) -> Result:
    return paint(squares)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out"


@pytest.mark.parametrize("name", NAMES)
def test_an_existing_file_stays_unless_it_may_go(result: Result, folder: Path, name: str) -> None:
    path = folder / name
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match=r"already there.*--overwrite"):
        save(result, path)
    assert path.read_bytes() == b"precious"
    (folder / (name + ".aux.xml")).write_text("statistics of the old file")
    save(result, path, overwrite=True)
    assert path.read_bytes() != b"precious"
    assert [p.name for p in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_a_failed_rename_leaves_the_old_file_alone(
    result: Result, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / name
    path.write_bytes(b"precious")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(OutputError, match="disk is full"):
        save(result, path, overwrite=True)
    assert path.read_bytes() == b"precious"
    assert [p.name for p in folder.iterdir()] == [name]


@pytest.mark.parametrize("name", NAMES)
def test_ctrl_c_leaves_no_half_file(result: Result, folder: Path, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        save(result, folder / name)
    assert list(folder.iterdir()) == []


LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from rasterio import Affine
from terraprompt.errors import OutputError
from terraprompt.outputs import MaskWriter

folder, names = Path(sys.argv[1]), sys.argv[2:]
rng = np.random.default_rng(0)
logits = np.where(rng.random((400, 400)) < 0.4, 3, -3).astype(np.float32)
logits += rng.normal(0, 0.5, logits.shape).astype(np.float32)
limit = lambda size: resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
place = {"crs": "EPSG:32631", "transform": Affine(1, 0, 5e5, 0, -1, 5e6)}

def write(work, size):
    with MaskWriter.create(work, 400, 400, **place) as writer:
        limit(size)
        writer.write_band(0, logits, np.ones(logits.shape, bool))
        return writer.finish({"instruction": "specks"}, min_pixels=1)

def attempt(name, do):
    try:
        do()
    except OutputError as error:
        print(name, "OutputError", error)
    finally:
        limit(resource.RLIM_INFINITY)

attempt("work", lambda: write(folder, 8_000))
with write(folder, resource.RLIM_INFINITY) as result:
    for name in names:
        path = folder / name / name
        limit(8_000)
        if name.startswith("v"):
            attempt(name, lambda: result.save_vector(path, overwrite=True))
        else:
            attempt(name, lambda: result.save_mask(path, probability=name == "p.tif", overwrite=True))
"""


SAVED = ("m.tif", "p.tif", "m.png", "v.gpkg", "v.geojson", "v.fgb", "v.parquet")


@pytest.fixture(scope="module")
def full_disk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder in which no file could grow beyond 8,000 bytes, with a folder for each name; and what was printed."""
    folder = tmp_path_factory.mktemp("full")
    for name in SAVED:
        (folder / name).mkdir()
        (folder / name / name).write_bytes(b"precious")
    command = [sys.executable, "-c", LIMITED, str(folder), *SAVED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return folder, done.stdout + done.stderr


@pytest.mark.parametrize("name", ["work", *SAVED])
def test_a_full_disk_is_an_error_and_the_old_file_stays(full_disk: tuple[Path, str], name: str) -> None:
    folder, printed = full_disk
    assert f"{name} OutputError" in printed, printed
    if name != "work":
        assert (folder / name / name).read_bytes() == b"precious"
        assert [p.name for p in (folder / name).iterdir()] == [name]
    assert [p.name for p in folder.iterdir() if p.name.startswith("terraprompt-")] == []


def test_the_target_is_checked_before_the_work(tmp_path: Path) -> None:
    assert check_target(tmp_path / "m.tif") == tmp_path / "m.tif"
    with pytest.raises(OutputError, match=r"extension.*\.gpkg"):
        check_target(tmp_path / "m.docx")
    with pytest.raises(OutputError, match=r"\.tif"):
        check_target(tmp_path / "m.gpkg", kind="mask")
    with pytest.raises(OutputError, match="folder of the output does not exist"):
        check_target(tmp_path / "nowhere" / "m.tif")
    (tmp_path / "file").write_text("not a folder")
    with pytest.raises(OutputError):
        check_target(tmp_path / "file" / "m.tif")
    (tmp_path / "folder.tif").mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        check_target(tmp_path / "folder.tif", True)
    (tmp_path / "m.tif").write_text("")
    with pytest.raises(OutputError, match="already there"):
        check_target(tmp_path / "m.tif")
    check_target(tmp_path / "m.tif", True)


def test_an_unwritable_folder_is_told_early(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    monkeypatch.setattr("tempfile.TemporaryFile", refused)
    with pytest.raises(OutputError, match="may write to"):
        check_target(tmp_path / "m.tif")


@pytest.mark.skipif(not Path("/proc/sys").is_dir(), reason="needs a folder nobody can write to")
def test_a_folder_nobody_can_write_to(result: Result) -> None:
    with pytest.raises(OutputError):
        result.save_mask("/proc/sys/m.tif")


def test_a_link_is_followed(result: Result, folder: Path, tmp_path: Path) -> None:
    target = tmp_path / "elsewhere.tif"
    target.write_bytes(b"old")
    (folder / "m.tif").symlink_to(target)
    result.save_mask(folder / "m.tif", overwrite=True)
    assert (folder / "m.tif").is_symlink()
    with rasterio.open(target) as file:
        assert file.count == 1


def test_a_stale_journal_goes_with_the_old_geopackage(result: Result, folder: Path) -> None:
    (folder / "v.gpkg").write_bytes(b"old")
    (folder / "v.gpkg-wal").write_bytes(b"changes to the old file")
    path = result.save_vector(folder / "v.gpkg", overwrite=True)
    assert pyogrio.read_info(path)["features"] == 2
    assert [p.name for p in folder.iterdir()] == ["v.gpkg"]
